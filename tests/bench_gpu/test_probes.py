"""The probes of kernels/probes do what they say: on this CPU, as on a GPU."""

import numpy as np
import pytest
import strict_cupy

from dcnlab.bench.gpu import ceilings
from dcnlab.bench.gpu.ceilings import PROBES, SMALL, Scale
from dcnlab.bench.gpu.device import CudaDevice
from dcnlab.cli import main
from dcnlab.launch import kernels_folder, module

pytestmark = pytest.mark.usefixtures("compiler")
FILES = sorted((kernels_folder() / "probes").glob("*.cu"))


@pytest.fixture
def device(monkeypatch):
    strict_cupy.install(monkeypatch, kernels=True)
    return CudaDevice()


def test_every_file_is_a_probe_or_the_delay():
    assert {path.stem for path in FILES} == {probe.file for probe in PROBES} | {"delay"}
    assert len({probe.name for probe in PROBES}) == len(PROBES)


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: p.name)
def test_results_are_right(device, probe):
    assert ceilings.is_right(probe, device)
    assert ceilings.is_right(probe, device, Scale(bytes=5000, blocks=1, steps=1))


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: p.name)
def test_a_wrong_result_is_seen(device, probe):
    run = probe.make(np, SMALL)
    launch = module(probe.path, [probe.kernel], target="cpu")[probe.kernel][run.grid, ceilings.BLOCK]
    assert not run.right(), "nothing has been done yet"
    launch(*run.arguments)
    assert run.right()
    changed = run.arguments[1] if probe.name in ("copy", "gather") else run.arguments[0]
    changed.flat[changed.size // 2] += 1
    assert not run.right()


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: p.name)
def test_the_amount_is_what_is_done(device, probe):
    """Ten times the steps, or the bytes, are ten times the amount."""
    small = probe.make(np, Scale(bytes=32_000, blocks=2, steps=3)).amount
    large = probe.make(np, Scale(bytes=320_000, blocks=2, steps=30)).amount
    assert large == 10 * small
    known = {
        "copy": 32_000,
        "gather": 2 * 256 * 3 * 16,
        "reduce": 2 * 256 * 3,
        "reduce_v4": 2 * 256 * 3,
        "shared": 2 * 256 * 3,
        "fma": 2 * 256 * 3 * 8,
    }
    assert small == known[probe.name]


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: p.name)
def test_a_ceiling_is_an_amount_a_second(device, monkeypatch, probe):
    monkeypatch.setattr(device, "seconds", lambda rounds, ahead=True: ([0.5 * len(r) for r in rounds], False))
    found = ceilings.measure_ceiling(probe, device, SMALL)
    assert found["per_second"] == pytest.approx(probe.make(np, SMALL).amount / 0.5)


def test_the_delay_takes_its_steps():
    """Three steps of xorshift from 1, by hand."""
    result, state = np.zeros(1, np.uint32), 1
    module("probes/delay.cu", ["delay"], target="cpu")["delay"][1, 1](result, 3)
    for _ in range(3):
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
    assert result[0] == state


@pytest.mark.check_kernels
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_check_mode_and_ubsan_find_nothing(path, capsys):
    assert main(["kernels", "check", str(path)]) == 0
    assert capsys.readouterr().out.count(": clean (1 launch)") == (4 if path.stem == "reduce" else 2)


BUGS = {
    "copy": ("to[first + i * blockDim.x] = value[i]", "to[first + i] = value[i]", "data race"),
    "gather": ("2 * draw(state, sectors)", "2 * draw(state, 2 * sectors)", "out of bounds"),
    "reduce": ("atomicAdd(to, value)", "*to += value", "data race"),
    "shared": ("    }\n    __syncthreads();\n    for", "    }\n    for", "data race"),
    "fma": ("blockIdx.x * blockDim.x + threadIdx.x] = sum", "threadIdx.x] = sum", "data race"),
}


@pytest.mark.check_kernels
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name, tmp_path, capsys):
    old, new, kind = BUGS[name]
    source = (kernels_folder() / "probes" / f"{name}.cu").read_text()
    assert source.count(old) == 1
    (tmp_path / "bug.cu").write_text(source.replace(old, new))
    assert main(["kernels", "check", str(tmp_path / "bug.cu"), "--mode", "check"]) == 1
    assert f": {kind} at bug.cu:" in capsys.readouterr().out
