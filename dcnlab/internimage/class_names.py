"""Names of ImageNet classes, read from the files of a package that has them; nothing of that package is run."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path

IMAGENET_1K = 1000
MOST_BYTES = 10_000_000  # such files have less than a megabyte


def class_names(classes: int) -> tuple[str, list[str]] | None:
    """Return the package that was found and the names of the classes, or None.

    Names are known for the 1000 classes of ImageNet-1k only, in their usual order (that of the WordNet numbers): it is
    not known which of several orders a model of ImageNet-22k has learned.

    Parameters
    ----------
    classes : int
        Of the model.
    """
    if classes != IMAGENET_1K:
        return None
    for package, read in READERS.items():
        folder = _folder(package)
        if folder is None:
            continue
        try:
            names = read(folder)
        except (OSError, ValueError, SyntaxError, KeyError, RecursionError, MemoryError):  # another version's files
            continue
        if len(names) == classes:
            return package, names
    return None


def _torchvision(folder: Path) -> list[str]:
    """Read the list of strings in torchvision/models/_meta.py."""
    for statement in ast.parse(_text(folder / "models" / "_meta.py")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "_IMAGENET_CATEGORIES":
            return [str(name) for name in ast.literal_eval(statement.value)]
    return []


def _timm(folder: Path) -> list[str]:
    """Read timm's WordNet numbers in order, and the words for each of them."""
    info = folder / "data" / "_info"
    lemmas = dict(line.split("\t", 1) for line in _text(info / "imagenet_synset_to_lemma.txt").splitlines() if line)
    return [lemmas[number] for number in _text(info / "imagenet_synsets.txt").split()]


READERS: dict[str, Callable[[Path], list[str]]] = {"torchvision": _torchvision, "timm": _timm}


def _folder(package: str) -> Path | None:
    """Return where a package is installed, without importing it."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # half installed, or removed from sys.modules
        return None
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def _text(path: Path) -> str:
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} is larger than expected")
    return path.read_text(encoding="utf-8")
