"""mode="ubsan" names the line of undefined behaviour; crashes end the launch, not the process."""

import re

import numpy as np
import pytest
from planted import bug_lines, skip_what_clang_misses

from dcnlab.launch import KernelFault, module

pytestmark = pytest.mark.check_kernels

UNDEFINED = r"""
extern "C" {
__global__ void overflow(const float* x, int* y, int n) {
    int i = (threadIdx.x + 1) * 70000;
    y[threadIdx.x] = i * n * n * n;  // BUG
}
__global__ void shift(const float* x, int* y, int n) {
    y[0] = 1 << (n * 2);  // BUG
}
__global__ void division(const float* x, int* y, int n) {
    y[0] = n / (n - 20);  // BUG
}
__global__ void nan_to_int(const float* x, int* y, int n) {
    y[0] = int(x[0] / x[1]);  // BUG
}
__global__ void misaligned(const float* x, int* y, int n) {
    float2 v = *reinterpret_cast<const float2*>(reinterpret_cast<const char*>(x) + 2);  // BUG
    y[0] = v.x;
}
__global__ void shared_index(const float* x, int* y, int n) {
    __shared__ int s[16];
    s[threadIdx.x % 16] = 1;
    y[0] = s[n];  // BUG
}
__global__ void local_index(const float* x, int* y, int n) {
    int s[16] = {};
    for (int i = 0; i <= 16; ++i) s[i] = i + n;  // BUG
    y[0] = s[3];
}
__global__ void null_reference(const float* x, int* y, int n) {
    const float* p = n > 0 ? nullptr : x;
    y[0] = int(p[0]);  // BUG
}
}
"""
KINDS = {"shared_index": "out of bounds", "local_index": "out of bounds", "null_reference": "null pointer"}
KINDS["misaligned"] = "misaligned access"


@pytest.mark.parametrize("name", re.findall(r"void (\w+)\(", UNDEFINED))
def test_undefined_behaviour_is_reported_with_its_line(compiler, name):
    skip_what_clang_misses(name)
    kernels = module(UNDEFINED, target="cpu", mode="ubsan")
    with pytest.raises(KernelFault) as caught:
        kernels[name][1, 32](np.zeros(4, np.float32), np.zeros(32, np.int32), 20)
    fault = caught.value
    assert fault.kind == KINDS.get(name, "undefined behaviour"), str(fault)
    assert [fault.line] == bug_lines(UNDEFINED, name, "BUG"), str(fault)
    assert f"{name}: {fault.kind} at kernel.cu:{fault.line}, block (0, 0, 0), thread (" in str(fault)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_crash_in_fast_mode_ends_the_launch_not_the_process(compiler, monkeypatch, threads):
    monkeypatch.setenv("DCNLAB_NUM_THREADS", str(threads))
    source = r"""
    extern "C" __global__ void wild(int* y, long long far) { if (blockIdx.x == 3) y[far] = 1; else y[blockIdx.x] = 1; }
    extern "C" __global__ void divide(int* y, int n) { y[0] = 5 / n; }
    __device__ int deep(int n) {
        volatile int room[1000];
        room[n % 1000] = n;
        return n ? deep(n - 1) + room[n % 1000] : 0;
    }
    extern "C" __global__ void overflow(int* y, int n) { y[0] = deep(n); }
    """
    kernels = module(source, target="cpu")
    y = np.zeros(8, np.int32)
    for _ in range(3):
        with pytest.raises(
            KernelFault, match=r"memory fault at .*, block \(3, 0, 0\), thread \(0, 0, 0\): access to address"
        ):
            kernels["wild"][8, 1](y, 1 << 45)
        with pytest.raises(KernelFault, match=r"arithmetic fault at .*: integer division by zero"):
            kernels["divide"][1, 1](y, 0)
        with pytest.raises(KernelFault, match="memory fault"):
            kernels["overflow"][1, 1](y, 100_000)
    kernels["wild"][3, 1](y, 0)
    assert y[:3].all()
