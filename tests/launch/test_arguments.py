"""Every refusal names the argument, says what was expected and what came, in one line."""

import ctypes
import re

import numpy as np
import pytest

from dcnlab.launch import module

SOURCE = r"""
struct Pair { int a; double b; };
template <typename T>
__global__ void fill(const float* __restrict__ source, T* target, int count, T factor, Pair pair, float4* quads) {
    if (threadIdx.x < count) target[threadIdx.x] = factor * T(source[threadIdx.x]) + T(pair.a) + T(pair.b);
    if (quads && threadIdx.x == 0) quads[0].w = 5.0f;
}
"""
SOURCE_IS = "source (const float* __restrict__)"
PAIR = np.dtype([("a", np.int32), ("b", np.float64)], align=True)


class Pair(ctypes.Structure):
    _fields_ = (("a", ctypes.c_int), ("b", ctypes.c_double))


@pytest.fixture(scope="module")
def kernel(compiler):
    return module(SOURCE, ["fill<double>"], target="cpu")["fill<double>"]


def arguments(**changed):
    usual = {
        "source": np.arange(4, dtype=np.float32),
        "target": np.zeros(4),
        "count": 4,
        "factor": 0.5,
        "pair": np.array((1, 0.25), PAIR),
        "quads": np.zeros(4, np.float32),
    }
    return list((usual | changed).values())


def test_the_usual_call(kernel):
    values = arguments()
    assert kernel[1, 32](*values) is None
    assert values[1].tolist() == [1.25, 1.75, 2.25, 2.75]
    assert values[5].tolist() == [0, 0, 0, 5]


@pytest.mark.parametrize(
    "changed",
    [
        {"count": np.int32(4)},
        {"factor": np.float64(0.5)},
        {"pair": Pair(1, 0.25)},
        {"pair": np.array([(1, 0.25)], PAIR)[0]},
        {"quads": None},
        {"quads": np.zeros((2, 4), np.float32)},
    ],
)
def test_other_forms_of_the_same(kernel, changed):
    values = arguments(**changed)
    kernel[1, 32](*values)
    assert values[1].tolist() == [1.25, 1.75, 2.25, 2.75]


def not_aligned_to_16():
    whole = np.zeros(16, np.float32)
    start = (-whole.ctypes.data % 16) // 4 + 1
    return whole[start : start + 4]


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"count": 4.0}, TypeError, "count (int) must be int32, got float 4.0"),
        ({"count": np.int64(4)}, TypeError, "count (int) must be int32, got int64 4"),
        ({"count": True}, TypeError, "count (int) must be int32, got bool True"),
        ({"count": 2**31}, ValueError, "count (int) must be between -2147483648 and 2147483647, got 2147483648"),
        ({"count": np.zeros(4, np.int32)}, TypeError, "count (int) must be int32, got ndarray"),
        ({"factor": 1}, TypeError, "factor (double) must be float64, got int 1"),
        ({"factor": np.float32(1)}, TypeError, "factor (double) must be float64, got float32 1.0"),
        ({"pair": 3}, TypeError, "pair (Pair) is passed by value"),
        ({"pair": np.array((1, 2), "i4,i4")}, TypeError, "pair (Pair) must have 16 bytes"),
        ({"source": np.zeros(4)}, TypeError, SOURCE_IS + " must be an array of float32, got float64"),
        ({"source": [1.0]}, TypeError, SOURCE_IS + " must be a NumPy array for target='cpu', got list"),
        ({"source": np.zeros(8, np.float32)[::2]}, ValueError, SOURCE_IS + " must be C-contiguous"),
        ({"target": read_only(np.zeros(4))}, ValueError, "target (double*) must be writable, got a read-only array"),
        ({"quads": np.zeros(6, np.float32)}, ValueError, "quads (float4*) must have a multiple of 4 elements, got 6"),
        ({"quads": not_aligned_to_16()}, ValueError, "quads (float4*) must be aligned to 16 bytes"),
    ],
)  # fmt: skip
def test_refusals(kernel, changed, error, said):
    with pytest.raises(error, match=re.escape("fill<double>: " + said)) as caught:
        kernel[1, 32](*arguments(**changed))
    assert "\n" not in str(caught.value)


def test_a_read_only_array_may_be_read(kernel):
    kernel[1, 32](*arguments(source=read_only(np.zeros(4, np.float32))))


def test_a_wrong_number_of_arguments_lists_the_names(kernel):
    said = "fill<double> takes 6 arguments (source, target, count, factor, pair, quads), got 2"
    with pytest.raises(TypeError, match=re.escape(said)):
        kernel[1, 32](1, 2)


@pytest.mark.parametrize(
    ("configuration", "error", "said"),
    [
        ((0, 32), ValueError, "grid must be between"),
        ((1, 0), ValueError, "block must be between"),
        ((1, (64, 32)), ValueError, "block must have at most 1024 threads, got 64*32*1 = 2048"),
        ((1.5, 32), TypeError, "grid must be an int or a tuple"),
        (((1, 2, 3, 4), 32), TypeError, "grid must be an int or a tuple"),
        ((1, 32, -1), ValueError, "dynamic shared memory must be between 0 and"),
        ((1, 32, 1 << 20), ValueError, "dynamic shared memory must be between 0 and"),
        ((1, 32, "8"), TypeError, "dynamic shared memory must be a number of bytes"),
        (1, TypeError, "launch as kernel[grid, block]"),
    ],
)
def test_refused_configurations(kernel, configuration, error, said):
    with pytest.raises(error, match=re.escape(said)):
        kernel[configuration]


def test_a_stream_is_for_a_gpu(kernel):
    with pytest.raises(ValueError, match="a stream is for target='cuda'"):
        kernel[1, 32, 0, object()](*arguments())


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        ({"target": "tpu"}, ValueError, "target must be one of cuda, cpu, got 'tpu'"),
        ({"target": "cpu", "mode": "slow"}, ValueError, "mode must be one of fast, check, ubsan, got 'slow'"),
        ({"target": "cpu", "name_expressions": "fill"}, TypeError, "name_expressions must be a list"),
        (
            {"target": "cpu", "name_expressions": ["drop<int>"]},
            ValueError,
            "no __global__ void drop(...), it has: fill",
        ),
        ({"target": "cpu"}, ValueError, "has only templates (fill): name the instances"),
        ({"target": "cpu", "thread_order": "random"}, ValueError, "thread_order must be"),
    ],
)
def test_refused_modules(call, error, said):
    with pytest.raises(error, match=re.escape(said)):
        module(SOURCE, **call)


def test_a_kernel_that_was_not_compiled(kernel, compiler):
    compiled = module(SOURCE + 'extern "C" __global__ void g() {}', ["g"], target="cpu")
    with pytest.raises(KeyError, match="add the instance you want to name_expressions"):
        compiled["fill"]
    with pytest.raises(KeyError, match="has no kernel 'h', it has: fill, g"):
        compiled["h"]
    assert list(compiled) == ["g"]


def test_no_kernel_at_all():
    with pytest.raises(ValueError, match="has no __global__ function"):
        module("int f();\n", target="cpu")
