"""The course: what is stored is up to date and clean, needs only what the extra `notebooks` installs, and runs."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"


def load(path):
    spec = importlib.util.spec_from_file_location("execute", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NOTEBOOKS = load(FOLDER / "execute.py").all_notebooks()
each_notebook = pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=[path.relative_to(FOLDER).with_suffix("").as_posix() for path in NOTEBOOKS]
)


@pytest.fixture
def tool():
    """Return notebooks/execute.py as a module, fresh for every test."""
    return load(FOLDER / "execute.py")


def read(path):
    return nbformat.read(path, as_version=4)


def run_tool(path):
    """Execute a notebook in a process of its own, as `python notebooks/execute.py` does."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(FOLDER / "execute.py"), str(path)]
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)


# -- the notebooks of the course -----------------------------------------------------------------------------------


@each_notebook
def test_outputs_are_not_older_than_their_sources(path, tool):
    name = path.relative_to(ROOT)
    assert not tool.is_stale(read(path)), f"{name}: run  python notebooks/execute.py {name}"


@each_notebook
def test_every_cell_was_run_in_order_and_none_failed_or_warned(path, tool):
    assert tool.faults(read(path)) == []


@each_notebook
def test_it_is_small(path, tool):
    assert path.stat().st_size <= tool.MOST_BYTES + 1  # and the end of the last line


@each_notebook
def test_it_imports_only_what_the_extra_installs(path):
    assert foreign_imports(read(path)) == set()


@pytest.mark.slow
@each_notebook
def test_it_runs(path, tmp_path):
    """In a copy of the folder, beside the recorded runs that it may read."""
    shutil.copytree(FOLDER, tmp_path / "notebooks")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "results").symlink_to(ROOT / "docs" / "results")
    done = run_tool(tmp_path / path.relative_to(ROOT))
    assert done.returncode == 0, done.stderr


# -- what a notebook may import ------------------------------------------------------------------------------------


def installed_by_the_extra():
    """Return the distributions that `pip install dcnlab[notebooks]` names, and IPython, which jupyter brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["notebooks"]]
    return {"ipython", *(Requirement(line).name.lower() for line in named)}


def foreign_imports(notebook):
    """Return the modules that a learner would not have, and what is handed to a shell."""
    allowed, homes = installed_by_the_extra(), packages_distributions()
    found = set()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        source = TransformerManager().transform_cell(cell.source)
        found |= {"a shell" for word in ("get_ipython().system", "get_ipython().getoutput") if word in source}
        for name in imported(source) - {"dcnlab"} - sys.stdlib_module_names:
            if not {home.lower() for home in homes.get(name, [])} & allowed:
                found.add(name)
    return found


def imported(source):
    """Return the first names of the modules that Python code imports, wherever it does."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "import numpy as np, dcnlab.viz\nfrom PIL import Image\nimport ipywidgets\nfrom IPython import display",
            set(),
        ),
        ("%config InlineBackend.figure_format = 'png'\nimport json", set()),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None", {"torch"}),
        ("from helpers import f\nimport pytest", {"helpers", "pytest"}),
        ("!pip install torch", {"a shell"}),
    ],
)
def test_foreign_imports_are_found(source, expected):
    assert foreign_imports(new_notebook(cells=[new_markdown_cell("import torch"), new_code_cell(source)])) == expected


# -- the tool ------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a notebook of code cells and returns its path."""

    def write(*sources):
        path = tmp_path / "00_tiny.ipynb"
        nbformat.write(new_notebook(cells=[new_markdown_cell("# Tiny"), *map(new_code_cell, sources)]), path)
        return path

    return write


@pytest.mark.slow
def test_executing_stamps_and_a_change_makes_stale(tool, written):
    path = written("x = 2", "print(x + 1)")
    assert tool.is_stale(read(path))
    done = run_tool(path)
    assert (done.returncode, done.stderr) == (0, "")
    notebook = read(path)
    assert notebook.cells[2].outputs[0].text == "3\n"
    assert not tool.is_stale(notebook)
    assert tool.faults(notebook) == []
    notebook.cells[0].source = "# Text decides no output"
    assert not tool.is_stale(notebook)
    notebook.cells[1].source = "x = 3"
    assert tool.is_stale(notebook)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "expected"),
    [("1 / 0", "ZeroDivisionError"), ("import warnings; warnings.warn('odd')", "cell 1 wrote to stderr")],
)
def test_a_notebook_that_fails_or_warns_is_refused(written, source, expected):
    path = written(source)
    before = path.read_bytes()
    done = run_tool(path)
    assert done.returncode == 1
    assert expected in done.stderr
    assert path.read_bytes() == before


def test_a_recorded_run_that_changes_makes_stale(tool, written, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "RESULTS", tmp_path)
    notebook = read(written('path = Path("../docs/results/demo.json")'))
    notebook.metadata["dcnlab"] = {"digest": tool.digest(notebook)}
    (tmp_path / "other.json").write_text("{}")
    assert not tool.is_stale(notebook)
    (tmp_path / "demo.json").write_text("{}")
    assert tool.is_stale(notebook)


def test_a_kernel_that_changes_makes_those_stale_that_show_kernels(tool, written, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "KERNELS", tmp_path / "kernels")
    notebooks = {source: read(written(source)) for source in ('show("kernels")', "1 + 1")}
    for notebook in notebooks.values():
        notebook.metadata["dcnlab"] = {"digest": tool.digest(notebook)}
    (tmp_path / "kernels" / "op").mkdir(parents=True)
    (tmp_path / "kernels" / "op" / "1_naive.cu").write_text("// changed")
    assert [tool.is_stale(notebook) for notebook in notebooks.values()] == [True, False]


def test_a_large_notebook_is_refused(tool, written, monkeypatch, capsys):
    path = written()
    monkeypatch.setattr(tool, "run", lambda notebook, folder: 0.0)
    monkeypatch.setattr(tool, "MOST_BYTES", 100)
    assert tool.main([str(path)]) == 1
    assert "bytes, expected at most 100" in capsys.readouterr().err
    assert tool.is_stale(read(path))


def test_only_stale_ones_on_request(tool, written, monkeypatch, capsys):
    path = written()
    ran = []
    monkeypatch.setattr(tool, "run", lambda notebook, folder: ran.append(folder) or 0.0)
    for _ in range(2):
        assert tool.main(["--stale", str(path)]) == 0
    assert ran == [path.parent]
    assert tool.main([str(path.parent / "none.ipynb")]) == 1
    assert "none.ipynb" in capsys.readouterr().err


def test_faults_of_stored_outputs(tool):
    failed = new_output("error", ename="ValueError", evalue="no", traceback=[])
    cells = [
        new_code_cell("a", execution_count=1),
        new_code_cell("", execution_count=None),
        new_code_cell("b", execution_count=3, outputs=[failed]),
        new_code_cell("c", execution_count=3, outputs=[new_output("stream", name="stderr", text="odd\n")]),
    ]
    assert tool.faults(new_notebook(cells=cells)) == [
        "cell 2 was run as number 3, expected 2",
        "cell 2 ended with ValueError: no",
        "cell 3 wrote to stderr: odd",
    ]
