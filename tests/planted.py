"""Planted bugs: how their lines are marked, and which of them a compiler hides."""

from __future__ import annotations

import re

import pytest

from dcnlab.launch import find_compiler

# g++ looks at the whole access that is written; clang first makes it as small as what is used of it.
CLANG_MISSES = {"misaligned_vector", "halo_off_by_one", "misaligned"}


def skip_what_clang_misses(name):
    if name in CLANG_MISSES and "clang" in find_compiler().version:
        pytest.skip("clang narrows this access before it is looked at")


def bug_lines(source, name, mark):
    """The lines of kernel `name` that carry a mark."""
    lines = source.splitlines()
    start = next(i for i, line in enumerate(lines) if re.search(rf"\bvoid {name}\(", line))
    end = next((i for i in range(start + 1, len(lines)) if "__global__" in lines[i]), len(lines))
    return [i + 1 for i in range(start, end) if re.search(rf"//.*\b{mark}\b", lines[i])]
