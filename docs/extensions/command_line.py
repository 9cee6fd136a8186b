"""The directive `command-line`: every command's `--help`, from the parser itself."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from dcnlab.cli import _parser


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser's commands, those of its commands after each; the ones that only have commands are left out."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser
    for group in groups:
        for command in group.choices.values():
            yield from commands(command)


@contextmanager
def _narrow() -> Iterator[None]:
    """Let argparse set its help 88 columns wide, without colours, whatever the terminal is."""
    with patch.dict(os.environ, {"COLUMNS": "90", "NO_COLOR": "1"}):
        yield


class CommandLine(SphinxDirective):
    """A section for every command, with its help."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        found: list[nodes.Node] = []
        with _narrow():
            for command in commands(_parser()):
                section = nodes.section(ids=[command.prog.replace(" ", "-")], names=[command.prog])
                section += nodes.title("", "", nodes.literal("", command.prog))
                section += nodes.literal_block("", command.format_help(), language="text")
                found.append(section)
        return found


def setup(app: Any) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
