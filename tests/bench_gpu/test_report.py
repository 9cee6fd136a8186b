"""The report, the form of the JSON file, and what kernels/README.md shows of it."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

from dcnlab.bench.gpu import plots, report

ROOT = Path(__file__).resolve().parents[2]


def contender(name, us, kind="rung", waited=False):
    timing = {"us": us, "low": us - 0.5, "high": us + 1.0, "launches": 20, "copies": 3, "repeats": 7}
    return {"name": name, "kind": kind, **timing, "waited": waited}


def row(operator, size, dtype, batch=64, offsets="N(0, 0.5)"):
    half = 1 if dtype == "float16" else 2
    return {
        "operator": operator,
        "size": size,
        "dtype": dtype,
        "batch": batch,
        "offsets": offsets,
        "outside": 0.031,
        "bytes": 90_000_000 * half,
        "floors": {"hbm": 30.0 * half, "l1": 20.0, "issue": 15.0},
        "scatter_us": None,
        "contenders": [
            contender("1_naive", 500.0),
            contender("2_point", 120.0 * half),
            {"name": "3_wrong", "kind": "rung", "failed": "wrong"},
            contender("dcnlab", 130.0, "call", waited=True),
            contender("DCNv4", 90.0, "peer"),
        ],
    }


def made_up():
    """A record of a GPU that does not exist: its figures are never shown anywhere but here."""
    rows = [
        row(operator, size, dtype)
        for operator in ("dcnv3_forward", "dcnv3_backward")
        for dtype in ("float16", "float32")
        for size in ("T1 56x56x64 G4", "T2 28x28x128 G8", "B1 56x56x112 G7")
    ]
    timing = contender("", 9000.0)
    return {
        "schema": report.SCHEMA_VERSION,
        "gpu": {
            "name": "Example GPU",
            "compute_capability": "90",
            "driver": "1",
            "cupy": "14.2.0",
            "l2_bytes": 50 << 20,
        }
        | {"processors": 132},
        "machine": {"date": "2000-01-01", "python": "3.11", "numpy": "2.0"},
        "seconds": 400.0,
        "budget_seconds": 420,
        "ceilings": {"copy": {"per_second": 3.0e12, "unit": "B", "what": "copy", "timing": timing}},
        "tests": {"ran": True, "passed": 9, "failed": 0, "errors": 0, "skipped": 1, "tail": ""},
        "peers": {"DCNv4": "", "deformops": "deformops cannot be imported: ModuleNotFoundError: no"},
        "checks": [{"what": "a", "size": "", "dtype": "", "error": 1e-6, "allowed": 1e-5, "right": True}],
        "rows": [*rows, row("dcnv3_forward", "T1 56x56x64 G4", "float16", batch=1)],
        "models": [
            {
                "variant": "T",
                "size": 224,
                "batch": 1,
                "times": {"forward": timing, "forward + backward": contender("", 27000.0)},
                "share": {"forward": 0.2, "forward + backward": 0.3},
            }
        ],
        "failed": [],
        "dropped": ["the last problem"],
        "without_problem": ["new_forward"],
    }


def test_the_text_says_everything():
    text = report.text(made_up())
    assert text.startswith(
        "Example GPU, compute capability 90, 132 multiprocessors, 50 MB of L2, driver 1, CuPy 14.2.0"
    )
    for said in (
        "3 TB/s",
        "1 checks against float64: all right",
        "GPU tests: 9 passed, 0 failed, 0 errors, 1 skipped",
        "not timed beside us: deformops: deformops cannot be imported",
        "9   8.999 .. 9.001  20%",
        "left out after 420 s, 1 problems:\n  the last problem",
        "no problem is made for: new_forward",
    ):
        assert said in text, said
    line = next(line for line in text.splitlines() if "rung 2_point" in line)
    assert line.split("2_point")[1].split() == ["120", "119.5", "..", "121", "750", "25%", "17%", "12%"]
    assert "130 (host)" in text
    assert sum("3_wrong" in line and line.rstrip().endswith("wrong") for line in text.splitlines()) == 13


@pytest.mark.parametrize(
    ("contender", "name"),
    [
        ({"kind": "rung", "name": "2_point"}, "rung 2_point"),
        ({"kind": "rung", "name": "2_point", "alone": True}, "rung 2_point"),
        ({"kind": "rung", "name": "6_gather", "alone": False}, "rung 6_gather, whole call"),
        ({"kind": "call", "name": "dcnlab"}, "dcnlab, whole call"),
        ({"kind": "peer", "name": "DCNv4"}, "DCNv4"),
    ],
)
def test_what_is_timed_as_a_whole_is_called_so(contender, name):
    assert report.contender_name(contender) == name


def test_wrong_checks_failures_and_tests_are_named():
    record = made_up()
    record["checks"] += [
        {"what": "x/3", "size": "T1", "dtype": "float16", "error": 0.5, "allowed": 2e-3, "right": False}
    ]
    record["failed"], record["tests"] = ["row: why"], {"ran": False, "why_not": "no pytest"}
    text = report.text(record)
    assert "1 of 2 checks against float64 are WRONG:\n  x/3 T1 float16: 0.5 exceeds 2e-03" in text
    assert "failed: row: why" in text
    assert "GPU tests did not run to the end: no pytest" in text
    assert "GPU tests: not asked for" in report.text({**record, "tests": {}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("rows"), "record must have 'rows', got schema"),
        (lambda r: r["gpu"].update(name=3), "record.gpu.name must be str, got 3"),
        (lambda r: r["rows"][1].update(floors=[]), r"record.rows\[1\].floors must be dict, got \[\]"),
        (lambda r: r["rows"][0]["contenders"][0].pop("us"), "dcnv3_forward 1_naive must have 'us'"),
        (lambda r: r.update(schema=9), "schema must be 1, got 9"),
        (
            lambda r: r["ceilings"]["copy"].update(per_second="fast"),
            "record.ceilings.copy.per_second must be int or float",
        ),
        (lambda r: r["dropped"].append(1), r"record.dropped\[1\] must be str, got 1"),
    ],
)
def test_a_file_of_another_form_is_refused(change, message):
    record = made_up()
    report.require_valid(record)
    change(record)
    with pytest.raises(ValueError, match=message):
        report.require_valid(record)


def test_the_tables_for_the_readme():
    text = report.markdown(made_up(), "results/example.png")
    lines = text.splitlines()
    at = lines.index(
        "| dcnv3_forward, float16, batch 64, offsets N(0, 0.5) | T1 56x56x64 G4 | T2 28x28x128 G8 | B1 56x56x112 G7 |"
    )
    assert lines[at + 2 : at + 8] == [
        "| largest floor | HBM 30 | HBM 30 | HBM 30 |",
        "| rung 1_naive | 500 (6%) | 500 (6%) | 500 (6%) |",
        "| rung 2_point | 120 (25%) | 120 (25%) | 120 (25%) |",
        "| rung 3_wrong | wrong | wrong | wrong |",
        "| dcnlab, whole call | 130 (23%) | 130 (23%) | 130 (23%) |",
        "| DCNv4 | 90 (33%) | 90 (33%) | 90 (33%) |",
    ]
    assert "![time of each rung over its floor](results/example.png)" in text
    assert "forward 9 ms (20% of it DCNv3 and its modulation)" in text
    assert text.count("batch 1, ") == 0, "only the batch and offsets that matter most"


def test_the_picture(tmp_path):
    path = tmp_path / "gpu.png"
    plots.draw(made_up(), path)
    with Image.open(path) as image:
        assert min(image.size) > 500
        assert len(image.convert("RGB").getcolors(1 << 20)) > 100
    record = copy.deepcopy(made_up())
    record["rows"] = record["rows"][:1]
    plots.draw(record, path)


@pytest.fixture
def refresh():
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_not_measured_is_said(refresh, tmp_path):
    assert refresh.gpu_block(tmp_path) == report.NOT_MEASURED
    assert refresh.gpu_sentence(tmp_path) == "No GPU figure is measured yet."


def test_what_is_measured_is_shown_a_gpu_at_a_time(refresh, tmp_path):
    record = made_up()
    (tmp_path / "a.json").write_text(json.dumps(record))
    record["gpu"]["name"] = "Other GPU"
    (tmp_path / "b.json").write_text(json.dumps(record))
    block = refresh.gpu_block(tmp_path)
    assert block == "\n\n".join(
        report.markdown({**record, "gpu": {**record["gpu"], "name": name}}, picture)
        for name, picture in (("Example GPU", "results/a.png"), ("Other GPU", "results/b.png"))
    )
    assert "measured" not in refresh.gpu_sentence(tmp_path)
    refresh.draw_gpus(tmp_path)
    assert {p.name for p in tmp_path.glob("*.png")} == {"a.png", "b.png"}
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(ValueError, match=r"c\.json: record must have 'schema', got nothing"):
        refresh.gpu_block(tmp_path)
