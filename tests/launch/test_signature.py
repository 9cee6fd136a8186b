import numpy as np
import pytest

from dcnlab.launch.signature import base_name, find_kernels
from dcnlab.launch.sources import kernels_folder, read_source, without_comments


def parameters(text, expression):
    return find_kernels(without_comments(text))[base_name(expression)].instantiate(expression)


def test_plain_types():
    text = 'extern "C" __global__ void f(const float* __restrict__ x, double *y, int n, size_t big, bool on) {}'
    x, y, n, big, on = parameters(text, "f")
    assert (x.name, x.pointer, x.dtype, x.writable) == ("x", True, np.float32, False)
    assert (y.name, y.pointer, y.dtype, y.writable) == ("y", True, np.float64, True)
    assert [(p.name, p.pointer, p.dtype) for p in (n, big, on)] == [
        ("n", False, np.int32),
        ("big", False, np.uint64),
        ("on", False, np.bool_),
    ]


def test_template_arguments_are_filled_in():
    text = """
    template <typename T, int K = 9, typename A = float>
    __global__ void __launch_bounds__(K * (32 + 1)) f(const T* x, A const* w, Scattered<A> sum, T scale, Shape shape) {}
    """
    x, w, sums, scale, shape = parameters(text, "space::f<__half, 25, double>")
    assert (x.dtype, x.type) == (np.float16, "const __half*")
    assert (w.dtype, w.writable) == (np.float64, False)
    assert (sums.dtype, sums.pointer, sums.scattered, sums.writable) == (np.float64, True, True, True)
    assert scale.dtype == np.float16
    assert shape.dtype is None
    assert not shape.pointer
    assert parameters(text, "f<float>")[1].dtype == np.float32  # the default


@pytest.mark.parametrize(
    ("written", "dtype", "lanes", "alignment"),
    [
        ("float4", "float32", 4, 16),
        ("float3", "float32", 3, 4),
        ("double2", "float64", 2, 16),
        ("int2", "int32", 2, 8),
        ("uint4", "uint32", 4, 16),
        ("__half2", "float16", 2, 4),
        ("uchar4", "uint8", 4, 4),
    ],
)
def test_vector_types(written, dtype, lanes, alignment):
    (v,) = parameters(f"__global__ void f({written}* v) {{}}", "f")
    assert (v.dtype, v.lanes, v.alignment) == (dtype, lanes, alignment)


def test_comments_hide_nothing_and_add_nothing():
    text = """
    // __global__ void ghost(int x) {}
    /* __global__ void ghost2(int x) {} */
    __global__ void f(const float* x, /* how many */ int n  // at most 4
    ) { const char* s = "// no comment"; }
    """
    assert list(find_kernels(without_comments(text))) == ["f"]
    assert [p.name for p in parameters(text, "f")] == ["x", "n"]


@pytest.mark.parametrize("expression", ["f", "f<float, 3, 4>"])
def test_wrong_number_of_template_arguments(expression):
    with pytest.raises(ValueError, match=expression):
        parameters("template <typename T, int K> __global__ void f(T* x) {}", expression)


def test_every_kernel_of_the_library_can_be_read():
    sources = sorted(kernels_folder().glob("*/*.cu"))
    assert len(sources) >= 5
    for path in sources:
        found = find_kernels(read_source(path).everything)
        assert found, path
        assert path.read_text().count("__global__ void") == len(found)


def test_includes_are_followed(tmp_path):
    (tmp_path / "a.cuh").write_text('#include "b.cuh"\n')
    (tmp_path / "b.cuh").write_text('#include "a.cuh"\n#include "nowhere.h"\n__global__ void deep(int n) {}\n')
    (tmp_path / "k.cu").write_text('#include "a.cuh"\n#include "bilinear.cuh"\n')
    source = read_source(tmp_path / "k.cu")
    assert {p.name for p in source.included} == {"a.cuh", "b.cuh", "bilinear.cuh"}
    assert "deep" in find_kernels(source.everything)


def test_a_missing_file_names_where_it_was_looked_for():
    with pytest.raises(FileNotFoundError, match=r"no kernel 'absent\.cu': neither in .* nor in .*kernels"):
        read_source("absent.cu")
