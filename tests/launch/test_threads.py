"""Worker threads: how many, and that nothing depends on it."""

import os
import threading

import numpy as np
import pytest
import threadpoolctl

from dcnlab.launch import KernelFault, limit_blas, module, num_threads, threads

SOURCE = r"""
#include "scattered.cuh"
template <typename T>
__global__ void scatter(const T* values, const int* where, Scattered<T> sums, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) atomicAdd(sums + where[i], values[i]);
}
// Four neighbouring sums at once.
__global__ void fours(const float* values, const int* where, Scattered<float> sums, int n) {
    int i = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) add_four(sums + 4 * where[i / 4], values + i);
}
// The same with a plain pointer, and into shared memory first.
template <typename T>
__global__ void plain(const T* values, const int* where, T* sums, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) atomicAdd(&sums[where[i]], values[i]);
}
// The last block to finish adds up what the others left: a sum that is read while the kernel runs.
__global__ void last_block(const float* values, float* partial, float* total, unsigned* finished) {
    __shared__ float sum;
    __shared__ bool last;
    if (threadIdx.x == 0) sum = 0.0f;
    __syncthreads();
    atomicAdd(&sum, values[blockIdx.x * blockDim.x + threadIdx.x]);
    __syncthreads();
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
        __threadfence();
        last = atomicAdd(finished, 1u) == gridDim.x - 1;
        if (last) { float t = 0.0f; for (unsigned b = 0; b < gridDim.x; ++b) t += partial[b]; total[0] = t; }
    }
}
__global__ void fail_late(int* y) { assert(blockIdx.x != 900); y[blockIdx.x] = 1; }
"""
NAMES = ["scatter<float>", "scatter<double>", "plain<float>", "last_block", "fail_late"]


@pytest.fixture(scope="module")
def kernels(compiler):
    return module(SOURCE, NAMES, target="cpu")


def scattered(kernel, threads_, monkeypatch, dtype=np.float32, n=100_000, size=777):
    monkeypatch.setenv("DCNLAB_NUM_THREADS", str(threads_))
    rng = np.random.default_rng(3)
    values, where = rng.standard_normal(n).astype(dtype), rng.integers(0, size, n).astype(np.int32)
    sums = rng.standard_normal(size).astype(dtype)
    exact = sums + np.bincount(where, values.astype(float), size)
    kernel[-(-n // 64), 64](values, where, sums, n)
    return sums, exact


def test_four_sums_at_once(compiler, monkeypatch):
    kernel = module(SOURCE, ["fours"], target="cpu")["fours"]
    rng = np.random.default_rng(3)
    values, where = rng.standard_normal((9000, 4)).astype(np.float32), rng.integers(0, 77, 9000).astype(np.int32)
    expected = np.zeros((77, 4))
    np.add.at(expected, where, values.astype(float))
    found = []
    for workers in (1, 2, 5):
        monkeypatch.setenv("DCNLAB_NUM_THREADS", str(workers))
        found.append(np.zeros((77, 4), np.float32))
        kernel[-(-9000 // 64), 64](values, where, found[-1], values.size)
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    assert all(np.array_equal(sums, found[0]) for sums in found)


@pytest.mark.parametrize(("name", "dtype"), [*zip(NAMES[:3], (np.float32, np.float64, np.float32), strict=True)])
def test_scattered_sums_are_the_same_bit_for_bit(kernels, monkeypatch, name, dtype):
    first, exact = scattered(kernels[name], 1, monkeypatch, dtype)
    # About 130 terms of size 1 each: the rounding errors of a sum of n terms stay below n*eps*sum|terms|.
    assert abs(first - exact).max() < 130 * 130 * np.finfo(dtype).eps
    for count in (1, 2, 2, 3, 8):
        again, _ = scattered(kernels[name], count, monkeypatch, dtype)
        assert np.array_equal(first, again), count


def test_scattering_adds_to_what_is_there_and_touches_nothing_else(kernels, monkeypatch):
    monkeypatch.setenv("DCNLAB_NUM_THREADS", "2")
    sums = np.full(1000, 0.5, np.float32)
    sums[[7, 999]] = np.inf, np.nan
    kernels["scatter<float>"][4, 32](np.ones(128, np.float32), np.full(128, 64, np.int32), sums, 128)
    expected = np.full(1000, 0.5, np.float32)
    expected[[7, 64, 999]] = np.inf, 128.5, np.nan
    assert np.array_equal(sums, expected, equal_nan=True)


def test_a_sum_that_is_read_while_the_kernel_runs(kernels, monkeypatch):
    monkeypatch.setenv("DCNLAB_NUM_THREADS", "2")
    values = np.random.default_rng(0).integers(-9, 9, 64 * 50).astype(np.float32)
    partial, total, finished = np.zeros(50, np.float32), np.zeros(1, np.float32), np.zeros(1, np.uint32)
    kernels["last_block"][50, 64](values, partial, total, finished)
    assert total[0] == values.sum()
    assert finished[0] == 50


def test_a_fault_among_many_threads(kernels, monkeypatch):
    monkeypatch.setenv("DCNLAB_NUM_THREADS", "4")
    y = np.zeros(1000, np.int32)
    for _ in range(20):
        with pytest.raises(KernelFault, match=r"block \(900, 0, 0\)"):
            kernels["fail_late"][1000, 1](y)
    kernels["fail_late"][900, 1](y)
    assert y[:900].all()


def test_launches_from_several_python_threads(kernels, monkeypatch):
    monkeypatch.setenv("DCNLAB_NUM_THREADS", "2")
    expected, _ = scattered(kernels["scatter<float>"], 2, monkeypatch)
    found = []

    def work():
        found.extend(scattered(kernels["scatter<float>"], 2, monkeypatch)[0] for _ in range(3))

    running = [threading.Thread(target=work) for _ in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(found) == 12
    assert all(np.array_equal(sums, expected) for sums in found)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_starts_its_own_threads(kernels, monkeypatch):
    expected, _ = scattered(kernels["scatter<float>"], 2, monkeypatch)
    child = os.fork()
    if child == 0:
        same = np.array_equal(expected, scattered(kernels["scatter<float>"], 2, monkeypatch)[0])
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_number_of_threads(monkeypatch):
    monkeypatch.setenv("DCNLAB_NUM_THREADS", "3")
    assert num_threads() == 3
    monkeypatch.delenv("DCNLAB_NUM_THREADS")
    assert num_threads() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "99999"])
def test_a_wrong_number_of_threads(monkeypatch, value):
    monkeypatch.setenv("DCNLAB_NUM_THREADS", value)
    with pytest.raises(ValueError, match="DCNLAB_NUM_THREADS must be a number from 1 to 4096"):
        num_threads()


def test_the_blas_follows(monkeypatch):
    with threadpoolctl.threadpool_limits(limits=None):
        monkeypatch.setattr(threads, "_limited", None)
        monkeypatch.setenv("DCNLAB_NUM_THREADS", "1")
        limit_blas()
        blas = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
        assert blas
        assert all(pool["num_threads"] == 1 for pool in blas)
