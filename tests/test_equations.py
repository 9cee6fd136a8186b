"""Equation tags: defined once in docs/equations.md, used in the Python and in the CUDA C++, and nowhere undefined."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TAG = re.compile(r"\[(eq:[a-z0-9]+\.\d+)\]")
DEFINITION = re.compile(r"^\*\*\[(eq:[a-z0-9]+\.\d+)\]\*\*", re.MULTILINE)
DEFINED = DEFINITION.findall((ROOT / "docs" / "equations.md").read_text(encoding="utf-8"))


def used_in(folder, *suffixes):
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    return {path: set(TAG.findall(path.read_text(encoding="utf-8"))) for path in files}


def test_every_equation_has_one_definition():
    assert len(DEFINED) > 10
    assert len(DEFINED) == len(set(DEFINED))


@pytest.mark.parametrize("tag", DEFINED)
def test_an_equation_stands_in_the_python_and_in_the_kernels(tag):
    assert any(tag in tags for tags in used_in("dcnlab", ".py").values()), f"{tag}: not in dcnlab"
    assert any(tag in tags for tags in used_in("kernels", ".cu", ".cuh").values()), f"{tag}: not in kernels"


def test_no_tag_is_used_that_is_not_defined():
    everywhere = used_in("dcnlab", ".py") | used_in("kernels", ".cu", ".cuh", ".md") | used_in("docs", ".md")
    for path, tags in everywhere.items():
        assert tags <= set(DEFINED), f"{path}: {tags - set(DEFINED)}"
