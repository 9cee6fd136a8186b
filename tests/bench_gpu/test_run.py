"""`dcnlab bench gpu` from end to end, on the stand-in; what it leaves out, and what it says where there is no GPU."""

import json
import subprocess
import sys

import pytest
import strict_cupy

from dcnlab.bench import model as bench_model
from dcnlab.bench.gpu import peers, report, run, rungs
from dcnlab.bench.gpu.peers import Peer
from dcnlab.bench.gpu.run import Budget, Job, all_right
from dcnlab.bench.gpu.workloads import PARTS, Plan, Shape
from dcnlab.cli import main
from dcnlab.compiled.rungs import RUNGS
from dcnlab.internimage import InternImage

PLAN = Plan(
    shapes=(Shape("T1", 5, 8, 2), Shape("S2", 7, 6, 3, 2)),
    dtypes=("float16", "float32"),
    batches=(2, 1),
    offsets=("N(0, 0.5)", "zero"),
    layers_side=4,
    layers_channels=16,
    model=("T", 32),
    model_batches=(1, 2),
)


@pytest.fixture
def gpu(monkeypatch, compiler):
    """A GPU that is this CPU, a small model, and short samples."""
    monkeypatch.setattr("dcnlab.bench.gpu.ceilings.BLOCKS_A_PROCESSOR", 1)
    monkeypatch.setattr("dcnlab.bench.gpu.timing.REPEATS", 3)
    small = lambda variant: InternImage(8, [1, 1, 1, 1], [1, 2, 4, 8], num_classes=3, rng=0).eval()
    monkeypatch.setattr(bench_model, "random_model", small)
    return strict_cupy.install(monkeypatch, kernels=True)


def test_the_whole_program(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "gpu_tests", lambda seconds: {"ran": False, "why_not": "not in a test", **NO_TESTS})
    monkeypatch.setattr(run, "Plan", lambda: PLAN)
    path = tmp_path / "stand-in.json"
    assert main(["bench", "gpu", "--seconds", "600", "--out", str(path)]) == 0
    out, progress = capsys.readouterr()
    record = json.loads(path.read_text())
    report.require_valid(record)
    assert out == report.text(record) + "\n"
    assert record["gpu"]["name"] == "stand-in"
    assert not record["failed"]
    assert not record["dropped"]
    assert not record["without_problem"]
    timed = {(row["operator"], c["name"]) for row in record["rows"] for c in row["contenders"] if c["kind"] == "rung"}
    assert timed >= {key for key in RUNGS if key[1][0] in "12" and key[0] not in PARTS}, "every general rung"
    assert {c["what"] for c in record["checks"]} >= {f"{o}/{i}" for o, i in timed}
    assert all(c["right"] for c in record["checks"])
    for row in record["rows"]:
        names = [c["name"] for c in row["contenders"]]
        assert len(names) == len(set(names))
        assert ("copy" in names) == row["operator"].startswith("dcnv3")
        for c in row["contenders"]:
            assert 0 < c["low"] <= c["us"] <= c["high"]
            assert c["launches"] >= 20
    kernel = next(c for row in record["rows"] for c in row["contenders"] if c["name"] == "2_point")
    assert kernel["copies"] >= 3, "buffers go round"
    assert [(m["batch"], set(m["times"])) for m in record["models"]] == [
        (1, {"forward", "forward + backward"}),
        (2, {"forward", "forward + backward"}),
    ]
    for model in record["models"]:
        assert all(timing["us"] > 0 for timing in model["times"].values())
        assert all(0 < share < 1 for share in model["share"].values())
    first = progress.splitlines()
    assert "stand-in, 600 s" in first[0]
    assert any("1/" in line and "dcnv3_forward T1 5x5x8 G2 float16 batch 2 offsets N(0, 0.5)" in line for line in first)


NO_TESTS = {"passed": 0, "failed": 0, "errors": 0, "skipped": 0}


def test_a_wrong_rung_is_not_timed_and_the_status_is_1(gpu, monkeypatch, capsys):
    monkeypatch.setitem(rungs.ALLOWED, "float32", 0.0)
    plan = Plan(shapes=PLAN.shapes[:1], dtypes=("float32",), batches=(1,), offsets=("zero",), model=None, **SMALL)
    record = run.run(seconds=600, plan=plan, with_tests=False)
    assert not all_right(record)
    row = record["rows"][0]
    assert {c["failed"] for c in row["contenders"] if c["kind"] == "rung"} == {"wrong"}
    assert "checks against float64 are WRONG" in capsys.readouterr().out


SMALL = {"layers_side": 4, "layers_channels": 16}


def test_what_does_not_fit_is_left_out_and_said(gpu, capsys, monkeypatch):
    now = [0.0]

    def clock():
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(run, "Budget", lambda seconds: Budget(seconds, clock))
    record = run.run(seconds=30, plan=PLAN, with_tests=False)
    out = capsys.readouterr().out
    assert 0 < len(record["rows"]) < len(record["rows"]) + len(record["dropped"])
    titles = [job.title for job in run.jobs(record, None, PLAN)]
    assert record["dropped"] == titles[-len(record["dropped"]) :], "the least important ones"
    assert f"left out after 30 s, {len(record['dropped'])} problems:" in out
    assert all(f"  {title}" in out for title in record["dropped"])
    assert all_right(record), "what was not measured is not wrong"


def test_a_job_begins_if_the_longest_so_far_would_fit():
    now = [0.0]
    budget = Budget(10, lambda: now[0])
    assert budget.allows("rows")
    budget.timed("rows", lambda: now.__setitem__(0, 4.0))
    assert budget.left() == 6
    assert budget.allows("rows")
    now[0] = 6.0
    assert not budget.allows("rows"), "4 s would end at the limit"
    assert budget.allows("models")
    now[0] = 10.0
    assert not budget.allows("models")


def test_the_order_is_that_of_importance():
    titles = [job.title for job in run.jobs({}, None, Plan())]
    assert titles[0] == "dcnv3_forward T1 56x56x64 G4 float16 batch 64 offsets N(0, 0.5)"
    assert titles[28:30] == ["InternImage-T 224x224 batch 1", "InternImage-T 224x224 batch 64"]
    assert titles[-1].endswith("batch 1 offsets zero")


def test_one_failure_does_not_end_the_program():
    record = {"rows": [], "failed": [], "dropped": []}

    def broken():
        raise MemoryError("no more\nthan that")

    todo = [Job(0, "first", "rows", broken), Job(0, "second", "rows", lambda: {"fine": 1})]
    run._do(todo, record, Budget(100))
    assert record == {"rows": [{"fine": 1}], "failed": ["first: MemoryError: no more"], "dropped": []}


def test_a_peer_that_fails_is_said(gpu, monkeypatch):
    def refuse(workload, arrays):
        raise RuntimeError("only for squares\nand more")

    monkeypatch.setattr(
        run, "PEERS", (Peer("picky", (), peers.DCNV3, refuse), Peer("absent", ("no_such_thing",), (), refuse))
    )
    plan = Plan(shapes=PLAN.shapes[:1], dtypes=("float32",), batches=(1,), offsets=("zero",), model=None, **SMALL)
    record = run.run(seconds=600, plan=plan, with_tests=False)
    assert record["rows"][0]["contenders"][-1] == {
        "name": "picky",
        "kind": "peer",
        "failed": "RuntimeError: only for squares",
    }
    assert record["peers"]["picky"] == ""
    assert "no_such_thing cannot be imported: ModuleNotFoundError" in record["peers"]["absent"]
    assert "not timed beside us: absent: no_such_thing" in report.text(record)


def test_without_a_gpu(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["bench", "gpu"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("dcnlab bench: target='cuda' needs CuPy, which is not installed; run: pip install")


@pytest.fixture
def child(monkeypatch):
    """Stand in for the process of the GPU tests."""
    told = {}

    def fake(command, **how):
        told.update(how, command=command)
        if told["out"] is None:
            raise subprocess.TimeoutExpired(command, how["timeout"])
        return subprocess.CompletedProcess(command, told["status"], told["out"], "")

    monkeypatch.setattr(run.subprocess, "run", fake)
    return told


@pytest.mark.parametrize(
    ("status", "out", "wanted", "right"),
    [
        (0, "374 passed, 3 skipped in 9s", {"passed": 374, "skipped": 3, "failed": 0, "errors": 0}, True),
        (1, "FAILED x\n2 failed, 7 passed, 1 error in 9s", {"passed": 7, "failed": 2, "errors": 1}, False),
        (4, "usage", {"passed": 0, "errors": 1}, False),
    ],
)
def test_what_the_gpu_tests_said(child, status, out, wanted, right):
    child.update(status=status, out=out)
    found = run.gpu_tests(100)
    assert found["ran"]
    assert {key: found[key] for key in wanted} == wanted
    assert child["env"]["DCNLAB_REQUIRE_GPU"] == "1"
    assert child["timeout"] == 100
    assert "tests/gpu" in child["command"]
    assert all_right({"tests": found, "failed": [], "checks": []}) is right
    assert (out in report._tests(found)) is not right


def test_gpu_tests_that_take_too_long(child):
    child.update(status=0, out=None)
    found = run.gpu_tests(3)
    assert not found["ran"]
    assert report._tests(found) == "GPU tests did not run to the end: stopped after 3 s, before the end"


def test_gpu_tests_need_a_checkout_and_pytest(child, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "NEEDED_BY_TESTS", ("no_such_thing",))
    assert run.gpu_tests(3)["why_not"] == "not installed: no_such_thing"
    monkeypatch.setattr(run.dcnlab, "__file__", str(tmp_path / "dcnlab" / "__init__.py"))
    assert "run it from a checkout" in run.gpu_tests(3)["why_not"]
