"""The notebooks as pages of the site, in docs/course: their stored outputs, made fit for a page without a kernel."""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
from generated import ROOT, write_pages
from repository_links import site_links

sys.path.insert(0, str(ROOT / "docs"))
import lessons

WIDGET = "application/vnd.jupyter.widget-view+json"
# An animation of matplotlib asks for the icons of its buttons from a CDN; the theme has the same icons.
REMOTE = re.compile(r"<link\b[^>]*\bhref=[\"']https?:[^>]*>|<script\b[^>]*\bsrc=[\"']https?:[^>]*>\s*</script>")
INDEX = """# The course

Every notebook is shown as it was run; CI runs all of them. To move the sliders and change the
code, open them in Jupyter:

    pip install 'dcnlab[notebooks]'
    jupyter lab notebooks/

"""


def page(path: Path) -> str:
    """Return a notebook's text for the site: links to pages, no widgets, nothing from elsewhere."""
    notebook = nbformat.read(path, as_version=4)
    place = PurePosixPath(path.relative_to(ROOT).as_posix())
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = site_links(cell.source, place)
        elif cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := _local(output)) is not None]
    return str(nbformat.writes(notebook))


def _local(output: Any) -> Any | None:
    """Return an output without widgets and remote parts; None for a widget that has no other form."""
    data = output.get("data", {})
    if data.pop(WIDGET, None) is not None and set(data) <= {"text/plain"}:
        return None
    if "text/html" in data:
        data["text/html"] = REMOTE.sub("", data["text/html"])
    return output


def index(course: list[lessons.Lesson], exercises: list[lessons.Lesson]) -> str:
    """Return the page that lists the notebooks."""
    text = INDEX
    for title, found in (("Notebooks", course), ("Exercises", exercises)):
        names = [lesson.path.relative_to(ROOT / "notebooks").with_suffix("").as_posix() for lesson in found]
        text += f"## {title}\n\n" + (_grid(found, names) if found else f"{lessons.NONE_YET}\n\n")
    return text


def _grid(found: list[lessons.Lesson], names: list[str]) -> str:
    rows = []
    for lesson, name in zip(found, names, strict=True):
        picture = lessons.PICTURES / lesson.picture
        shown = lesson.cover is not None and picture.exists() and "/" not in name
        image = f"![](/images/course/{lesson.picture})" if shown else ""
        rows.append(f"| {image} | {lesson.number} [{lesson.title}](/course/{name}.ipynb)<br> {lesson.summary} |")
    tree = "\n".join(["```{toctree}", ":hidden:", *names, "```"])
    return "\n".join(["| | notebook |", "|---|---|", *rows, "", tree, "", ""])


def _write(app: Any, config: Any) -> None:
    course, exercises = lessons.lessons(), lessons.exercises()
    pages = {lesson.path.relative_to(ROOT / "notebooks").as_posix(): page(lesson.path) for lesson in course + exercises}
    write_pages(ROOT / "docs" / "course", {"index.md": index(course, exercises), **pages})


def setup(app: Any) -> dict[str, Any]:
    """Write the pages before Sphinx looks for sources, which is before the builder is there."""
    app.connect("config-inited", _write)
    return {"parallel_read_safe": True}
