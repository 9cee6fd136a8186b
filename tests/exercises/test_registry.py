"""What every exercise must do, whatever it asks for: added ones are covered by themselves."""

import importlib.util
import re
import runpy
from pathlib import Path

import nbformat
import pytest

from dcnlab import exercises

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks" / "exercises"
NAMES = exercises.names()


def build_module():
    spec = importlib.util.spec_from_file_location("build_exercises", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_of(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def solution(exercise):
    return runpy.run_path(str(FOLDER / "solutions" / f"{exercise.file_name}.py"))[exercise.answer]


def test_they_are_numbered_in_order():
    assert [exercises.get(name).number for name in NAMES] == list(range(1, len(NAMES) + 1))
    assert [exercises.get(name).name for name in NAMES] == NAMES
    with pytest.raises(ValueError, match=r"exercise must be one of bilinear_sample.*got 'nothing'"):
        exercises.get("nothing")


@pytest.mark.parametrize("name", NAMES)
def test_the_stub_fails_and_says_so(name, capsys):
    exercise = exercises.get(name)
    namespace = {}
    exec(exercise.stub, namespace)
    report = exercises.check(name, namespace[exercise.answer])
    assert not report.ok
    assert report.kind == "stub"
    text = capsys.readouterr().out
    assert text.startswith(f"{name}: not solved yet.\n")
    assert f'exercises.hint("{name}")' in text


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes(name, capsys):
    report = exercises.check(name, solution(exercises.get(name)))
    assert report.ok, str(report)
    assert report.kind == "solved"
    assert capsys.readouterr().out.startswith(f"{name}: solved.")


@pytest.mark.parametrize("answer", [None, 3, "", "int main() {}", object(), lambda: None], ids=range(6))
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_answer_gets_one_line(name, answer):
    report = exercises.check(name, answer)
    assert not report.ok
    assert report.finding
    assert "\n" not in report.finding


@pytest.mark.parametrize("name", NAMES)
def test_hints_come_one_after_the_other(name, capsys):
    hints = exercises.get(name).hints
    assert len(hints) >= 2
    for number, text in enumerate(hints, 1):
        exercises.hint(name, number)
        printed = " ".join(capsys.readouterr().out.split())
        assert printed.startswith(" ".join(f"Hint {number} of {len(hints)}: {text}".split()))
        assert (f'exercises.hint("{name}", {number + 1})' in printed) == (number < len(hints))
    for wrong in (0, len(hints) + 1, True, "1"):
        with pytest.raises(ValueError, match=f"{name} has hints 1 to {len(hints)}, got"):
            exercises.hint(name, wrong)


@pytest.mark.parametrize("name", NAMES)
def test_the_statement_cites_equations_that_exist(name):
    defined = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    for tag in re.findall(r"\[eq:[^\]]+\]", exercises.get(name).statement):
        assert f"**{tag}**" in defined


@pytest.mark.parametrize("stem", list(build_module().all_notebooks()))
def test_the_notebook_is_the_one_that_build_writes(stem):
    stored = nbformat.read(FOLDER / f"{stem}.ipynb", as_version=4)
    made = build_module().all_notebooks()[stem]
    assert code_of(stored) == code_of(made), "run python notebooks/exercises/build.py, then notebooks/execute.py"


def test_every_file_belongs_to_an_exercise():
    stems = set(build_module().all_notebooks())
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == stems
    assert {path.stem for path in (FOLDER / "solutions").glob("*.py")} == {exercises.get(n).file_name for n in NAMES}
