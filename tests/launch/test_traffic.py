"""mode="check" counts the bytes that a launch asks of global memory: by hand for small kernels."""

import numpy as np
import pytest

from dcnlab.launch import KernelFault, Traffic, module

pytestmark = [pytest.mark.usefixtures("compiler"), pytest.mark.check_kernels]

SOURCE = r"""
#include "scattered.cuh"
#define INDEX (blockIdx.x * blockDim.x + threadIdx.x)
template <typename T>
__global__ void saxpy(const T* x, T* y, int n, T a) {
    if (INDEX < n) y[INDEX] += a * x[INDEX];
}
extern "C" {
__global__ void vectors(const float4* x, float4* y) {
    y[INDEX] = x[INDEX];
}
__global__ void sums(const float* x, float* total, Scattered<float> parts, int* seen) {
    const float value = x[INDEX];
    atomicAdd(total, value);
    atomicAdd(parts + threadIdx.x, value);
    atomicMax(seen, 1);
}
__global__ void wide_sum(float4* total) {
    atomicAdd(total, float4{1, 2, 3, 4});
}
__global__ void through_shared_memory(const float* x, float* y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[INDEX];
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < 64; ++i) sum += tile[i];
    y[INDEX] = sum;
}
__global__ void every_thread_the_same(const float* x, const float* unused, float* y) {
    y[INDEX] = x[0];
}
__global__ void past(const float* x, float* y, int n) {
    y[n] = x[0];
}
}
"""
NAMES = ["saxpy<float>", "saxpy<double>", "vectors", "sums", "wide_sum", "through_shared_memory"]
NAMES += ["every_thread_the_same", "past"]


@pytest.fixture(scope="module")
def kernels():
    return module(SOURCE, NAMES, target="cpu", mode="check")


def floats(count):
    return np.ones(count, np.float32)


def test_every_argument_has_its_account(kernels):
    kernel = kernels["saxpy<float>"]
    assert kernel.last_traffic is None, "nothing was launched"
    kernel[4, 128](floats(500), floats(500), 500, 2.0)  # 12 threads have nothing to do
    assert kernel.last_traffic == {"x": Traffic(2000, 0, 0), "y": Traffic(2000, 2000, 0)}
    assert kernel.last_traffic["y"].total == 4000
    kernel[1, 32](floats(500), floats(500), 7, 2.0)
    assert kernel.last_traffic == {"x": (28, 0, 0), "y": (28, 28, 0)}, "of the last launch alone"
    double = kernels["saxpy<double>"]
    double[1, 32](np.ones(8), np.ones(8), 7, 2.0)
    assert double.last_traffic == {"x": (56, 0, 0), "y": (56, 56, 0)}


def test_vectors(kernels):
    kernels["vectors"][2, 8](floats(64), floats(64))
    assert kernels["vectors"].last_traffic == {"x": (256, 0, 0), "y": (0, 256, 0)}


def test_atomic_functions(kernels):
    seen = np.zeros(1, np.int32)
    kernels["sums"][3, 16](floats(48), floats(1), floats(16), seen)
    assert kernels["sums"].last_traffic == {
        "x": (192, 0, 0),
        "total": (0, 0, 192),
        "parts": (0, 0, 192),
        "seen": (0, 0, 192),
    }
    total = np.zeros(4, np.float32)
    kernels["wide_sum"][1, 5](total)
    assert kernels["wide_sum"].last_traffic == {"total": (0, 0, 80)}
    assert total.tolist() == [5, 10, 15, 20]


def test_shared_memory_is_not_global(kernels):
    kernels["through_shared_memory"][2, 64](floats(128), floats(128))
    assert kernels["through_shared_memory"].last_traffic == {"x": (512, 0, 0), "y": (0, 512, 0)}


def test_what_a_cache_would_answer_is_counted_all_the_same(kernels):
    kernels["every_thread_the_same"][2, 32](floats(1), None, floats(64))
    assert kernels["every_thread_the_same"].last_traffic == {"x": (256, 0, 0), "unused": (0, 0, 0), "y": (0, 256, 0)}


def test_one_array_for_two_parameters_is_counted_once(kernels):
    both = floats(64)
    kernels["saxpy<float>"][2, 32](both, both, 64, 1.0)
    assert kernels["saxpy<float>"].last_traffic == {"x": (0, 0, 0), "y": (512, 256, 0)}


def test_a_fault_leaves_no_account(kernels):
    kernels["past"][1, 1](floats(1), floats(2), 1)
    assert kernels["past"].last_traffic == {"x": (4, 0, 0), "y": (0, 4, 0)}
    with pytest.raises(KernelFault, match="out of bounds"):
        kernels["past"][1, 1](floats(1), floats(2), 2)
    assert kernels["past"].last_traffic is None


@pytest.mark.parametrize("mode", ["fast", "ubsan"])
def test_other_modes_do_not_count(mode):
    kernel = module(SOURCE, ["saxpy<float>"], target="cpu", mode=mode)["saxpy<float>"]
    kernel[1, 32](floats(8), floats(8), 8, 1.0)
    assert kernel.last_traffic is None


@pytest.mark.parametrize(("arrays", "arithmetic"), [("float", "float"), ("__half", "float"), ("double", "double")])
def test_sampling_in_the_middle_and_at_a_corner_of_an_image(arrays, arithmetic):
    name = f"sample_bilinear<{arrays}, {arithmetic}>"
    dtype = np.dtype({"float": "f4", "__half": "f2", "double": "f8"}[arrays])
    kernel = module("sampling/1_naive.cu", [name], target="cpu", mode="check")[name]
    image, output = np.ones((5, 4, 3), dtype), np.zeros((3, 3), dtype)
    base, displacement = np.array([[1, 1], [-1, -1], [9, 9]], np.int32), np.full((3, 2), 0.5, dtype)
    kernel[1, 32](image, base, displacement, output, 3, 5, 4, 3)
    b = dtype.itemsize
    # Four corners of three channels, one corner, none.
    assert kernel.last_traffic == {
        "image": (15 * b, 0, 0),
        "base": (3 * 2 * 4, 0, 0),
        "displacement": (3 * 2 * b, 0, 0),
        "output": (0, 9 * b, 0),
    }
