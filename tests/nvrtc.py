"""Tests that compile kernels for a GPU: skipped with the reason where NVRTC is not installed, unless it must be."""

from __future__ import annotations

import os

import pytest

from dcnlab.errors import BackendUnavailable
from dcnlab.launch.nvrtc import find_nvrtc


def require_nvrtc():
    try:
        return find_nvrtc()
    except BackendUnavailable as error:
        if os.environ.get("DCNLAB_REQUIRE_NVRTC") == "1":
            pytest.fail(f"DCNLAB_REQUIRE_NVRTC=1, but {error}")
        pytest.skip(str(error))


# A thread of 1024 has 32 registers where two such blocks must fit into a multiprocessor: 64 numbers do not.
SPILLING = """
__global__ void __launch_bounds__(1024, 2) crowded(float* x) {
    float a[64];
    for (int i = 0; i < 64; ++i) a[i] = x[i * 1024 + threadIdx.x];
    for (int k = 0; k < 9; ++k)
        for (int i = 0; i < 64; ++i) a[i] = a[i] * a[(7 * i + 3) % 64] + 1;
    for (int i = 0; i < 64; ++i) x[i * 1024 + threadIdx.x] = a[i];
}
"""
