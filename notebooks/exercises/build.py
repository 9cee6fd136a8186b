"""Write the exercises' notebooks from `dcnlab.exercises`: `python notebooks/exercises/build.py [NAME ...]`.

The text of an exercise is in its module; its notebook is made from it. Execute what was written:
`python notebooks/execute.py notebooks/exercises/NN_name.ipynb`. A test compares the notebooks with the modules.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dcnlab import exercises
from dcnlab.exercises import Exercise, museum

FOLDER = Path(__file__).resolve().parent
MUSEUM = "99_bug_museum"
FOLDED = {"tags": ["hide-output"], "jupyter": {"outputs_hidden": True}}  # on the site, and in Jupyter


def notebook_of(exercise: Exercise) -> Any:
    """Return the notebook of an exercise, not yet executed."""
    name = exercise.name
    following = [other for other in map(exercises.get, exercises.names()) if other.number == exercise.number + 1]
    links = [f"- next: [exercise {other.number}, {other.title}]({other.file_name}.ipynb)" for other in following]
    go_on = [f"- {exercise.go_on}", *links, f"- a solution, when yours passes: solutions/{exercise.file_name}.py"]
    return _notebook(
        new_markdown_cell(f"# Exercise {exercise.number}: {exercise.title}\n{exercise.statement.rstrip()}"),
        new_code_cell(exercise.stub.strip()),
        new_code_cell(f'from dcnlab import exercises\n\nreport = exercises.check("{name}", {exercise.answer})'),
        new_markdown_cell("Run both cells again after every change. Stuck? Unfold the output of the next cell."),
        new_code_cell(f'exercises.hint("{name}", 1)', metadata=FOLDED),
        new_markdown_cell("## Where to go on\n\n" + "\n".join(go_on)),
    )


def museum_notebook() -> Any:
    """Return the notebook of the museum, not yet executed."""
    intro = new_markdown_cell(
        "# The bug museum\n\nReal mistakes, published where the links lead. Each exhibit is a few lines long and makes "
        "the mistake of the original; what it calls is right. You see where it disagrees with dcnlab, and a test that "
        "cannot see it. Say what is wrong: put the letter of your answer into `diagnose`, and run the cell. The last "
        "cell of each exhibit, folded, has the answer, a computation that proves it, and the corrected function.\n\n"
        "The habit to take home: ask of every test which mistakes it cannot see."
    )
    cells = [intro, new_code_cell("from dcnlab.exercises import museum")]
    for number, piece in enumerate(museum.pieces(), 1):
        cells += _exhibit(number, piece)
    go_on = "- [02 Offset layouts](../02_offset_layouts.ipynb): which channel is which, in both layouts"
    go_on += "\n- [05 Gradient checking](../05_gradient_checking.ipynb): how to check on a kink"
    return _notebook(*cells, new_markdown_cell(f"## Where to go on\n\n{go_on}"))


def _exhibit(number: int, piece: museum.Piece) -> list[Any]:
    code = f"```python\n{piece.code()}\n```"
    text = f"## {number}. {piece.title}\n\n{piece.story}\n\nSource: {piece.source}\n\n{code}"
    choices = "\n".join(f"- **{letter}** {choice.text}" for letter, choice in piece.choices.items())
    answer = 'print(museum.diagnose(piece, piece.answer), piece.proof(), piece.repaired(), sep="\\n\\n")'
    return [
        new_markdown_cell(text),
        new_code_cell(f'museum.get("{piece.name}").run()'),
        new_markdown_cell("A test that cannot see it:"),
        new_code_cell(f'museum.get("{piece.name}").passed()'),
        new_markdown_cell(f"{piece.question}\n\n{choices}"),
        new_code_cell(f'museum.diagnose("{piece.name}", "")  # your letter between the quotes'),
        new_code_cell(f'piece = museum.get("{piece.name}")\n{answer}', metadata=FOLDED),
    ]


def _notebook(*cells: Any) -> Any:
    notebook = new_notebook(cells=list(cells))
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return notebook


def all_notebooks() -> dict[str, Any]:
    """Return every notebook by the stem of its file."""
    made = {exercise.file_name: notebook_of(exercise) for exercise in map(exercises.get, exercises.names())}
    return {**made, MUSEUM: museum_notebook()}


if __name__ == "__main__":
    for stem, notebook in all_notebooks().items():
        if not sys.argv[1:] or any(name in stem for name in sys.argv[1:]):
            nbformat.write(notebook, FOLDER / f"{stem}.ipynb")
