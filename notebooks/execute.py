"""Execute notebooks in place: `python notebooks/execute.py [NAME.ipynb ...]`, all by default, or the stale ones.

An executed notebook carries a stamp in its metadata: a digest of its code cells, of the recorded runs that it reads
(docs/results/*.json named in a code cell) and, where a cell mentions kernels, of the kernels and their GPU runs. A test
compares the stamp with what stands there now, so that no stored output is older than what made it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parent
RESULTS, KERNELS = FOLDER.parent / "docs" / "results", FOLDER.parent / "kernels"
MOST_BYTES, MOST_SECONDS = 400_000, 60
RECORD = re.compile(r"[\w-]+\.json")


def all_notebooks() -> list[Path]:
    """Return the notebooks of the course and of its exercises, in order."""
    return sorted(FOLDER.glob("*.ipynb")) + sorted(FOLDER.glob("exercises/*.ipynb"))


def digest(notebook: Any) -> str:
    """Return what decides a notebook's outputs, as 16 hex digits: its code, and the files that it reads."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    paths = [RESULTS / name for name in sorted({name for source in sources for name in RECORD.findall(source)})]
    if any("kernels" in source for source in sources):
        paths += sorted([*KERNELS.rglob("*.cu"), *KERNELS.rglob("*.cuh"), *KERNELS.glob("results/*.json")])
    found = hashlib.sha256("\0".join(sources).encode("utf-8"))
    for path in paths:
        if path.exists():
            found.update(path.name.encode("utf-8") + path.read_bytes())
    return found.hexdigest()[:16]


def is_stale(notebook: Any) -> bool:
    """Return whether the stored outputs are older than what they come from, or were never made."""
    return bool(notebook.metadata.get("dcnlab", {}).get("digest") != digest(notebook))


def faults(notebook: Any) -> list[str]:
    """Return what is wrong with the stored outputs, a line each: cells not run in order, errors, warnings."""
    found, turn = [], 0
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        turn += 1
        if cell.execution_count != turn:
            found.append(f"cell {number} was run as number {cell.execution_count}, expected {turn}")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {number} ended with {output.ename}: {output.evalue}")
            elif output.get("name") == "stderr":
                found.append(f"cell {number} wrote to stderr: {output.text.strip()}")
    return found


def run(notebook: Any, folder: Path) -> float:
    """Execute a notebook from a folder; return the seconds. Raises at the first cell that fails."""
    started = time.perf_counter()
    settings = {"timeout": 4 * MOST_SECONDS, "kernel_name": "python3", "resources": {"metadata": {"path": str(folder)}}}
    client = NotebookClient(notebook, **settings)
    with tempfile.TemporaryDirectory() as sockets:
        manager = client.create_kernel_manager()
        manager.transport = "ipc"  # TCP would warn, and could be reached by others
        manager.ip = str(Path(sockets) / "kernel")  # a path: by default a name, taken in whatever folder one is in
        client.execute()
    return time.perf_counter() - started


def execute(path: Path) -> None:
    """Execute a notebook in place and stamp it; refuse one that warns, or that is too large."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    seconds = run(notebook, path.parent)
    if wrong := faults(notebook):
        raise ValueError(f"{path.name}: {'; '.join(wrong)}")
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day, which change with every run
    notebook.metadata["dcnlab"] = {"digest": digest(notebook)}
    text = nbformat.writes(notebook)
    if len(text.encode("utf-8")) > MOST_BYTES:
        raise ValueError(f"{path.name}: {len(text.encode('utf-8')):,} bytes, expected at most {MOST_BYTES:,}")
    path.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(f"{path.name}: {seconds:.0f} s, {len(text) // 1000} kB\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Execute what the command line names; return the exit status: 0 fine, 1 a notebook failed."""
    parser = argparse.ArgumentParser(description="Execute notebooks in place, and stamp them.")
    parser.add_argument("names", nargs="*", type=Path, metavar="NAME.ipynb", help="(default: all)")
    parser.add_argument("--stale", action="store_true", help="only those whose outputs are older than their sources")
    arguments = parser.parse_args(argv)
    failed = False
    for path in arguments.names or all_notebooks():
        try:
            if not arguments.stale or is_stale(nbformat.read(path, as_version=4)):
                execute(path)
        except (OSError, ValueError, CellExecutionError) as error:
            sys.stderr.write(f"{path}: {error}\n")
            failed = True
    return int(failed)


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")
    sys.exit(main())
