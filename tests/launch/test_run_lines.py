"""The `// run:` comments of a .cu file: what they mean, and what is said about those that mean nothing."""

import numpy as np
import pytest

from dcnlab.launch.run_lines import MOST_BYTES, example, instance, run_lines
from dcnlab.launch.signature import find_kernels

SOURCE = """
template <typename T, int WIDTH>
__global__ void f(const T* x, T* __restrict__ y, const int* index, int n, T a, bool on, unsigned long long big) {}
"""
SIGNATURE = find_kernels(SOURCE)["f"]
REST = "on=true, big=0xffu"


def values(arguments, name="f<float, 4>"):
    (line,) = run_lines(f"// run: {name}<<<2, 64>>>({arguments})\n", "a.cu")
    return line.values(SIGNATURE.instantiate(name))


def test_a_launch_in_full():
    text = "code\n  // run:  f<float, 4> <<< (2, 3), dim3(8, 4, 2), 1024 >>> (float[4], n = 3);\n// run: g<<<1, 32>>>()"
    first, second = run_lines(text, "a.cu")
    assert (first.place, first.name, first.arguments) == ("a.cu:2", "f<float, 4>", ("float[4]", "n = 3"))
    assert (first.grid, first.block, first.shared) == ((2, 3, 1), (8, 4, 2), 1024)
    assert (second.place, second.grid, second.block, second.shared) == ("a.cu:3", (1, 1, 1), (32, 1, 1), 0)
    assert second.arguments == ()


def test_a_line_goes_on_while_its_brackets_are_open():
    text = "// run: f<<<1, 1>>>(x=float[2,\n//      3],\n//   n=1)\n// and this is prose"
    (line,) = run_lines(text, "a.cu")
    assert line.arguments == ("x=float[2, 3]", "n=1")
    with pytest.raises(ValueError, match=r"a\.cu:1: a run line reads"):
        run_lines("// run: f<<<1, 1>>>(x=float[2],\nint x;", "a.cu")


def test_arguments_in_order_and_by_name():
    in_order = values("float[2, 3], float[6]=zeros, int[4]=arange, 7, 2.5f, false, 1ull")
    named = values("float[2, 3], y=float[6]=zeros, n=7, index=int[4]=arange, big=1ull, a=2.5f, on=false")
    for found in (in_order, named):
        x, y, index, n, a, on, big = found
        assert (x.dtype, x.size) == (np.float32, 6)
        assert np.array_equal(y, np.zeros(6, np.float32))
        assert np.array_equal(index, np.arange(4, dtype=np.int32))
        assert [(v.dtype.name, v.item()) for v in (n, a, on, big)] == [
            ("int32", 7),
            ("float32", 2.5),
            ("bool", False),
            ("uint64", 1),
        ]
    assert np.array_equal(in_order[0], named[0])


def test_contents_are_seeded_and_fresh_for_every_launch():
    line = run_lines("// run: f<float, 4><<<1, 1>>>(float[9], float[9], int[99], 1, 1, true, 1)", "a.cu")[0]
    first, second = (line.values(SIGNATURE.instantiate(line.name)) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert not np.shares_memory(first[0], second[0])
    assert not np.array_equal(first[0], first[1]), "two arrays are not the same numbers"
    assert set(first[2]) == set(range(10))


@pytest.mark.parametrize(
    ("content", "check"),
    [
        ("=random(-2, 3)", lambda v: set(v) == {-2, -1, 0, 1, 2}),
        ("=7", lambda v: (v == 7).all()),
        ("=-1", lambda v: (v == -1).all()),
        (" = zeros", lambda v: (v == 0).all()),
    ],
)
def test_contents(content, check):
    index = values(f"nullptr, float[0], index=int[10][10]{content}".replace("][", ", ") + f", n=1, a=nan, {REST}")[2]
    assert index.size == 100
    assert check(index)


def test_other_types():
    x, y, *_, a, _, _ = values(f"half[8]=random(0, 1), __half[8]=nan, nullptr, 1, 0.1f, {REST}", "f<__half, 4>")
    assert x.dtype == a.dtype == np.float16
    assert ((x >= 0) & (x <= 1)).all()
    assert np.isnan(y).all()
    assert values(f"float4[8], float[3], nullptr, 1, inf, {REST}", "f<float, 4>")[0].size == 32
    assert values(f"nullptr, nullptr, nullptr, 1, 2, {REST}")[0] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("n=1", "no value for x, y, index, a, on, big"),
        ("x=nullptr, z=1", "there is no parameter 'z', only x, y, index, n, a, on, big"),
        ("nullptr, x=nullptr", "x is given twice"),
        ("n=1, nullptr", "'nullptr' must be name=value: it follows one by name"),
        ("1, 1, 1, 1, 1, 1, 1, 1", "there are 7 parameters (x, y, index, n, a, on, big), got 8 arguments"),
        (
            f"3, nullptr, nullptr, 1, 1, {REST}",
            "x (const float*) must be an array such as float[512]=zeros, or nullptr",
        ),
        (f"int[3], nullptr, nullptr, 1, 1, {REST}", "x (const float*) must be an array of float, got 'int[3]'"),
        (f"float[-3], nullptr, nullptr, 1, 1, {REST}", "x (const float*) must have a shape such as [4, 128]"),
        (f"float[9999999], nullptr, nullptr, 1, 1, {REST}", f"must have at most {MOST_BYTES} bytes, got 39999996"),
        (f"float[3]=ones, nullptr, nullptr, 1, 1, {REST}", "=zeros, =arange, =random(low, high) or the number"),
        (f"float[3]=random(2, 1), nullptr, nullptr, 1, 1, {REST}", "must be =random(low, high) with low < high"),
        (f"nullptr, nullptr, int[3]=9999999999, 1, 1, {REST}", "9999999999 out of bounds for int32"),
        (f"nullptr, nullptr, nullptr, 1.5, 1, {REST}", "n (int) must be int32, got float 1.5"),
        (f"nullptr, nullptr, nullptr, 3000000000, 1, {REST}", "n (int) must be between -2147483648 and 2147483647"),
        (f"nullptr, nullptr, nullptr, m, 1, {REST}", "n (int) must be a number such as 512 or 2.0f, got 'm'"),
        ("nullptr, nullptr, nullptr, 1, 1, 3, 1", "on (bool) must be bool, got int 3"),
    ],
)
def test_mistakes_are_one_line_that_begins_with_the_place(arguments, message):
    with pytest.raises(ValueError, match=r"^a\.cu:1: ") as caught:
        values(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("f", "a run line reads"),
        ("f<<<1, 1>>>", "a run line reads"),
        ("f<<<1, 1, 1, 1>>>()", "a run line reads"),
        ("f<<<n, 1>>>()", "grid, block and shared bytes must be numbers such as 4 or (4, 2), got 'n'"),
        ("f<<<0, 1>>>()", "grid must be between"),
        ("f<<<1, 2048>>>()", "block must"),
        ("f<<<1, (64, 32)>>>()", "block must have at most 1024 threads"),
        ("f<<<1, 1, 999999>>>()", "dynamic shared memory must be between 0 and"),
        ("f<<<1, 1, (1, 2)>>>()", "dynamic shared memory must be a number of bytes"),
    ],
)
def test_launches_that_cannot_be(written, message):
    with pytest.raises(ValueError, match=r"^a\.cu:2: ") as caught:
        run_lines(f"\n// run: {written}", "a.cu")
    assert message in str(caught.value)


def test_structs_are_for_scripts():
    parameters = find_kernels("__global__ void g(Shape s, float4 v) {}")["g"].instantiate("g")
    for arguments in ("1, 1", "s=2, v=1"):
        with pytest.raises(ValueError, match="is a struct, which a run line cannot make: launch the kernel from a"):
            run_lines(f"// run: g<<<1, 1>>>({arguments})", "a.cu")[0].values(parameters)


def test_the_example_is_a_line_that_can_be_read():
    text = """template <typename T, int W, bool ON, class A = T>
    __global__ void k(const T* x, Scattered<A> y, unsigned n, bool on, const float4* q, __half h, A a) {}"""
    signature = find_kernels(text)["k"]
    assert instance(signature) == "k<float, 4, true>"
    line = example(signature)
    assert line == (
        "// run: k<float, 4, true><<<4, 128>>>(x=float[512], y=float[512]=zeros, n=512, on=true, q=float4[512], "
        "h=2.0f, a=2.0f)"
    )
    assert len(run_lines(line, "a.cu")[0].values(signature.instantiate(instance(signature)))) == 7
    assert example(find_kernels("__global__ void g(Shape s) {}")["g"]) is None
