"""The site: no warnings, every link and anchor leads somewhere, nothing comes from elsewhere, the API is complete."""

import importlib
import inspect
import re
from html.parser import HTMLParser
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import pytest

import dcnlab

pytestmark = pytest.mark.slow

# What a browser fetches to show a page. A link that one may click, and a form's target, are no such thing.
LOADED = {"audio", "embed", "iframe", "img", "input", "object", "script", "source", "track", "video"}
LOADED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "manifest", "apple-touch-icon"}


class Page(HTMLParser):
    """What a page links to, loads, and offers as anchors."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.anchors, self.in_style = [], [], set(), False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        self.in_style = tag == "style"
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in LOADED:
            self.loads += [found[name] for name in ("src", "data", "poster") if found.get(name)]
        if tag == "link" and LOADED_LINKS & set((found.get("rel") or "").split()):
            self.loads.append(found["href"])
        self.loads += styles(found.get("style") or "")

    def handle_data(self, data):
        if self.in_style:
            self.loads += styles(data)


def styles(text):
    """Return what CSS loads."""
    imports = re.findall(r"@import\s+[\"']([^\"']+)", text)
    return imports + re.findall(r"url\(\s*[\"']?([^\"')]+)", text)


def is_remote(target):
    return target.startswith("//") or urlsplit(target).scheme in ("http", "https", "ftp")


@pytest.fixture(scope="session")
def pages(built):
    site, _ = built
    found = {path.relative_to(site).as_posix(): path for path in site.rglob("*.html")}
    # _static has a template of the theme, which is no page.
    return {name: Page(path.read_text("utf-8")) for name, path in found.items() if not name.startswith("_static/")}


def test_sphinx_says_nothing(built):
    _, said = built
    assert said == ""


def test_every_link_leads_somewhere(built, pages):
    site, _ = built
    broken, followed = [], 0
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            followed += 1
            path = (site / name).parent.joinpath(unquote(parts.path)).resolve() if parts.path else site / name
            target = path.relative_to(site.resolve()).as_posix() if parts.path else name
            if not path.exists():
                broken.append(f"{name}: {link} is not there")
            elif parts.fragment and unquote(parts.fragment) not in {"", *pages[target].anchors}:
                broken.append(f"{name}: {link} has no such anchor")
    assert not broken, "\n".join(broken)
    assert followed > 1000


def test_nothing_is_loaded_from_elsewhere(built, pages):
    site, _ = built
    remote = [f"{name}: {target}" for name, page in pages.items() for target in page.loads if is_remote(target)]
    for path in site.rglob("*.css"):
        found = styles(path.read_text(encoding="utf-8"))
        remote += [f"{path.name}: {target}" for target in found if is_remote(target)]
    assert not remote, "\n".join(remote)


def test_everything_that_is_loaded_is_there(built, pages):
    site, _ = built
    missing = []
    for name, page in pages.items():
        for target in page.loads:
            parts = urlsplit(target)
            if parts.scheme != "data" and not (site / name).parent.joinpath(unquote(parts.path)).exists():
                missing.append(f"{name}: {target}")
    assert not missing, "\n".join(missing)


def test_formulas_are_set_by_a_local_mathjax(built, pages):
    site, _ = built
    scripts = [target for target in pages["equations.html"].loads if "mathjax" in target]
    assert scripts
    assert all((site / urlsplit(target).path).stat().st_size > 100_000 for target in scripts)


def test_every_public_name_has_an_entry(built, pages):
    documented = set().union(*(page.anchors for name, page in pages.items() if name.startswith("api/")))
    modules = {name for name in dcnlab.__all__ if inspect.ismodule(getattr(dcnlab, name))}
    for name in set(dcnlab.__all__) - modules - {"__version__"}:
        assert f"dcnlab.{name}" in documented, name
    for module in modules:
        names = getattr(importlib.import_module(f"dcnlab.{module}"), "__all__", [])
        for name in names:
            value = getattr(getattr(dcnlab, module), name)
            if name not in dcnlab.__all__ and (inspect.isclass(value) or inspect.isfunction(value)):
                assert f"dcnlab.{module}.{name}" in documented


def test_every_command_is_there(built, pages):
    from command_line import commands

    from dcnlab.cli import _parser

    anchors = pages["reference/cli.html"].anchors
    names = [command.prog.replace(" ", "-") for command in commands(_parser())]
    assert "dcnlab-kernels-check" in names
    assert set(names) <= anchors


def test_every_equation_can_be_linked_to(built, pages):
    from references import TAG, anchor

    site, _ = built
    text = (site / "equations.html").read_text(encoding="utf-8")
    tags = set(TAG.findall(text))
    assert "eq:dcnv3.1" in tags
    assert {anchor(tag) for tag in tags} <= pages["equations.html"].anchors
    assert any("equations.html#eq-" in link for link in pages["api/names/dcnlab.reference.sampling.html"].links)


def test_every_kernel_and_every_notebook_has_a_page(pages):
    from lessons import ROOT, exercises, lessons

    for path in (ROOT / "kernels").rglob("*.cu"):
        assert f"kernels/{path.relative_to(ROOT / 'kernels').as_posix()}.html" in pages
    for lesson in lessons() + exercises():
        name = PurePosixPath(lesson.path.relative_to(ROOT / "notebooks").as_posix()).with_suffix(".html")
        assert f"course/{name}" in pages
