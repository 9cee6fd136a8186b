"""A kernel whose threads never wait for each other runs them as a plain loop, without a stack for each."""

import numpy as np
import pytest

from dcnlab.launch import KernelFault, module

pytestmark = pytest.mark.usefixtures("compiler")

# DCNLAB_PLAIN: the build allows the loop; control.plain: this launch uses it.
PROBE = r"""
#ifdef DCNLAB_PLAIN
constexpr int allowed = 1;
#else
constexpr int allowed = 0;
#endif
// %s
extern "C" __global__ void probe(int* plain, int* next, int* order) {
    const int i = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    %s
    plain[2 * i] = allowed;
    plain[2 * i + 1] = ::dcnlab_cpu::control.plain;
    order[i] = (*next)++;
}
"""
HIDDEN = r"""
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define BARRIER() JOIN(__syn, cthreads)()
#define SHUFFLE(x) JOIN(__sh, fl_xor_sync)(0xffffffffu, x, 1)
extern "C" __global__ void barrier(float* y) {
    __shared__ float s[64];
    s[threadIdx.x] = y[threadIdx.x];
    BARRIER();
    y[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void shuffle(float* y) {
    y[threadIdx.x] = SHUFFLE(y[threadIdx.x]);
}
extern "C" __global__ void neither(float* y) { y[threadIdx.x] += 1; }
"""


def probe(comment="", statement="", **options):
    """What each of 3 x 2 x 2 threads sees: (build allows the loop, launch is one), and the order in which they ran."""
    plain, order = np.full((12, 2), -1, np.int32), np.full(12, -1, np.int32)
    kernel = module(PROBE % (comment, statement), target="cpu", **options)["probe"]
    kernel[1, (3, 2, 2)](plain, np.zeros(1, np.int32), order)
    assert (plain == plain[0]).all()
    return plain[0].tolist(), order.tolist()


def test_a_kernel_that_names_no_barrier_is_a_plain_loop():
    assert probe() == ([1, 1], list(range(12)))


def test_a_barrier_in_a_comment_is_none():
    assert probe(comment="__syncthreads()")[0] == [1, 1]


@pytest.mark.parametrize(
    "statement",
    ["__syncthreads();", "__syncwarp(0xfff);", "__any_sync(0xfff, 1);", "__shfl_sync(0xfff, i, 0);", "__activemask();"],
)
def test_a_kernel_whose_threads_wait_is_none(statement):
    assert probe(statement=statement)[0] == [0, 0]


@pytest.mark.parametrize("order", ["backward", 1, 2])
def test_threads_start_in_the_order_that_is_asked_for(order):
    seen, found = probe(thread_order=order)
    assert seen == [1, 0]
    assert sorted(found) == list(range(12))
    assert found != list(range(12))
    if order == "backward":
        assert found == list(range(12))[::-1]


@pytest.mark.parametrize(("mode", "launched"), [("check", 0), ("ubsan", 1)])
def test_check_mode_watches_the_threads_one_by_one(mode, launched):
    one_thread = module(PROBE % ("", ""), target="cpu", mode=mode)["probe"]
    plain, order = np.full((1, 2), -1, np.int32), np.full(1, -1, np.int32)
    one_thread[1, 1](plain, np.zeros(1, np.int32), order)
    assert plain.tolist() == [[1, launched]]


@pytest.mark.parametrize("name", ["barrier", "shuffle"])
def test_a_barrier_that_a_macro_pastes_together_is_refused(name):
    kernels = module(HIDDEN, target="cpu")
    y = np.arange(64, dtype=np.float32)
    line = 1 + next(i for i, text in enumerate(HIDDEN.splitlines()) if f"{name.upper()}(" in text and "#" not in text)
    for _ in range(2):  # the workers are none the worse for it
        with pytest.raises(KernelFault, match="hides in a macro; write its whole name in the source") as caught:
            kernels[name][1, 64](y)
        assert (caught.value.kind, caught.value.file, caught.value.line) == ("unsupported", "kernel.cu", line)
        kernels["neither"][1, 64](y)
    with pytest.raises(KernelFault, match="hides in a macro"):
        kernels[name][5, 64](y)


def test_named_anywhere_it_is_known():
    """As the message says: the whole name in the source, be it in a declaration, makes the kernel none of a loop."""
    source = HIDDEN + "\n__device__ void known() { __syncthreads(); }\n"
    y = np.arange(64, dtype=np.float32)
    kernels = module(source, target="cpu")
    kernels["barrier"][1, 64](y)
    assert y.tolist() == list(range(64))[::-1]
    kernels["shuffle"][1, 64](y)
    assert y.tolist() == [float(63 - (i ^ 1)) for i in range(64)]
