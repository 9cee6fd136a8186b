"""Tables in plain text, for reports that people read in a terminal."""

from __future__ import annotations


def format_table(header: list[str], lines: list[list[str]]) -> str:
    """Return lines of text as a table with aligned columns."""
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    ruled = [header, ["-" * width for width in widths], *lines]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in ruled)
