"""What the pages we write share: the folder, the style, figures, tables. A page is one file that needs no other."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100  # of figures that are saved


def writable_folder(out: str | os.PathLike[str]) -> Path:
    """Return the folder, made if missing; ValueError in one line if nothing can be written there."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot make the folder {str(out)!r}: {reason}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write to the folder {str(out)!r}: permission denied")
    return folder


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this many inches, without pyplot: a script's own figures stay its own."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_small(figure: Figure, path: Path) -> None:
    """Write a figure as PNG with a palette of 256 colours: a third of the size, and no one sees it."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    buffer.seek(0)
    full = Image.open(buffer).convert("RGB")
    full.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def page_part(package: str, name: str) -> str:
    """Return the text of a file that ships in a package."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def style() -> str:
    """Return the style sheet of all pages."""
    return page_part("dcnlab", "page.css")


def data_uri(content: bytes, kind: str) -> str:
    """Return content as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def figure_element(path: Path, caption: str) -> str:
    """Return a PNG file as a figure element that holds it."""
    source, text = data_uri(path.read_bytes(), "image/png"), html.escape(caption)
    return f'<figure><div class="wide"><img src="{source}" alt="{text}"></div><figcaption>{text}</figcaption></figure>'


def table_rows(head: Sequence[str], rows: Sequence[Sequence[str]], bad: Sequence[bool] | None = None) -> str:
    """Return the rows of a table; those that are bad are marked."""
    lines = ["<tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in head) + "</tr>"]
    for index, row in enumerate(rows):
        mark = ' class="bad"' if bad and bad[index] else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>")
    return "\n".join(lines)
