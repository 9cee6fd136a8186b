"""The package itself: what an import costs and brings, backends, configuration, the command line."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dcnlab
from dcnlab import backends, cli
from dcnlab.bench import memory, ops
from dcnlab.bench.timing import interleaved, ratio


def python(code):
    """Run code in a fresh interpreter; return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_brings_nothing_heavy():
    """The promise is under 0.3 s; what decides it is what gets imported, and that does not depend on the machine."""
    loaded = python("import sys, dcnlab; print(' '.join(sorted({m.partition('.')[0] for m in sys.modules})))").split()
    heavy = {"scipy", "matplotlib", "PIL", "cupy", "torch", "torchvision", "onnxruntime", "tqdm", "threadpoolctl"}
    assert not heavy & set(loaded)


def test_the_operators_and_the_command_line_never_import_cupy_or_torch():
    code = """
import sys, numpy as np, dcnlab
dcnlab.dcnv3(np.ones((1, 4, 4, 2)), np.zeros((1, 4, 4, 18)), np.ones((1, 4, 4, 9)))
dcnlab.show_config()
print('LOADED', {'cupy', 'torch', 'torchvision'} & set(sys.modules))
"""
    assert "LOADED set()" in python(code)


def test_every_public_name_is_there_and_documented():
    for name in dcnlab.__all__:
        value = getattr(dcnlab, name)
        assert name == "__version__" or value.__doc__, f"dcnlab.{name} has no docstring"
        assert name in dir(dcnlab)
    with pytest.raises(AttributeError, match="module 'dcnlab' has no attribute 'nothing'"):
        _ = dcnlab.nothing


def test_type_checkers_see_every_public_name():
    source = Path(dcnlab.__file__).read_text(encoding="utf-8")
    for name in set(dcnlab.__all__) - {"__version__", "BackendUnavailable"}:
        assert f"import {name} as {name}" in source or f"import dcnlab.{name} as {name}" in source


# -- backends ------------------------------------------------------------------------------------------------------


def arguments():
    return np.ones((1, 4, 4, 2)), np.zeros((1, 4, 4, 18)), np.ones((1, 4, 4, 9))


CURES = {"cpu": "no C\\+\\+ compiler was found .* pip install ziglang", "cuda": "needs CuPy, .* pip install 'dcnlab"}


@pytest.fixture
def nothing_installed(monkeypatch):
    """A machine without compiler and CuPy."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setitem(sys.modules, "ziglang", None)


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_a_backend_that_cannot_run_says_why_and_never_falls_back(name, nothing_installed):
    with pytest.raises(dcnlab.BackendUnavailable, match=f"backend '{name}' cannot run: .*{CURES[name]}"):
        dcnlab.dcnv3(*arguments(), backend=name)
    with dcnlab.use_backend(name):
        with pytest.raises(dcnlab.BackendUnavailable):
            dcnlab.dcnv3_backward(np.ones((1, 4, 4, 2)), *arguments())
        dcnlab.dcnv3(*arguments(), backend="numpy")  # an explicit backend wins
    dcnlab.dcnv3(*arguments())  # and the block has ended


def test_an_unknown_backend():
    with pytest.raises(ValueError, match="backend must be one of numpy, cpu, cuda, got 'gpu'"):
        dcnlab.dcnv3(*arguments(), backend="gpu")
    with pytest.raises(ValueError, match="backend must be one of"), dcnlab.use_backend("gpu"):
        pass


def test_cupy_arrays_go_to_the_cuda_backend():
    class FakeCupyArray:
        __module__ = "cupy.core"

    assert backends.choose(None, FakeCupyArray()).name == "cuda"
    assert backends.choose("numpy", FakeCupyArray()).name == "numpy"
    with pytest.raises(TypeError, match=r"backend 'cpu' takes numpy arrays, got cupy; convert with cupy\.asnumpy"):
        backends.implementation(
            dataclasses.replace(backends.BACKENDS["cpu"], require=bool), "deformable", FakeCupyArray()
        )
    with pytest.raises(TypeError, match=r"backend 'cuda' takes cupy arrays, got numpy; convert with cupy\.asarray"):
        backends.implementation(dataclasses.replace(backends.BACKENDS["cuda"], require=bool), "deformable", np.ones(3))


# -- command line --------------------------------------------------------------------------------------------------


def test_info_lists_versions_and_every_backend_with_its_cure(capsys):
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    for word in ("dcnlab", "numpy", "scipy", np.__version__, *backends.BACKENDS):
        assert word in text
    for backend in backends.BACKENDS.values():
        assert backend.state()[1] in text


def test_gradcheck_command_prints_the_table_and_exits_0(capsys):
    assert cli.main(["gradcheck", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "checks passed, worst relative error" in out
    assert "deform_conv2d" in out


def test_gradcheck_command_on_a_backend_that_is_off_exits_2(capsys, nothing_installed):
    assert cli.main(["gradcheck", "--backend", "cpu"]) == 2
    assert capsys.readouterr().err.startswith("dcnlab gradcheck: backend 'cpu' cannot run: ")


def test_gradcheck_command_exits_1_when_a_gradient_is_wrong(monkeypatch, capsys):
    from dcnlab.reference import deformable

    right = deformable.dcnv3_backward
    monkeypatch.setattr(deformable, "dcnv3_backward", lambda *a: right(*a)._replace(mask=1.001 * right(*a).mask))
    assert cli.main(["gradcheck"]) == 1
    assert "WRONG" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [[], ["nonsense"], ["gradcheck", "--seed", "-1"], ["bench"], ["bench", "ops", "--repeats", "0"]]
)
def test_bad_command_lines_exit_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    assert capsys.readouterr().err


def test_python_m_dcnlab_is_the_command():
    done = subprocess.run([sys.executable, "-m", "dcnlab", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"dcnlab {dcnlab.__version__}\n"


# -- benchmarks: the machinery, never the speed --------------------------------------------------------------------


def test_ratios_are_taken_round_by_round():
    assert ratio([2.0, 40.0, 6.0], [1.0, 10.0, 2.0]) == 3.0
    calls = []
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3, "one round of warm-up, then turn by turn"
    assert all(len(s) == 2 for s in seconds.values())


def test_bench_ops_measures_and_records(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ops, "DEFORM_SIZES", ((4, 8),))
    monkeypatch.setattr(ops, "DCNV3_SIZE", (4, 8, 2))
    out = tmp_path / "ops.json"
    assert cli.main(["bench", "ops", "--repeats", "2", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    text = capsys.readouterr().out
    assert record["deform_conv2d"][0]["size"] == "4ch 8x8"
    assert record["deform_conv2d"][0]["ratio"]["np.matmul"] == 1.0
    assert record["dcnv3"]["largest_difference"] < 1e-5, "the straightforward version computes the same"
    assert record["machine"]["numpy"] == np.__version__
    assert "bound on the ratio" in text


def test_workspace_is_bounded():
    """1x64x512x512, 3x3: less than 1 GB beyond arguments and results, forward and backward."""
    found = memory.measure()
    assert found["shape"] == [1, 64, 512, 512]
    assert 0 < found["forward_workspace_mb"] < ops.MEMORY_BOUND_MB
    assert 0 < found["backward_workspace_mb"] < ops.MEMORY_BOUND_MB
