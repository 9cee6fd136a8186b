"""Links in the sources lead to files of the repository, so that they work there too; on the site they lead to pages."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath
from typing import Any

from generated import ROOT

# Code, where brackets are no links, or a link (no image): its text and its target.
CODE, LINK = r"^```.*?^```|`[^`\n]*`", r"(?<!!)\[((?:`[^`\n]*`|[^\[\]])*)\]\(([^)\s#]+)(#[^)\s]*)?\)"
CODE_OR_LINK = re.compile(f"{CODE}|{LINK}", re.MULTILINE | re.DOTALL)
KERNEL_CODE = (".cu", ".cuh", ".h", ".cpp")
GENERATED = ("api/", "course/", "kernels/")


def page_of(path: PurePosixPath) -> str | None:
    """Return the page of the site that shows a file of the repository; None where there is none."""
    name = path.as_posix()
    if name == "kernels/README.md":
        return "/kernels/index.md"
    if name in ("notebooks", "notebooks/exercises"):
        return "/course/index.md"
    if path.parts[0] == "kernels" and path.suffix in KERNEL_CODE:
        return f"/{name}.md"
    if path.parts[0] == "notebooks" and path.suffix == ".ipynb":
        return "/course/" + path.relative_to("notebooks").as_posix()
    if path.parts[0] == "docs" and path.suffix in (".md", ".rst"):
        return "/" + path.relative_to("docs").as_posix()
    return None


def site_links(text: str, page: PurePosixPath) -> str:
    """Return Markdown whose links to files of the repository lead to their pages; without a page only the text stays.

    Parameters
    ----------
    text : str
    page : PurePosixPath
        Where the text stands in the repository: what its relative links start from.
    """

    def replaced(match: re.Match[str]) -> str:
        shown, target, anchor = match[1], match[2], match[3] or ""
        if target is None or target.startswith("/") or re.match(r"[a-z]+:", target):
            return match[0]
        path = PurePosixPath(os.path.normpath(page.parent / target))
        if not (ROOT / path).exists():
            return match[0]  # a generated page, or a mistake, which Sphinx reports
        found = page_of(path)
        return shown if found is None else f"[{shown}]({found}{anchor})"

    return CODE_OR_LINK.sub(replaced, text)


def _on_read(app: Any, docname: str, source: list[str]) -> None:
    path = app.env.doc2path(docname, base=False)
    if str(path).endswith(".md") and not docname.startswith(GENERATED):
        source[0] = site_links(source[0], PurePosixPath("docs") / str(path))


def setup(app: Any) -> dict[str, Any]:
    """Rewrite every hand-written Markdown page as it is read."""
    app.connect("source-read", _on_read)
    return {"parallel_read_safe": True}
