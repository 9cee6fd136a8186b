"""Execute notebooks in place: `python notebooks/execute.py [NAME.ipynb ...]`, all of them by default.

An executed notebook carries a stamp in its metadata: a digest of its code cells and of the recorded runs that it reads
(docs/results/*.json named in a code cell). A test compares the stamp with what stands there now, so that no stored
output is older than what made it.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER.parent / "docs" / "results"
MOST_BYTES, MOST_SECONDS = 400_000, 60
RECORD = re.compile(r"[\w-]+\.json")


def all_notebooks() -> list[Path]:
    """Return the notebooks of the course and of its exercises, in order."""
    return sorted(FOLDER.glob("*.ipynb")) + sorted(FOLDER.glob("exercises/*.ipynb"))


def digest(notebook: Any) -> str:
    """Return what decides a notebook's outputs, as 16 hex digits: its code, and the recorded runs that it names."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    names = sorted({name for source in sources for name in RECORD.findall(source)})
    found = hashlib.sha256("\0".join(sources).encode("utf-8"))
    for name in names:
        path = RESULTS / name
        if path.exists():
            found.update(name.encode("utf-8") + path.read_bytes())
    return found.hexdigest()[:16]


def run(notebook: Any, folder: Path) -> float:
    """Execute a notebook from a folder; return the seconds. Raises at the first cell that fails."""
    started = time.perf_counter()
    settings = {"timeout": 4 * MOST_SECONDS, "kernel_name": "python3", "resources": {"metadata": {"path": str(folder)}}}
    client = NotebookClient(notebook, **settings)
    client.create_kernel_manager()
    client.km.transport = "ipc"  # TCP would warn, and could be reached by others
    client.execute()
    return time.perf_counter() - started


def execute(path: Path) -> None:
    """Execute a notebook in place and stamp it; refuse one that is too large."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    seconds = run(notebook, path.parent)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day, which change with every run
    notebook.metadata["dcnlab"] = {"digest": digest(notebook)}
    text = nbformat.writes(notebook)
    if len(text.encode("utf-8")) > MOST_BYTES:
        raise ValueError(f"{path.name}: {len(text.encode('utf-8')):,} bytes, expected at most {MOST_BYTES:,}")
    path.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(f"{path.name}: {seconds:.0f} s, {len(text) // 1000} kB\n")


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")
    for name in sys.argv[1:] or all_notebooks():
        execute(Path(name))
