"""kernels/README.md and every file of CUDA C++ as pages of the site, in docs/kernels."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from generated import ROOT, write_pages
from repository_links import KERNEL_CODE, site_links

CODE_PAGE = """---
orphan: true
---
# `{name}`

Back to the [ladder of kernels](/kernels/index.md).

```{{literalinclude}} {up}/{path}
:language: cuda
:linenos:
```
"""


def pages() -> dict[str, str]:
    """Return the text of the pages by their names in docs/kernels."""
    readme = (ROOT / "kernels" / "README.md").read_text(encoding="utf-8")
    found = {"index.md": site_links(readme, PurePosixPath("kernels/README.md"))}
    for path in sorted((ROOT / "kernels").rglob("*")):
        if path.suffix in KERNEL_CODE:
            name = path.relative_to(ROOT / "kernels").as_posix()
            up = "/".join([".."] * (name.count("/") + 2))  # from the page's folder to the repository
            found[f"{name}.md"] = CODE_PAGE.format(name=name, up=up, path=f"kernels/{name}")
    return found


def setup(app: Any) -> dict[str, Any]:
    """Write the pages before Sphinx looks for sources, which is before the builder is there."""
    app.connect("config-inited", lambda app, config: write_pages(ROOT / "docs" / "kernels", pages()))
    return {"parallel_read_safe": True}
