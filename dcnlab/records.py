"""Records of runs: the JSON files that pages show."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def write_part(path: Path, name: str, part: Any) -> None:
    """Write one part of a record of several, {name: part, ...}; the others stay as they are.

    Raises
    ------
    ValueError
        When the file is there and is no such record.
    """
    record: Any = {}
    if path.exists():
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"{path} is there and is no record of kernels; give another file")
    path.write_text(as_json(record | {name: part}) + "\n", encoding="utf-8")


def as_json(record: Any) -> str:
    """Return a record as JSON whose innermost lists and objects stand on one line each.

    >>> print(as_json({"a": {"b": [1, 2]}}))
    {
     "a": {
      "b": [1, 2]
     }
    }
    """
    return re.sub(r"([\[{])\s*([^\[\]{}]*?)\s*([\]}])", _on_one_line, json.dumps(record, indent=1))


def _on_one_line(found: re.Match[str]) -> str:
    return found[1] + re.sub(r"\n\s*", " ", found[2]) + found[3]
