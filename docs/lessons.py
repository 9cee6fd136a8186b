"""What README.md and the site show of a notebook: its title, what it is about, and one picture."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image
from PIL.PngImagePlugin import PngInfo

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "images" / "course"
SHOWN_WIDTH = 160  # pixels; the file has twice as many, for screens that show them
NONE_YET = "No notebook is here yet."


@dataclass(frozen=True)
class Lesson:
    """A notebook of the course."""

    path: Path

    @cached_property
    def notebook(self) -> Any:
        """The notebook as it is stored."""
        return nbformat.read(self.path, as_version=4)

    @property
    def number(self) -> str:
        """The two digits that its name begins with."""
        return self.path.stem.partition("_")[0]

    @cached_property
    def _text(self) -> tuple[str, str]:
        """The heading and the first paragraph."""
        for cell in self.notebook.cells:
            found = re.match(r"#\s+(.+?)\s*\n+(.+?)(?:\n\s*\n|\Z)", cell.source, re.DOTALL)
            if cell.cell_type == "markdown" and found:
                return found[1], " ".join(found[2].split())
        raise ValueError(f"{self.path.name} must begin with a heading '# ...' and a paragraph")

    @property
    def title(self) -> str:
        """The heading, without the notebook's number."""
        return re.sub(rf"^(?:(?:Notebook|Exercise)\s+)?0*{self.number.lstrip('0')}\s*[.:·–-]*\s*", "", self._text[0])

    @property
    def summary(self) -> str:
        """The first sentence of the first paragraph, links replaced by their text; of what one can do, only what."""
        sentence = re.match(r".+?[.?!](?=\s+[A-Z*`$\[(]|$)|.+", self._text[1])
        assert sentence is not None  # the paragraph is not empty
        text = re.sub(r"\[((?:`[^`]*`|[^\[\]])*)\]\([^)]*\)", r"\1", sentence[0])
        text = re.sub(r"^At the end of this notebook,? you can ", "", text)
        return (text[0].upper() + text[1:]).replace("|", "\\|")

    @cached_property
    def cover(self) -> bytes | None:
        """The PNG picture to show: of the code cell tagged "cover", else the first; None without pictures."""
        cells = [cell for cell in self.notebook.cells if cell.cell_type == "code"]
        cells.sort(key=lambda cell: "cover" not in cell.metadata.get("tags", []))  # stable: the tagged one first
        for cell in cells:
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output["data"]["image/png"])
        return None

    @property
    def picture(self) -> str:
        """The file's name of the small picture."""
        return f"{self.number}.png"

    def draw(self, folder: Path) -> None:
        """Write the small picture, which names what it was made from: see `made_from`."""
        if self.cover is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(self.cover)) as image:
            size = 2 * SHOWN_WIDTH, round(2 * SHOWN_WIDTH * image.height / image.width)
            small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS).quantize(128)
        notes = PngInfo()
        notes.add_text("source", hashlib.sha256(self.cover).hexdigest())
        small.save(folder / self.picture, optimize=True, pnginfo=notes)


def made_from(picture: Path) -> str | None:
    """Return the SHA-256 of the stored figure that a small picture was made from."""
    with Image.open(picture) as image:
        found = image.info.get("source")
    return None if found is None else str(found)


def lessons(folder: Path = ROOT / "notebooks") -> list[Lesson]:
    """Return the notebooks of the course, in order; not its exercises."""
    return [Lesson(path) for path in sorted(folder.glob("*.ipynb"))]


def exercises(folder: Path = ROOT / "notebooks") -> list[Lesson]:
    """Return the notebooks that the reader completes, in order."""
    return [Lesson(path) for path in sorted(folder.glob("exercises/*.ipynb"))]


def table(found: list[Lesson]) -> str:
    """Return the course's contents in Markdown, as README.md shows them, with links and pictures from its folder."""
    if not found:
        return NONE_YET
    lines = ["| | notebook |", "|---|---|"]
    for lesson in found:
        picture = ""
        if lesson.cover is not None:
            alt = html.escape(lesson.title, quote=True)
            picture = f'<img src="docs/images/course/{lesson.picture}" width="{SHOWN_WIDTH}" alt="{alt}">'
        lines.append(
            f"| {picture} | {lesson.number} [{lesson.title}](notebooks/{lesson.path.name})<br> {lesson.summary} |"
        )
    return "\n".join(lines)


def draw_pictures(found: list[Lesson], folder: Path = PICTURES) -> None:
    """Write the small picture of every notebook, and remove those of notebooks that are gone."""
    for lesson in found:
        lesson.draw(folder)
    for path in folder.glob("*.png"):
        if path.name not in {lesson.picture for lesson in found if lesson.cover is not None}:
            path.unlink()
