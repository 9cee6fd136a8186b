"""The list of everything public, docs/api/index.rst, from the package itself; autosummary writes a page for each."""

from __future__ import annotations

import importlib
from typing import Any

from generated import ROOT, remove, write_pages

import dcnlab

# Modules that are imported by their own name, beside those that `import dcnlab` brings.
OF_THEIR_OWN = (
    "catalogue",
    "gradient_table",
    "launch",
    "reference.loops",
    "reference.loops_layers",
    "reference.loops_regular",
    "reference.sampling",
    "train.augment",
    "train.data",
    "train.loop",
    "train.optimiser",
    "train.schedule",
    "train.settings",
    "train.state",
)


def modules() -> list[str]:
    """Return the names of the modules that have a page with all that is public in them."""
    brought = [name for name in dcnlab._SUBMODULES if hasattr(importlib.import_module(f"dcnlab.{name}"), "__all__")]
    return [f"dcnlab.{name}" for name in sorted({*brought, *OF_THEIR_OWN})]


def index() -> str:
    """Return the page: the names by the module that they live in, under the first line of its docstring."""
    lines = ["API", "===", "", "Everything in the first part is imported from ``dcnlab`` itself.", ""]
    errors = "dcnlab.errors"
    homes = {**dcnlab._HOMES, errors: [*dcnlab._HOMES[errors], "BackendUnavailable"]}  # the one that is always there
    for home, names in homes.items():
        lines += _section(_first_sentence(home)) + _table([f"~dcnlab.{name}" for name in names])
    lines += _section("Modules") + _table(modules(), template="module.rst")
    return "\n".join(lines) + "\n"


def _first_sentence(module: str) -> str:
    doc = importlib.import_module(module).__doc__ or ""
    return doc.strip().splitlines()[0].rstrip(".")


def _section(title: str) -> list[str]:
    return [title, "-" * len(title), ""]


def _table(names: list[str], template: str | None = None) -> list[str]:
    options = ["   :toctree: names", *([f"   :template: {template}"] if template else [])]
    return [".. autosummary::", *options, "", *(f"   {name}" for name in names), ""]


def _write(app: Any, config: Any) -> None:
    remove(ROOT / "docs" / "api" / "names")  # of autosummary, which does not remove what is gone
    write_pages(ROOT / "docs" / "api", {"index.rst": index()})


def setup(app: Any) -> dict[str, Any]:
    """Write the list before Sphinx looks for sources, and so before autosummary reads it."""
    app.connect("config-inited", _write)
    return {"parallel_read_safe": True}
