"""Tags of equations become links to their definitions, and public names in docstrings find their pages."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes

import dcnlab

TAG = re.compile(r"\[(eq:[a-z0-9]+\.\d+)\]")
DEFINED_IN = "equations"


def anchor(tag: str) -> str:
    """Return the anchor of an equation's definition.

    >>> anchor("eq:dcnv3.1")
    'eq-dcnv3-1'
    """
    return re.sub(r"[:.]", "-", tag)


def _link_tags(app: Any, doctree: nodes.document, docname: str) -> None:
    """Replace every tag in running text: by an anchor where the equation is defined, by a link everywhere else."""
    defined: set[str] = set()
    for text in list(doctree.findall(nodes.Text)):
        if TAG.search(text) and not _inside(text, nodes.literal, nodes.literal_block, nodes.reference, nodes.title):
            text.parent.replace(text, _pieces(app, docname, text, defined))


def _pieces(app: Any, docname: str, text: nodes.Text, defined: set[str]) -> list[nodes.Node]:
    page = "" if docname == DEFINED_IN else app.builder.get_relative_uri(docname, DEFINED_IN)
    found: list[nodes.Node] = []
    for number, piece in enumerate(TAG.split(text)):
        if number % 2 == 0:
            found += [nodes.Text(piece)] if piece else []
        elif docname == DEFINED_IN and isinstance(text.parent, nodes.strong) and piece not in defined:
            defined.add(piece)
            found.append(nodes.inline("", f"[{piece}]", ids=[anchor(piece)]))
        else:
            found.append(nodes.reference("", f"[{piece}]", refuri=f"{page}#{anchor(piece)}", internal=True))
    return found


def _inside(node: nodes.Node, *kinds: type[nodes.Node]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def _find_public_name(app: Any, env: Any, node: Any, content: nodes.Node) -> nodes.Node | None:
    """Resolve a bare name such as `dcnv3`, in whatever module's docstring it stands, if `dcnlab` has it."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or target.partition(".")[0] not in dcnlab.__all__:
        return None
    found: nodes.Node | None = env.get_domain("py").resolve_xref(
        env, node["refdoc"], app.builder, "obj", f"dcnlab.{target}", node, content
    )
    return found


def _add_anchors_of_homes(app: Any, doctree: nodes.document) -> None:
    """Let `dcnlab.softmax` be found as `dcnlab.ops.layers.softmax` too, as source pages link to it."""
    for signature in doctree.findall(addnodes.desc_signature):
        for name in list(signature["ids"]):
            short = name.removeprefix("dcnlab.")
            if short != name and short in dcnlab._HOME:
                signature["ids"].append(f"{dcnlab._HOME[short]}.{short}")


def _say_shape(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Write "shape (N, C)" for a parameter whose type is given as "(N, C)": Sphinx puts types in brackets."""
    for number, line in enumerate(lines):
        lines[number] = re.sub(r"^(:type [^:]+: )(?=\([A-Z])", r"\1shape ", line)


def setup(app: Any) -> dict[str, Any]:
    """Connect all four; the last after napoleon has made fields of the sections."""
    app.connect("doctree-read", _add_anchors_of_homes)
    app.connect("doctree-resolved", _link_tags)
    app.connect("missing-reference", _find_public_name)
    app.connect("autodoc-process-docstring", _say_shape, priority=900)
    return {"parallel_read_safe": True}
