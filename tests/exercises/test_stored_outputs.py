"""What the notebooks of the exercises show is what their cells print today: hints, reports and exhibits included."""

import ast
import contextlib
import io
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

from dcnlab import exercises
from dcnlab.exercises.function_check import FunctionCheck

FOLDER = Path(__file__).resolve().parents[2] / "notebooks" / "exercises"
# Kernels are left out: what is printed about them may depend on the compiler.
STEMS = [e.file_name for e in map(exercises.get, exercises.names()) if isinstance(e.checker, FunctionCheck)]
NUMBER = re.compile(r"(?<![\w.])-?\d+\.?\d*(?:e[+-]?\d+)?")


def stored_text(cell):
    return "".join(output.get("text") or output["data"]["text/plain"] for output in cell.outputs)


def replay(cell, namespace):
    """Run a cell as a notebook does: the value of a last expression is shown."""
    body = ast.parse(cell.source).body
    shown = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(body, []), "<cell>", "exec"), namespace)
        value = eval(compile(ast.Expression(shown.value), "<cell>", "eval"), namespace) if shown else None
    return printed.getvalue() + ("" if value is None else repr(value))


@pytest.mark.parametrize("stem", [*STEMS, "99_bug_museum"])
def test_the_stored_outputs_are_up_to_date(stem):
    namespace = {}
    for cell in nbformat.read(FOLDER / f"{stem}.ipynb", as_version=4).cells:
        if cell.cell_type != "code":
            continue
        stored, now = stored_text(cell).rstrip(), replay(cell, namespace).rstrip()
        assert NUMBER.sub("#", stored).split() == NUMBER.sub("#", now).split()
        numbers = [np.array(NUMBER.findall(text), float) for text in (stored, now)]
        np.testing.assert_allclose(*numbers, rtol=2e-4)  # five digits are shown
