"""The examples of the pages: those with >>> run, what the shell shows is what it says, the rest is Python."""

import ast
import doctest
import re
from pathlib import Path

import pytest
from compiler import require_compiler

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("howto", "reference", "explanation")
PAGES = [ROOT / "docs" / "index.md", *(path for name in FOLDERS for path in sorted(ROOT.glob(f"docs/{name}/*.md")))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path, language):
    """Return the code blocks of a page in a language: their text, and the line that they begin in."""
    text = path.read_text(encoding="utf-8")
    return [(m[2], text.count("\n", 0, m.start(2))) for m in BLOCK.finditer(text) if m[1] == language]


def those_with(language):
    found = [path for path in PAGES if blocks(path, language)]
    return pytest.mark.parametrize("path", found, ids=[path.relative_to(ROOT / "docs").as_posix() for path in found])


def failures(path):
    """Run a page's examples in one namespace, as a reader types them; return what doctest says of those that fail."""
    names, said = {"__name__": "__main__"}, []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    for text, line in blocks(path, "pycon"):
        test = doctest.DocTestParser().get_doctest(text, names, path.name, str(path), line)
        assert test.examples, f"{path.name}:{line}: a block without examples"
        runner.run(test, out=said.append, clear_globs=False)
        names = test.globs
    return "".join(said)


@those_with("pycon")
def test_examples_give_what_the_page_shows(path):
    if any("dcnlab.launch" in text for text, _ in blocks(path, "pycon")):
        require_compiler()
    assert failures(path) == ""


def test_a_wrong_example_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("A\n```pycon\n>>> n = 2\n```\nand\n```pycon\n>>> n + 1\n4\n```\n", encoding="utf-8")
    said = failures(page)
    assert "line 7" in said
    assert "Expected:\n    4\nGot:\n    3" in said


@those_with("python")
def test_what_is_not_run_is_python(path):
    for text, _ in blocks(path, "python"):
        ast.parse(text)


def test_the_checked_kernel_prints_what_the_page_shows(tmp_path, monkeypatch, capsys):
    from dcnlab.cli import main

    require_compiler()
    page = ROOT / "docs" / "howto" / "check_a_kernel.md"
    (tmp_path / "saxpy.cu").write_text(blocks(page, "cuda")[0][0], encoding="utf-8")
    command, *expected = blocks(page, "console")[0][0].splitlines()
    monkeypatch.chdir(tmp_path)
    assert main(command.removeprefix("$ dcnlab ").split()) == 0
    assert capsys.readouterr().out.splitlines() == expected
