"""CUDA C++ on the CPU means what it means on a GPU."""

import re

import numpy as np
import pytest

from dcnlab.launch import KernelCompileError, KernelFault, module

SOURCE = r"""
#include <cuda_fp16.h>
#define INDEX (blockIdx.x * blockDim.x + threadIdx.x)
extern "C" {
__global__ void reverse_static(const float* x, float* y) {
    __shared__ float s[128];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}
__global__ void reverse_dynamic(const float* x, float* y) {
    extern __shared__ float tile[];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}
// A different name and type for the same memory, as CUDA has it.
__global__ void bytes_dynamic(unsigned char* y) {
    extern __shared__ __align__(16) unsigned char memory[];
    memory[threadIdx.x] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = memory[blockDim.x - 1 - threadIdx.x];
}
__global__ void stale_shared(float* y) {
    __shared__ float s[4];
    y[blockIdx.x] = s[0];
    s[0] = 1.0f;
}
__global__ void where(int* y) {
    int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    y[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}
// Only some warps loop, and by different counts: barriers of the warp in divergent code.
__global__ void divergent_warps(const float* x, float* y) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float v = x[threadIdx.x];
    for (int i = 0; i <= warp; ++i) {
        if (lane < 16) v += __shfl_xor_sync(0x0000ffffu, v, 1);
        else v -= __shfl_xor_sync(0xffff0000u, v, 1);
        __syncwarp();
    }
    __syncthreads();
    y[threadIdx.x] = v;
}
__global__ void shuffles(int* y) {
    int lane = threadIdx.x;
    y[lane] = __shfl_sync(0xffffffffu, lane, 5);
    y[32 + lane] = __shfl_sync(0xffffffffu, lane, 3, 8);
    y[64 + lane] = __shfl_up_sync(0xffffffffu, lane, 2);
    y[96 + lane] = __shfl_down_sync(0xffffffffu, lane, 2, 16);
    y[128 + lane] = __shfl_xor_sync(0xffffffffu, lane, 7);
    y[160 + lane] = int(__shfl_down_sync(0xffffffffu, double(lane), 1));
}
__global__ void votes(const int* x, unsigned* y) {
    int lane = threadIdx.x;
    unsigned ballot = __ballot_sync(0xffffffffu, x[lane] > 3);
    int any = __any_sync(0xffffffffu, x[lane] > 30), all = __all_sync(0xffffffffu, x[lane] >= 0);
    int count = __syncthreads_count(x[lane] > 3), both = __syncthreads_and(x[lane] >= 0);
    int one = __syncthreads_or(x[lane] > 99);
    if (lane == 0) { y[0] = ballot; y[1] = any; y[2] = all; y[3] = count; y[4] = both; y[5] = one; }
}
__global__ void short_warp(const float* x, float* y) {  // a block of 40: its second warp has 8 lanes
    float v = x[threadIdx.x];
    for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d) * (threadIdx.x < 32);
    y[threadIdx.x] = v;
}
__global__ void atomics(int* i, unsigned* u, double* d, float4* q, unsigned long long* l) {
    atomicAdd(i, 1); atomicSub(i + 1, 2); atomicMax(i + 2, int(INDEX)); atomicMin(i + 3, -int(INDEX));
    atomicOr(u, 1u << threadIdx.x); atomicAnd(u + 1, ~(1u << threadIdx.x)); atomicXor(u + 2, 1u); atomicInc(u + 3, 9u);
    atomicAdd(d, 0.5);
    atomicAdd(q, make_float4(1.0f, 2.0f, 3.0f, 4.0f));
    atomicAdd(l, 1ull << 33);
    atomicCAS(i + 4, int(INDEX), int(INDEX) + 1);
    if (INDEX == 0) i[5] = atomicExch(i + 6, 9);
}
__global__ void vectors(const float4* x, float4* y, int2* z, uint4* u, double2* w) {
    float4 v = __ldg(x + threadIdx.x);
    y[threadIdx.x] = make_float4(v.w, v.z, v.y, v.x);
    z[threadIdx.x] = make_int2(threadIdx.x, -int(threadIdx.x));
    u[threadIdx.x] = make_uint4(1u, 2u, 3u, sizeof(float3));
    w[threadIdx.x].y = alignof(double2);
}
__global__ void halves(const __half* x, __half* y, __half2* z, float* wide, const float* narrow, __half* rounded) {
    int i = threadIdx.x;
    y[i] = x[i] * x[i] + __float2half(1.0f);
    z[i] = __hfma2(__half2half2(x[i]), __floats2half2_rn(2.0f, 3.0f), make_half2(x[i], x[i]));
    wide[i] = __half2float(x[i]);
    rounded[i] = __float2half(narrow[i]);
}
__global__ void half_pairs(const __half2* x, __half2* low, __half2* high, __half2* swapped) {
    int i = threadIdx.x;
    low[i] = __low2half2(x[i]);
    high[i] = __high2half2(x[i]);
    swapped[i] = __halves2half2(__high2half(x[i]), __low2half(x[i]));
}
__device__ float offset_by = 0.5f;
__constant__ float table[4] = {1.0f, 2.0f, 3.0f, 4.0f};
__global__ void tables(float* y) { y[threadIdx.x] = table[threadIdx.x % 4] + offset_by; }
__global__ void asserts(const int* x) { assert(x[INDEX] < 7); }
}
namespace space {
template <typename T, int N> struct Sum {
    static __device__ __forceinline__ T of(const T* x) { T s = 0; for (int i = 0; i < N; ++i) s += x[i]; return s; }
};
template <typename T, int N>
__global__ void __launch_bounds__(64) sums(const T* __restrict__ x, T* __restrict__ y) {
    y[INDEX] = Sum<T, N>::of(x + INDEX * N);
}
}
"""
NAMES = re.findall(r"^__global__ void (?!__)(\w+)", SOURCE, re.MULTILINE)
TEMPLATES = ["space::sums<float, 3>", "space::sums<double, 2>", "space::sums<long long, 4>"]
ORDERS = ("forward", "backward", 7)


@pytest.fixture(scope="module", params=ORDERS)
def kernels(compiler, request):
    return module(SOURCE, NAMES + TEMPLATES, target="cpu", thread_order=request.param)


def test_shared_memory_and_barriers(kernels):
    x, y = np.arange(128, dtype=np.float32), np.zeros(128, np.float32)
    kernels["reverse_static"][1, 128](x, y)
    assert np.array_equal(y, x[::-1])
    y[:] = 0
    kernels["reverse_dynamic"][1, 128, 512](x, y)
    assert np.array_equal(y, x[::-1])


@pytest.mark.parametrize("mode", ["fast", "check", "ubsan"])
def test_dynamic_shared_memory_in_a_template(compiler, mode):
    source = """
    template <typename T, int N>
    __global__ void reverse(const T* x, T* y) {
        extern __shared__ double memory[];
        T* const s = reinterpret_cast<T*>(memory);
        s[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
        y[threadIdx.x] = s[N - 1 - threadIdx.x];
    }
    """
    names = ["reverse<float, 40>", "reverse<double, 40>"]
    kernels = module(source, names, target="cpu", mode=mode)
    for name, dtype in zip(names, (np.float32, np.float64), strict=True):
        x, y = np.arange(40, dtype=dtype), np.zeros(40, dtype)
        kernels[name][1, 40, x.nbytes](x, y)
        assert np.array_equal(y, x[::-1])


def test_the_most_dynamic_shared_memory(kernels):
    y = np.zeros(1024, np.uint8)
    kernels["bytes_dynamic"][1, 1024, 227 * 1024](y)
    assert np.array_equal(y, np.arange(1024, dtype=np.uint8)[::-1])


def test_shared_memory_is_new_for_every_block(kernels):
    y = np.zeros(5, np.float32)
    kernels["stale_shared"][5, 1](y)
    assert np.isnan(y).all()


def test_three_dimensions(kernels):
    y = np.zeros((24, 30), np.int32)
    kernels["where"][(2, 3, 4), (5, 3, 2)](y)
    assert np.array_equal(y, np.arange(24)[:, None] * 1000 + np.arange(30))


def test_warps_that_diverge(kernels):
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, 96).astype(np.float32)
    y = np.zeros_like(x)
    kernels["divergent_warps"][1, 96](x, y)
    expected = x.reshape(3, 2, 16).copy()
    for warp in range(3):
        for _ in range(warp + 1):
            for half, sign in ((0, 1), (1, -1)):
                swapped = expected[warp, half].reshape(-1, 2)[:, ::-1].ravel()
                expected[warp, half] = expected[warp, half] + sign * swapped
    assert np.array_equal(y, expected.ravel())


def test_shuffles(kernels):
    y = np.zeros((6, 32), np.int32)
    kernels["shuffles"][1, 32](y)
    lane = np.arange(32)
    down16 = np.where(lane % 16 + 2 < 16, lane + 2, lane)
    expected = [np.full(32, 5), lane // 8 * 8 + 3, np.where(lane < 2, lane, lane - 2), down16, lane ^ 7]
    expected.append(np.minimum(lane + 1, 31))
    assert np.array_equal(y, expected)


def test_votes(kernels):
    x, y = np.arange(32, dtype=np.int32), np.zeros(6, np.uint32)
    kernels["votes"][1, 32](x, y)
    assert y.tolist() == [0xFFFFFFF0, 1, 1, 28, 1, 0]


def test_a_warp_that_is_not_full(kernels):
    x = np.arange(40, dtype=np.float32)
    y = np.zeros_like(x)
    with pytest.raises(KernelFault, match=r"reads from lane .*, which this short warp does not have") as caught:
        kernels["short_warp"][1, 40](x, y)
    assert caught.value.kind == "bad shuffle mask"


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_atomics(kernels, monkeypatch, threads):
    monkeypatch.setenv("DCNLAB_NUM_THREADS", str(threads))
    i, u = np.array([0, 0, 0, 0, 0, 0, 4], np.int32), np.array([0, 2**32 - 1, 0, 0], np.uint32)
    d, q, big = np.zeros(1), np.zeros(4, np.float32), np.zeros(1, np.uint64)
    kernels["atomics"][50, 32](i, u, d, q, big)
    assert i[[0, 1, 2, 3, 5, 6]].tolist() == [1600, -3200, 1599, -1599, 4, 9]
    assert u.tolist() == [2**32 - 1, 0, 0, 0]
    assert d[0] == 800
    assert q.tolist() == [1600, 3200, 4800, 6400]
    assert big[0] == 1600 << 33


def test_vector_types(kernels):
    x, y = np.arange(32, dtype=np.float32), np.zeros((8, 4), np.float32)
    z, u, w = np.zeros((8, 2), np.int32), np.zeros((8, 4), np.uint32), np.zeros((8, 2))
    kernels["vectors"][1, 8](x, y, z, u, w)
    assert np.array_equal(y, x.reshape(8, 4)[:, ::-1])
    assert z[3].tolist() == [3, -3]
    assert u[7].tolist() == [1, 2, 3, 12]
    assert w[0].tolist() == [0, 16]


def test_half(kernels):
    x = np.linspace(-3, 3, 64).astype(np.float16)
    special = [0, -0.0, 1e-8, 6e-8, 3e-5, 1e-4, 1 / 3, 65519, 65520, 1e30, np.inf, -np.inf, np.nan, 2049, 2051]
    narrow = np.array([*special, *np.random.default_rng(1).standard_normal(49)], np.float32)
    y, z, wide, rounded = np.zeros_like(x), np.zeros((64, 2), np.float16), np.zeros(64, np.float32), np.zeros_like(x)
    kernels["halves"][1, 64](x, y, z, wide, narrow, rounded)
    assert np.array_equal(y, x * x + np.float16(1))
    assert np.array_equal(z[:, 1], (x.astype(np.float32) * 3 + x).astype(np.float16))
    assert np.array_equal(wide, x.astype(np.float32))
    with np.errstate(over="ignore"):
        assert np.array_equal(rounded, narrow.astype(np.float16), equal_nan=True)


def test_pairs_of_halves(kernels):
    x = np.arange(16, dtype=np.float16).reshape(8, 2)
    low, high, swapped = (np.zeros_like(x) for _ in range(3))
    kernels["half_pairs"][1, 8](x, low, high, swapped)
    assert np.array_equal(low, x[:, [0, 0]])
    assert np.array_equal(high, x[:, [1, 1]])
    assert np.array_equal(swapped, x[:, ::-1])


def test_templates_constants_and_device_variables(kernels):
    y = np.zeros(4, np.float32)
    kernels["tables"][1, 4](y)
    assert y.tolist() == [1.5, 2.5, 3.5, 4.5]
    for name, dtype, count in zip(TEMPLATES, (np.float32, np.float64, np.int64), (3, 2, 4), strict=True):
        x = np.arange(8 * count).astype(dtype)
        y = np.zeros(8, dtype)
        kernels[name][2, 4](x, y)
        assert np.array_equal(y, x.reshape(8, count).sum(1))


def test_assertions_stop_the_launch_not_the_process(kernels):
    kernels["asserts"][2, 4](np.arange(7, dtype=np.int32).repeat(2)[:8])
    with pytest.raises(
        KernelFault, match=r"assertion failed at kernel.cu:\d+, block \(1, 0, 0\), thread \(3, 0, 0\)"
    ) as e:
        kernels["asserts"][2, 4](np.arange(8, dtype=np.int32))
    assert "asserts" in SOURCE.splitlines()[e.value.line - 1]
    kernels["asserts"][2, 4](np.zeros(8, np.int32))  # and the next launch is unharmed


def test_software_half_agrees_with_the_hardware(compiler):
    """Compilers without _Float16 get our own conversions: all halves, and floats around every rounding boundary."""
    source = r"""
    #include <cuda_fp16.h>
    extern "C" __global__ void both(const unsigned short* bits, float* wide, const float* x, unsigned short* narrow,
                                    int n) {
        for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
            wide[i] = __half2float(__ushort_as_half(bits[i]));
            narrow[i] = __half_as_ushort(__float2half(x[i]));
        }
    }
    """
    software = module(source, target="cpu", options=["-U__FLT16_MANT_DIG__"])["both"]
    bits = np.arange(65536, dtype=np.uint16)
    halves = bits.view(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore"):
        neighbours = [np.nextafter(halves, np.float32(to)) for to in (np.inf, -np.inf)]
        middle = ((halves.astype(float) + np.roll(halves, -1)) / 2).astype(np.float32)
    for x in (halves, *neighbours, middle):
        wide, narrow = np.zeros(65536, np.float32), np.zeros(65536, np.uint16)
        software[64, 64](bits, wide, x, narrow, 65536)
        assert np.array_equal(wide, halves, equal_nan=True)
        with np.errstate(over="ignore"):
            assert np.array_equal(narrow.view(np.float16), x.astype(np.float16), equal_nan=True)
        finite = np.isfinite(x)
        assert np.array_equal(np.signbit(narrow.view(np.float16)[finite]), np.signbit(x[finite]))


def test_a_kernel_that_does_not_compile_names_file_line_and_error(compiler):
    with pytest.raises(KernelCompileError, match=r"^kernel\.cu does not compile: kernel\.cu:3: .*nonsense") as caught:
        module('\nextern "C" __global__ void f(float* x) {\n    x[0] = nonsense;\n}\n', target="cpu")
    assert "\n" not in str(caught.value)
    assert "nonsense" in caught.value.log


def test_a_sum_that_is_declared_scattered_cannot_be_read(compiler):
    source = (
        '#include "scattered.cuh"\nextern "C" __global__ void f(Scattered<float> x) { float v = atomicAdd(x, 1.0f); }\n'
    )
    with pytest.raises(KernelCompileError, match=r"kernel\.cu:2"):
        module(source, target="cpu")


def test_definitions_and_options(compiler):
    source = 'extern "C" __global__ void f(int* y) { y[0] = SIZE + OTHER; }\n'
    y = np.zeros(1, np.int32)
    module(source, target="cpu", defines={"SIZE": 40}, options=["-DOTHER=2"])["f"][1, 1](y)
    assert y[0] == 42


def test_a_file_with_its_own_includes(compiler, tmp_path):
    (tmp_path / "twice.cuh").write_text("__device__ inline float twice(float x) { return 2 * x; }\n")
    kernel = tmp_path / "mine.cu"
    kernel.write_text(
        '#include "twice.cuh"\nextern "C" __global__ void f(float* x) { x[threadIdx.x] = twice(x[threadIdx.x]); }\n'
    )
    x = np.arange(4, dtype=np.float32)
    module(kernel, target="cpu")["f"][1, 4](x)
    assert x.tolist() == [0, 2, 4, 6]
    (tmp_path / "twice.cuh").write_text("__device__ inline float twice(float x) { return x + 100; }\n")
    module(kernel, target="cpu")["f"][1, 4](x)  # a changed include is a different build
    assert x.tolist() == [100, 102, 104, 106]
