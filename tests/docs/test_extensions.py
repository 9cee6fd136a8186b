"""What makes pages from sources: links, notebooks, tags, generated folders."""

import json
from pathlib import PurePosixPath

import pytest
from generated import remove, write_pages
from references import anchor
from repository_links import site_links

PAGE = PurePosixPath("docs/howto/page.md")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see [a](../equations.md#sampling)", "see [a](/equations.md#sampling)"),
        ("see [`a[0]`](../../kernels/README.md)", "see [`a[0]`](/kernels/index.md)"),
        ("[all](../../notebooks/)", "[all](/course/index.md)"),
        ("[k](../../kernels/sampling/1_naive.cu)", "[k](/kernels/sampling/1_naive.cu.md)"),
        ("[code](../../dcnlab/ops/deformable.py), [folder](../../kernels/include)", "code, folder"),
        ("[a](https://arxiv.org/abs/1703.06211)", "[a](https://arxiv.org/abs/1703.06211)"),
        ("[gone](../nowhere.md)", "[gone](../nowhere.md)"),
        ("![picture](../images/demo.png)", "![picture](../images/demo.png)"),
        ("`f[i](../equations.md)`", "`f[i](../equations.md)`"),
        ("```python\nf[i](../equations.md)\n```\n", "```python\nf[i](../equations.md)\n```\n"),
        ("[#anchor](#there)", "[#anchor](#there)"),
    ],
)
def test_links_to_files_become_links_to_pages(text, expected):
    assert site_links(text, PAGE) == expected


def test_a_generated_folder_holds_what_it_should(tmp_path):
    folder = tmp_path / "made"
    write_pages(folder, {"a.md": "A", "deep/b.md": "B"})
    before = (folder / "a.md").stat().st_mtime_ns
    write_pages(folder, {"a.md": "A", "c.md": "C"})
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.md")) == ["a.md", "c.md"]
    assert (folder / "a.md").stat().st_mtime_ns == before
    remove(folder)
    remove(folder)
    assert not folder.exists()


def test_anchors_of_equations():
    assert anchor("eq:dcnv3.1") == "eq-dcnv3-1"


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Return a function that writes a notebook of one markdown and one code cell, and returns its page on the site."""
    import course_pages

    monkeypatch.setattr(course_pages, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()

    def page(source, *outputs):
        cells = [
            {"cell_type": "markdown", "id": "a", "metadata": {}, "source": source},
            {
                "cell_type": "code",
                "id": "b",
                "metadata": {},
                "source": "1",
                "execution_count": 1,
                "outputs": [{"output_type": "display_data", "metadata": {}, "data": data} for data in outputs],
            },
        ]
        notebook = {"cells": cells, "metadata": {"widgets": {"state": 1}}, "nbformat": 4, "nbformat_minor": 5}
        path = tmp_path / "notebooks" / "00_a.ipynb"
        path.write_text(json.dumps(notebook), encoding="utf-8")
        return json.loads(course_pages.page(path))

    return page


def test_a_notebook_on_the_site_needs_no_kernel_and_no_network(course):
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}}
    link = '<link rel="stylesheet" href="https://elsewhere.org/a.css"><b>frame</b>'
    script = '<script src="https://elsewhere.org/a.js"></script>'
    page = course(
        "[tags](../docs/equations.md), [next](01_b.ipynb)",
        {"text/plain": "FloatSlider()", **view},
        {"text/plain": "x", "image/png": "", **view},
        {"text/html": link + script},
    )
    assert "".join(page["cells"][0]["source"]) == "[tags](/equations.md), [next](01_b.ipynb)"
    kept = [output["data"] for output in page["cells"][1]["outputs"]]
    assert [set(data) for data in kept] == [{"text/plain", "image/png"}, {"text/html"}]
    assert "".join(kept[1]["text/html"]) == "<b>frame</b>"
    assert "widgets" not in page["metadata"]
