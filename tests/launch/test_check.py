"""mode="check": every planted bug is reported with its line, every right kernel passes.

The line of a bug is marked in the source with // BUG; where a race has two sides, the other one with // OTHER.
"""

import re

import numpy as np
import pytest
from planted import bug_lines, skip_what_clang_misses

from dcnlab.launch import KernelFault, module

pytestmark = pytest.mark.check_kernels

BUGS = r"""
#include "scattered.cuh"
#define TID threadIdx.x
#define INDEX (blockIdx.x * blockDim.x + threadIdx.x)
extern "C" {
__global__ void tail_guard_read(const float* x, float* y, int n) {
    float v = x[INDEX];  // BUG
    y[INDEX < n ? INDEX : 0] = v;
}
__global__ void tail_guard_write(const float* x, float* y, int n) {
    if (INDEX <= n) y[INDEX] = 2.0f;  // BUG
}
__global__ void before_the_start(const float* x, float* y, int n) {
    y[INDEX] = x[int(INDEX) - 1];  // BUG
}
__global__ void wrong_stride(const float* x, float* y, int n) {
    y[INDEX] = x[INDEX * 4096];  // BUG
}
__global__ void far_away(const float* x, float* y, int n) {
    y[0] = *(x + (1ll << 40));  // BUG
}
__global__ void null_pointer(const float* x, float* y, int n) {
    const float* p = x - reinterpret_cast<unsigned long long>(x) / 4;
    y[0] = p[3];  // BUG
}
__global__ void vector_past_the_end(const float* x, float* y, int n) {
    float4 v = reinterpret_cast<const float4*>(x)[n / 4];  // BUG
    y[0] = v.x;
}
__global__ void misaligned_vector(const float* x, float* y, int n) {
    float4 v = reinterpret_cast<const float4*>(x + 1)[0];  // BUG
    y[0] = v.x;
}
__global__ void halo_off_by_one(const float* x, float* y, int n) {
    __shared__ float tile[34];
    tile[TID + 1] = x[TID];
    if (TID == 0) tile[0] = 0.0f;
    if (TID == 31) tile[33] = 0.0f;
    __syncthreads();
    y[TID] = tile[TID] + tile[TID + 2 + (TID == 31)];  // BUG
}
__global__ void dynamic_too_small(const float* x, float* y, int n) {
    extern __shared__ float memory[];
    memory[TID] = x[TID];  // BUG
    __syncthreads();
    y[TID] = memory[31 - TID];
}
__global__ void uninitialised(const float* x, float* y, int n) {
    __shared__ float s[32];
    if (TID < 20) s[TID] = x[TID];
    __syncthreads();
    y[TID] = s[TID];  // BUG
}
__global__ void uninitialised_counter(const float* x, float* y, int n) {
    __shared__ int counter;
    atomicAdd(&counter, 1);  // BUG
    __syncthreads();
    if (TID == 0) y[0] = counter;
}
__global__ void dropped_barrier(const float* x, float* y, int n) {
    __shared__ float s[64];
    s[TID] = 0.0f;
    __syncthreads();
    s[TID] = x[TID];    // BUG
    y[TID] = s[63 - TID];  // OTHER
}
__global__ void barrier_before_reuse(const float* x, float* y, int n) {
    __shared__ float s[64];
    float sum = 0.0f;
    for (int t = 0; t < 2; ++t) {
        s[TID] = x[t * 64 + TID];  // OTHER
        __syncthreads();
        sum += s[63 - TID];  // BUG
    }
    y[TID] = sum;
}
__global__ void warp_reduction_without_sync(const float* x, float* y, int n) {
    __shared__ float s[64];
    s[TID] = x[TID];
    __syncthreads();
    if (TID < 32)
        for (int d = 32; d; d >>= 1) s[TID] += s[TID + d];  // BUG OTHER
    if (TID == 0) y[0] = s[0];
}
__global__ void shuffle_is_no_barrier(const float* x, float* y, int n) {
    __shared__ float s[32];
    s[TID] = 0.0f;
    __syncwarp();
    s[TID] = x[TID];  // OTHER
    float v = __shfl_sync(0xffffffffu, x[TID], 0);
    y[TID] = s[31 - TID] + v;  // BUG
}
__global__ void plain_add_across_blocks(const float* x, float* y, int n) {
    y[INDEX % 8] += x[INDEX];  // BUG OTHER
}
__global__ void atomic_and_plain(const float* x, float* y, int n) {
    if (TID == 0) y[0] = 1.0f;  // OTHER
    else atomicAdd(y, x[TID]);  // BUG
}
__global__ void same_output_twice(const float* x, float* y, int n) {
    y[INDEX / 2] = x[INDEX];  // BUG OTHER
}
__global__ void scattered_past_the_end(const float* x, Scattered<float> y, int n) {
    atomicAdd(y + n, x[0]);  // BUG
}
__global__ void flag_without_fence(const float* x, float* y, int n) {
    y[1 + blockIdx.x] = 1.0f;  // OTHER
    if (atomicAdd(y, 1.0f) == gridDim.x - 1)
        for (int b = 0; b < gridDim.x; ++b) y[70 + b] = y[1 + b];  // BUG
}
__global__ void barrier_in_a_branch(const float* x, float* y, int n) {
    if (TID < 32) {
        __syncthreads();
    } else {
        __syncthreads();  // BUG
    }
    y[TID] = x[TID];
}
__global__ void return_before_a_barrier(const float* x, float* y, int n) {
    if (TID >= 40) return;
    y[TID] = x[TID];
    __syncthreads();  // BUG
    y[TID] += 1.0f;
}
__global__ void barrier_some_never_reach(const float* x, float* y, int n) {
    if (TID < 40) __syncthreads();  // BUG
    y[TID] = x[TID];
}
__global__ void return_before_a_shuffle(const float* x, float* y, int n) {
    if (TID >= 20) return;
    y[TID] = __shfl_down_sync(0xffffffffu, x[TID], 1);  // BUG
}
__global__ void mask_without_the_source(const float* x, float* y, int n) {
    if (TID < 16) y[TID] = __shfl_sync(0x0000ffffu, x[TID], 20);  // BUG
}
__global__ void mask_without_the_caller(const float* x, float* y, int n) {
    y[TID] = __shfl_xor_sync(0x0000ffffu, x[TID], 1);  // BUG
}
__global__ void masks_that_differ(const float* x, float* y, int n) {
    unsigned mask = TID % 32 < 16 ? 0xffffffffu : 0xffff0000u;
    y[TID] = __shfl_xor_sync(mask, x[TID], 1);  // BUG
}
__global__ void block_and_warp_wait_for_each_other(const float* x, float* y, int n) {
    if (TID == 0) __syncthreads();  // BUG
    else __syncwarp();
    y[TID] = x[TID];
}
}
"""

# kernel: kind, argument, index, grid, block, dynamic shared memory
EXPECTED = {
    "tail_guard_read": ("out of bounds", "x", 128, 3, 64, 0),
    "tail_guard_write": ("out of bounds", "y", 128, 3, 64, 0),
    "before_the_start": ("out of bounds", "x", -1, 2, 64, 0),
    "wrong_stride": ("out of bounds", "x", 4096, 1, 64, 0),
    "far_away": ("out of bounds", None, None, 1, 1, 0),
    "null_pointer": ("null pointer", None, None, 1, 1, 0),
    "vector_past_the_end": ("out of bounds", "x", 128, 1, 1, 0),
    "misaligned_vector": ("misaligned access", None, None, 1, 1, 0),
    "halo_off_by_one": ("out of bounds", None, None, 1, 32, 0),
    "dynamic_too_small": ("out of bounds", None, None, 1, 32, 100),
    "uninitialised": ("uninitialised shared memory", None, None, 1, 32, 0),
    "uninitialised_counter": ("uninitialised shared memory", None, None, 1, 32, 0),
    "dropped_barrier": ("data race", None, None, 1, 64, 0),
    "barrier_before_reuse": ("data race", None, None, 1, 64, 0),
    "warp_reduction_without_sync": ("data race", None, None, 1, 64, 0),
    "shuffle_is_no_barrier": ("data race", None, None, 1, 32, 0),
    "plain_add_across_blocks": ("data race", "y", 0, 2, 64, 0),
    "atomic_and_plain": ("data race", "y", 0, 1, 32, 0),
    "same_output_twice": ("data race", "y", 0, 1, 32, 0),
    "scattered_past_the_end": ("out of bounds", "y", 128, 1, 1, 0),
    "flag_without_fence": ("data race", "y", 1, 4, 1, 0),
    "barrier_in_a_branch": ("divergent barrier", None, None, 1, 64, 0),
    "return_before_a_barrier": ("divergent barrier", None, None, 1, 64, 0),
    "barrier_some_never_reach": ("divergent barrier", None, None, 1, 64, 0),
    "return_before_a_shuffle": ("bad shuffle mask", None, None, 1, 32, 0),
    "mask_without_the_source": ("bad shuffle mask", None, None, 1, 32, 0),
    "mask_without_the_caller": ("bad shuffle mask", None, None, 1, 32, 0),
    "masks_that_differ": ("bad shuffle mask", None, None, 1, 32, 0),
    "block_and_warp_wait_for_each_other": ("deadlock", None, None, 1, 32, 0),
}
# These are found in every mode: the kernel could not go on.
ALWAYS = [
    name for name, (kind, *_) in EXPECTED.items() if kind in ("divergent barrier", "bad shuffle mask", "deadlock")
]


@pytest.fixture(scope="module")
def bugs(compiler):
    return module(BUGS, target="cpu", mode="check")


def run(kernel, grid, block, shared):
    x = np.arange(1, 129, dtype=np.float32)
    y = np.zeros(128, np.float32)
    kernel[grid, block, shared](x, y, 128)


def test_every_bug_is_expected():
    assert set(re.findall(r"void (\w+)\(", BUGS)) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_planted_bug(bugs, name):
    skip_what_clang_misses(name)
    kind, argument, index, grid, block, shared = EXPECTED[name]
    with pytest.raises(KernelFault) as caught:
        run(bugs[name], grid, block, shared)
    fault = caught.value
    assert (fault.kind, fault.kernel, fault.argument, fault.index) == (kind, name, argument, index), str(fault)
    assert fault.file == "kernel.cu"
    assert fault.line in bug_lines(BUGS, name, "BUG"), str(fault)
    assert f"{name}: {kind} at kernel.cu:{fault.line}, block (" in str(fault)
    assert "\n" not in str(fault)
    if kind == "data race":
        assert fault.other.line in bug_lines(BUGS, name, "OTHER"), str(fault)
        assert (fault.other.block, fault.other.thread) != (fault.at.block, fault.at.thread)


@pytest.mark.parametrize("name", ALWAYS)
def test_what_cannot_go_on_is_reported_without_check_mode(compiler, name):
    fast = module(BUGS, target="cpu")
    _, _, _, grid, block, shared = EXPECTED[name]
    with pytest.raises(KernelFault) as caught:
        run(fast[name], grid, block, shared)
    assert caught.value.line in bug_lines(BUGS, name, "BUG"), str(caught.value)


def test_the_message_of_a_race_shows_both_sides(bugs):
    with pytest.raises(KernelFault) as caught:
        run(bugs["same_output_twice"], 1, 32, 0)
    line = bug_lines(BUGS, "same_output_twice", "BUG")[0]
    assert str(caught.value) == (
        f"same_output_twice: data race at kernel.cu:{line}, block (0, 0, 0), thread (1, 0, 0): write of y[0]; "
        f"write by kernel.cu:{line}, block (0, 0, 0), thread (0, 0, 0), with no barrier between"
    )


CLEAN = r"""
#include "scattered.cuh"
#include <cuda_fp16.h>
#define TID threadIdx.x
#define INDEX (blockIdx.x * blockDim.x + threadIdx.x)
extern "C" {
__device__ int calls = 0;
__constant__ float table[3] = {1.0f, 2.0f, 3.0f};
// A tile with halo, a tree reduction, a warp reduction, a histogram, and the last block adding up: all in order.
__global__ void everything(const float* x, float* y, Scattered<float> sums, int* counts,
                           unsigned* finished, unsigned char* bytes) {
    __shared__ float tile[66];
    __shared__ int histogram[4];
    __shared__ __half halves[64];
    __shared__ float4 quads[2];
    __shared__ bool last;
    tile[TID + 1] = x[INDEX];
    if (TID == 0) tile[0] = tile[65] = 0.0f;
    if (TID < 4) histogram[TID] = 0;
    halves[TID] = __float2half(x[INDEX]);
    if (TID < 2) quads[TID] = make_float4(1.0f, 2.0f, 3.0f, 4.0f);
    __syncthreads();
    float v = tile[TID] + tile[TID + 2] + __half2float(halves[63 - TID]) + quads[TID % 2].z;
    atomicAdd(&histogram[TID % 4], 1);
    __syncthreads();
    for (int d = 32; d; d >>= 1) {
        if (TID < d) tile[TID] += tile[TID + d];
        __syncthreads();
    }
    for (int d = 16; d; d >>= 1) v += __shfl_down_sync(0xffffffffu, v, d);
    if (TID < 32) {  // through shared memory, one warp: __syncwarp is enough
        tile[TID] = v;
        __syncwarp();
        v = tile[31 - TID];
        __syncwarp();
        tile[TID] = v;
    }
    atomicAdd(sums + TID % 7, x[INDEX]);
    bytes[INDEX] = 1;  // neighbours in one word
    if (TID < 4) atomicAdd(counts + TID, histogram[TID]);
    if (TID == 0) {
        y[blockIdx.x] = v * table[blockIdx.x % 3];
        __threadfence();
        last = atomicAdd(finished, 1u) == gridDim.x - 1;
        if (last)
            for (unsigned b = 0; b < gridDim.x; ++b) y[gridDim.x] += y[b];
        atomicAdd(&calls, 1);
    }
    float local[8];
    float* p = local;  // a local array whose address escapes
    for (int i = 0; i < 8; ++i) p[(i * 3) % 8] = x[INDEX] + i;
    if (INDEX == 0) y[gridDim.x + 1] = local[calls % 8];
}
__global__ void exchange_first(int* y) {
    __shared__ int s;
    if (TID == 0) atomicExch(&s, 5);
    __syncthreads();
    y[TID] = s;
}
__global__ void dynamic(const double* x, double* y) {
    extern __shared__ double memory[];
    memory[TID] = x[TID];
    __syncthreads();
    y[TID] = memory[blockDim.x - 1 - TID];
}
__global__ void in_place(float* x, const float* same) { x[INDEX] = same[INDEX] + 1.0f; }
}
"""


@pytest.mark.parametrize("mode", ["check", "ubsan"])
@pytest.mark.parametrize("order", ["forward", "backward", 5])
def test_right_kernels_pass(compiler, mode, order):
    kernels = module(CLEAN, target="cpu", mode=mode, thread_order=order)
    x, y = np.ones(256, np.float32), np.zeros(6, np.float32)
    sums, counts, finished = np.zeros(7, np.float32), np.zeros(4, np.int32), np.zeros(1, np.uint32)
    written = np.zeros(256, np.uint8)
    kernels["everything"][4, 64](x, y, sums, counts, finished, written)
    assert sums.sum() == 256
    assert counts.tolist() == [64] * 4
    assert written.all()
    assert y[4] == y[:4].sum()
    answer = np.zeros(32, np.int32)
    kernels["exchange_first"][1, 32](answer)
    assert (answer == 5).all()
    a, b = np.arange(64.0), np.zeros(64)
    kernels["dynamic"][1, 64, 512](a, b)
    assert np.array_equal(b, a[::-1])
    both = np.zeros(64, np.float32)
    kernels["in_place"][2, 32](both, both)
    assert (both == 1).all()
    overlapping = np.zeros(65, np.float32)
    kernels["in_place"][1, 1](overlapping[1:], overlapping[:64])
    assert overlapping[:3].tolist() == [0, 1, 0]


def test_a_fault_leaves_the_arrays_of_other_launches_alone(bugs):
    """What ran before the fault is written back; the next launch starts clean."""
    x, y = np.arange(1, 129, dtype=np.float32), np.zeros(128, np.float32)
    with pytest.raises(KernelFault):
        bugs["tail_guard_read"][3, 64](x, y, 128)
    assert np.array_equal(y, x)
    y[:] = 0
    bugs["tail_guard_read"][2, 64](x, y, 128)
    assert np.array_equal(y, x)
