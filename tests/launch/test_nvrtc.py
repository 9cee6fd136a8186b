"""NVRTC without a GPU: what it says of a kernel, and that no rung spills registers on any architecture."""

import dataclasses
import json
from pathlib import Path

import pytest
from nvrtc import SPILLING, require_nvrtc

from dcnlab.compiled.ladder import instances
from dcnlab.compiled.rungs import RUNGS
from dcnlab.errors import BackendUnavailable
from dcnlab.launch import KernelCompileError
from dcnlab.launch import nvrtc as launch_nvrtc
from dcnlab.launch.nvrtc import ARCHITECTURES, Usage, find_nvrtc, usages
from dcnlab.launch.sources import read_source

RECORD = Path(__file__).parent.parent.parent / "docs" / "results" / "kernels.json"

SOURCE = """
template <typename T, int N>
__global__ void tile(const T* x, T* y) {
    __shared__ T shared[N];
    shared[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = shared[N - 1 - threadIdx.x];
}
__device__ __noinline__ float called(const float* x, int k) {
    float a[64], sum = 0;
    for (int i = 0; i < 64; ++i) a[i] = x[i];
    for (int i = 0; i < 64; ++i) a[i * k % 64] += x[i];
    for (int i = 0; i < 64; ++i) sum += a[i];
    return sum;
}
__global__ void calls(const float* x, float* y) {
    y[0] = called(x, int(x[3]));
}
"""


@pytest.fixture(scope="module")
def nvrtc():
    return require_nvrtc()


@pytest.fixture(scope="module")
def recorded():
    return json.loads(RECORD.read_text(encoding="utf-8"))["compiled"]


# The only place that compiles the rungs for every architecture: everything that asks for that asks here.
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("rung", RUNGS.values(), ids=lambda rung: rung.path)
def test_every_instance_that_a_gpu_uses_compiles_without_spills_as_recorded(nvrtc, recorded, rung, architecture):
    found = nvrtc.compile(read_source(rung.path), instances(rung, "cuda"), architecture)
    spilling = {name: needs for name, needs in found.items() if needs.spills}
    assert not spilling
    if nvrtc.version == recorded["nvrtc"]:  # another one allots registers in another way
        here = {name: by[architecture] for name, by in recorded["rungs"].get(rung.path, {}).items()}
        assert here == {name: dataclasses.asdict(needs) for name, needs in found.items()}, (
            "run: dcnlab kernels compile --out docs/results/kernels.json; python docs/refresh.py"
        )


def test_instances_by_name(nvrtc):
    found = nvrtc.compile(read_source(SOURCE), ["tile<float, 100>", "tile<double, 32>", "calls"], "sm_90")
    assert list(found) == ["tile<float, 100>", "tile<double, 32>", "calls"]
    assert found["tile<float, 100>"].shared_bytes == 400
    assert found["tile<double, 32>"].shared_bytes == 256
    assert all(8 <= needs.registers <= 255 and not needs.spills for needs in found.values())
    assert found["tile<float, 100>"].stack_bytes == 0
    assert found["calls"].stack_bytes >= 256, "what a called function keeps there is the kernel's"


def test_spills_are_seen(nvrtc):
    needs = nvrtc.compile(read_source(SPILLING), ["crowded"], "sm_90")["crowded"]
    assert needs.registers == 32
    assert needs.spills
    assert needs.spill_stores > 0 < needs.spill_loads
    assert needs.stack_bytes > 0


def test_a_file_finds_what_lies_beside_it(nvrtc, tmp_path):
    (tmp_path / "factor.cuh").write_text("constexpr int FACTOR = 3;\n")
    kernel = tmp_path / "mine.cu"
    kernel.write_text(
        '#include "factor.cuh"\n#include "scattered.cuh"\n#include <cuda_fp16.h>\n'
        "__global__ void mine(__half* x) { x[0] = __float2half(FACTOR); }\n"
    )
    assert not nvrtc.compile(read_source(kernel), ["mine"], "sm_75")["mine"].spills


def test_an_error_has_file_and_line(nvrtc, tmp_path):
    kernel = tmp_path / "mine.cu"
    kernel.write_text("__global__ void mine(float* x) {\n    x[0] = y;\n}\n")
    with pytest.raises(KernelCompileError) as error:
        nvrtc.compile(read_source(kernel), ["mine"], "sm_80")
    assert str(error.value) == 'mine.cu does not compile for sm_80: mine.cu:2: identifier "y" is undefined'
    with pytest.raises(KernelCompileError, match=r"kernel\.cu does not compile for sm_80: .* which instance of .*tile"):
        nvrtc.compile(read_source(SOURCE), ["tile<float>"], "sm_80")
    with pytest.raises(ValueError, match=r"architecture must be one that NVRTC .* knows \(sm_75, .*\), got 'sm_1'"):
        nvrtc.compile(read_source(kernel), ["mine"], "sm_1")


def test_the_log_of_older_assemblers():
    log = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1fPf' for 'sm_75'
ptxas info    : Function properties for _Z1fPf
    24 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 30 registers, 400 bytes smem, 356 bytes cmem[0]
ptxas info    : Compiling entry function '_Z1gPf' for 'sm_75'
ptxas info    : Function properties for _Z1gPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, 352 bytes cmem[0]
"""
    assert usages(log) == {"_Z1fPf": Usage(30, 400, 24, 8, 16), "_Z1gPf": Usage(12, 0, 0, 0, 0)}
    assert usages("") == {}
    with pytest.raises(RuntimeError, match="does not say how many registers f needs"):
        usages("ptxas info    : Compiling entry function 'f' for 'sm_75'\n")


def test_without_nvrtc(monkeypatch, tmp_path):
    find_nvrtc.cache_clear()
    monkeypatch.setattr(launch_nvrtc, "_folders", lambda: iter([tmp_path]))
    try:
        with pytest.raises(
            BackendUnavailable, match="is not installed: pip install nvidia-cuda-nvrtc nvidia-cuda-runtime"
        ):
            find_nvrtc()
    finally:
        find_nvrtc.cache_clear()
