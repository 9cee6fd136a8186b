"""Pages that are made from something else: written before Sphinx reads its sources, into folders that git ignores."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def write_pages(folder: Path, pages: Mapping[str, str]) -> None:
    """Make a folder hold exactly these pages, by name; one that has not changed is left alone, and not read anew."""
    if folder.is_dir():
        for path in folder.rglob("*"):
            if path.is_file() and path.relative_to(folder).as_posix() not in pages:
                path.unlink()
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def remove(folder: Path) -> None:
    """Remove a folder of generated pages, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
