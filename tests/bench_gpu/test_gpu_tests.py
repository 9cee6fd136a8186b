"""The tests of tests/gpu themselves: that they test, that they are skipped with a reason, that they can be required."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*options, **variables):
    environment = {k: v for k, v in os.environ.items() if k not in ("DCNLAB_REQUIRE_GPU", "DCNLAB_GPU_STAND_IN")}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/gpu", *options]
    child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return child.returncode, child.stdout


# As on a machine without CuPy, whatever is installed here.
WITHOUT = (
    "import sys; sys.modules['cupy'] = None; import pytest; "
    "sys.exit(pytest.main(['-q', '-rs', '-p', 'no:cacheprovider', 'tests/gpu', '-k', 'one_pixel']))"
)


@pytest.mark.parametrize(("required", "status", "said"), [("0", 0, "SKIPPED"), ("1", 1, "DCNLAB_REQUIRE_GPU=1, but")])
def test_without_cupy(required, status, said):
    environment = {**os.environ, "DCNLAB_REQUIRE_GPU": required, "PYTHONPATH": str(ROOT)}
    environment.pop("DCNLAB_GPU_STAND_IN", None)
    child = subprocess.run([sys.executable, "-c", WITHOUT], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert child.returncode == status, child.stdout
    assert said in child.stdout
    assert "needs CuPy, which is not installed; run: pip install 'dcnlab[cuda13]'" in child.stdout


@pytest.mark.slow
def test_they_pass_on_the_stand_in(compiler):
    status, out = run("-k", "naive or golden_networks or probes or one_pixel", DCNLAB_GPU_STAND_IN="1")
    assert status == 0, out[-3000:]
    assert "skipped" not in out


def test_a_wrong_kernel_fails_them(compiler, tmp_path):
    """Every rung's output a little larger than it should be: the tests must say so."""
    plugin = tmp_path / "wrong_kernels.py"
    plugin.write_text(
        "from dcnlab.compiled import deformable\n"
        "real = deformable.dcnv3\n"
        "deformable.dcnv3 = lambda *a, **k: real(*a, **k) * real(*a, **k).dtype.type(1.01)\n"
    )
    status, out = run(
        "-p",
        "wrong_kernels",
        "-k",
        "dcnv3_forward and 2_point and (golden or lattice) and float32",
        DCNLAB_GPU_STAND_IN="1",
        PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}",
    )
    assert status == 1, out[-3000:]
    assert "2 failed" in out
