"""README.md, kernels/README.md: generated blocks are those of their sources, and links lead somewhere."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path

import pytest

from dcnlab.bench.ops import BOUNDS, MEMORY_BOUND_MB, SPEEDUPS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def refresh():
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["README.md", "kernels/README.md"])
def test_generated_blocks_are_what_their_sources_say(refresh, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert page in refresh.PAGES
    assert refresh.refreshed(page, text) == text, "run: python docs/refresh.py"
    with pytest.raises(ValueError, match=f"{page} has no block for"):
        refresh.refreshed(page, "nothing here")


def test_the_table_of_kernels_follows_their_header_comments(refresh, tmp_path):
    (tmp_path / "sampling").mkdir()
    kernel = tmp_path / "sampling" / "3_tile.cu"
    kernel.write_text("// Sampling, rung 3: a tile\n// for a block | warp.\n//\n// What changed    All.\n")
    table = refresh.ladder_block(tmp_path).splitlines()
    assert table[2:] == [r"| Sampling | [3_tile](sampling/3_tile.cu) | a tile for a block \| warp. |"]
    for wrong in ("// Sampling: a tile.\n", "// Sampling, rung 2: a tile.\n"):
        kernel.write_text(wrong)
        with pytest.raises(ValueError, match=r"3_tile\.cu must begin with  // operator, rung 3: idea"):
            refresh.ladder_block(tmp_path)


def test_the_table_of_registers_shows_the_worst(refresh):
    def needs(registers, spilled=0):
        return {"registers": registers, "shared_bytes": 8, "spill_stores": spilled, "spill_loads": 0}

    rungs = {
        "a_forward/1_x.cu": {
            "x<float, float, 1>": {"sm_75": needs(70), "sm_90": needs(30)},
            "x<float, float, 2>": {"sm_75": needs(60, spilled=4), "sm_90": needs(40)},
            "x<double, double, 1>": {"sm_75": needs(255), "sm_90": needs(255)},
        },
        "a_forward/2_y.cu": {"y<__half, float>": {"sm_75": needs(20), "sm_90": needs(10)}},
    }
    lines = refresh.resources_block({"nvrtc": "13.0", "rungs": rungs}).splitlines()
    assert lines[2] == "| a_forward | [1_x](a_forward/1_x.cu) | 40 / 8 / 0 | 60 / 8 / 4 (sm_75) |  |  |"
    assert lines[3] == "| a_forward | [2_y](a_forward/2_y.cu) |  |  | 10 / 8 / 0 | 20 / 8 / 0 (sm_75) |"
    assert "the worst of sm_75, sm_90." in lines[-1]


def test_the_table_of_bytes(refresh):
    found = {"read": 10.0, "written": 4.0, "atomic": 6.0, "floor": 8.0}
    rungs = {
        "a_forward/1_x.cu": {"size": "small", "bytes": {"float32": {**found, "atomic": 0.0}}, "cpu_ms": 0.126},
        "a_backward/1_x.cu": {"size": "small", "bytes": {"float16": found}, "cpu_ms": None},
    }
    machine = {"date": "today", "cpu": "a CPU", "system": "a system", "python": "3", "numpy": "2"}
    lines = refresh.traffic_block({"machine": machine, "rungs": rungs}).splitlines()
    assert lines[2] == "| a_forward | [1_x](a_forward/1_x.cu) | 14.0 | 8.0 | 1.8 |  |  |  | 0.13 |"
    assert lines[3] == "| a_backward | [1_x](a_backward/1_x.cu) |  |  |  | 20.0 (6.0) | 8.0 | 2.5 |  |"
    assert "Sizes: a small. By `dcnlab kernels bench` on today: a CPU" in lines[-1]


def test_the_recorded_runs_keep_the_bounds():
    """Not a timed test: it reads the record that README.md shows."""
    record = json.loads((ROOT / "docs" / "results" / "ops.json").read_text(encoding="utf-8"))
    for number, row in enumerate(record["deform_conv2d"]):
        for name, bounds in BOUNDS.items():
            assert row["ratio"][name] <= bounds[number], f"{row['size']}: {name}"
    for name, bound in SPEEDUPS.items():
        assert record["dcnv3"]["speedup"][name] >= bound, name
    assert record["memory"]["forward_workspace_mb"] < MEMORY_BOUND_MB
    assert record["memory"]["backward_workspace_mb"] < MEMORY_BOUND_MB
    demo = json.loads((ROOT / "docs" / "results" / "demo.json").read_text(encoding="utf-8"))
    for name in ("dcnv2", "dcnv3"):
        assert demo[name]["before"] >= 5 * demo[name]["after"]
    assert demo["seconds"] < 60


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "kernels/README.md"])
def test_local_links_resolve(page):
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`]*`", "", text)  # brackets in code are no links
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    assert links or page == "CONTRIBUTING.md"
    for link in links:
        assert (ROOT / page).parent.joinpath(link).exists(), f"{page} links to {link}"


def test_the_small_pictures_are_of_the_stored_figures(refresh):
    """README.md shows a picture of each notebook that has one; each says which figure it was made from."""
    lessons = refresh.lessons
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    with_figures = [lesson for lesson in lessons.lessons() if lesson.cover is not None]
    assert re.findall(r'<img src="docs/images/course/([^"]+)"', text) == [lesson.picture for lesson in with_figures]
    for lesson in with_figures:
        made_from = lessons.made_from(lessons.PICTURES / lesson.picture)
        assert made_from == hashlib.sha256(lesson.cover).hexdigest(), "run: python docs/refresh.py"
    drawn = sorted(path.name for path in lessons.PICTURES.glob("*.png"))
    assert drawn == [lesson.picture for lesson in with_figures]


def test_the_two_commands_stand_at_the_top():
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:14]
    commands = [line.split("#")[0].strip() for line in first_screen if line.startswith("    make ")]
    assert commands == ["make demo", "make test"]
