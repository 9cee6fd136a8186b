"""The program: probe the ceilings, check every rung, run the GPU tests, time, and stop in time."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import dcnlab
from dcnlab.bench.gpu import report
from dcnlab.bench.gpu.ceilings import PROBES, is_right, measure_ceiling
from dcnlab.bench.gpu.device import CudaDevice, Device
from dcnlab.bench.gpu.floors import floors, scatter_us
from dcnlab.bench.gpu.models import model_rows
from dcnlab.bench.gpu.peers import PEERS, Peer, first_line, time_peer
from dcnlab.bench.gpu.rungs import calls_of, check, copies_of, ideas_for, time_call
from dcnlab.bench.gpu.timing import Timing, measure
from dcnlab.bench.gpu.workloads import Item, Plan, Workload, items, unknown_operators
from dcnlab.bench.timing import machine

SECONDS = 420
TESTS_SHARE = 0.4  # of the time, at most, for the GPU tests
MODEL_IMPORTANCE = 1
NEEDED_BY_TESTS = ("pytest", "hypothesis")


class Budget:
    """Time that may be spent. A job is begun if the longest one of its kind so far would still fit."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock, self._start = seconds, clock, clock()
        self._longest: dict[str, float] = {}

    def spent(self) -> float:
        """Return the seconds since the beginning."""
        return self._clock() - self._start

    def left(self) -> float:
        """Return the seconds that are left."""
        return self._seconds - self.spent()

    def allows(self, kind: str) -> bool:
        """Return whether another job of this kind fits."""
        return self.left() > self._longest.get(kind, 0.0)

    def timed(self, kind: str, job: Callable[[], Any]) -> Any:
        """Run a job and remember how long it took."""
        start = self._clock()
        try:
            return job()
        finally:
            self._longest[kind] = max(self._longest.get(kind, 0.0), self._clock() - start)


class Job(NamedTuple):
    """Something to be timed."""

    importance: int
    title: str
    kind: str  # of the list in the record that the result belongs to: "rows" or "models"
    run: Callable[[], dict[str, Any]]


def run(
    out: str | None = None,
    seconds: float = SECONDS,
    device: Device | None = None,
    plan: Plan | None = None,
    with_tests: bool = True,
) -> dict[str, Any]:
    """Measure, print the report, and record it as JSON where `out` is given; return the record.

    Parameters
    ----------
    out : path, optional
    seconds : float
        What does not fit is left out, the least important first; the report says what.
    device, plan
        By default the GPU that CuPy finds, and all problems.
    with_tests : bool
        Run the GPU tests too.

    Raises
    ------
    BackendUnavailable
        Where there is no CuPy or no GPU.
    """
    device, plan, budget = device or CudaDevice(), plan or Plan(), Budget(seconds)
    record = _empty_record(device, seconds)
    _say(budget, f"{record['gpu']['name']}, {seconds:g} s")
    for probe in PROBES:
        _say(budget, f"ceiling: {probe.what}")
        right = is_right(probe, device)
        record["checks"].append(_check_record(f"probe {probe.name}", "", "", 0.0 if right else float("inf"), 0.0))
        record["ceilings"][probe.name] = measure_ceiling(probe, device)
    if with_tests:
        _say(budget, "GPU tests")
        record["tests"] = gpu_tests(min(TESTS_SHARE * seconds, budget.left()))
    _do(jobs(record, device, plan), record, budget)
    record["seconds"] = round(budget.spent(), 1)
    report.require_valid(record)
    print(report.text(record))
    if out is not None:
        Path(out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _empty_record(device: Device, seconds: float) -> dict[str, Any]:
    return {
        "schema": report.SCHEMA_VERSION,
        "gpu": device.facts(),
        "machine": machine(),
        "budget_seconds": seconds,
        "ceilings": {},
        "tests": {},
        "peers": {peer.name: peer.missing() for peer in PEERS},
        "checks": [],
        "rows": [],
        "models": [],
        "failed": [],
        "dropped": [],
        "without_problem": unknown_operators(),
    }


def all_right(record: Mapping[str, Any]) -> bool:
    """Return whether every check and test passed and nothing failed."""
    tests = record["tests"]
    broken_tests = tests["failed"] + tests["errors"] if tests else 0
    return not (broken_tests or record["failed"] or any(not c["right"] for c in record["checks"]))


def jobs(record: dict[str, Any], device: Device, plan: Plan) -> list[Job]:
    """Return what is to be timed, the most important first."""
    found = [Job(item.importance, item.title, "rows", _row_of(item, record, device)) for item in items(plan)]
    if plan.model is not None:
        variant, size = plan.model
        for batch in plan.model_batches:
            title = f"InternImage-{variant} {size}x{size} batch {batch}"
            make = partial(model_rows, variant, size, batch, device)
            found.append(Job(MODEL_IMPORTANCE, title, "models", make))
    return sorted(found, key=lambda job: job.importance)


def _row_of(item: Item, record: dict[str, Any], device: Device) -> Callable[[], dict[str, Any]]:
    return lambda: _row(item.make(), record, device)


def _do(todo: list[Job], record: dict[str, Any], budget: Budget) -> None:
    for number, job in enumerate(todo):
        if not budget.allows(job.kind):
            record["dropped"].append(job.title)
            continue
        _say(budget, f"{number + 1}/{len(todo)} {job.title}")
        try:
            record[job.kind].append(budget.timed(job.kind, job.run))
        except Exception as error:  # whatever a driver or a library raises: the other rows are still worth having
            record["failed"].append(f"{job.title}: {type(error).__name__}: {first_line(error)}")


def _row(workload: Workload, record: dict[str, Any], device: Device) -> dict[str, Any]:
    """Return one problem with all who solve it. A rung that is wrong is not timed."""
    ceilings = {name: ceiling["per_second"] for name, ceiling in record["ceilings"].items()}
    ideas = ideas_for(workload, device.xp)
    right = _right(workload, ideas, record, device)
    copies = copies_of(workload, device)
    contenders: list[dict[str, Any]] = []
    for idea in ideas:
        if idea in right:
            calls, alone = calls_of(workload, idea, copies)
            contenders.append({**_contender(idea, "rung", partial(measure, device, calls)), "alone": alone})
        else:
            contenders.append({"name": idea, "kind": "rung", "failed": "wrong"})
    if workload.operator != "sampling":
        contenders.append(_contender("dcnlab", "call", partial(time_call, workload, device, copies)))
    contenders += [_peer(peer, workload, device, copies) for peer in PEERS if _takes(peer, workload, record)]
    device.release()
    return {
        "operator": workload.operator,
        "size": workload.size,
        "dtype": workload.dtype,
        "batch": workload.batch,
        "offsets": workload.offsets,
        "outside": workload.outside,
        "bytes": int(workload.work.bytes),
        "floors": {name: round(us, 3) for name, us in floors(workload.work, ceilings).items()},
        "scatter_us": scatter_us(workload.work, ceilings),
        "contenders": contenders,
    }


def _right(workload: Workload, ideas: list[str], record: dict[str, Any], device: Device) -> set[str]:
    """Return the rungs that are right on this operator, size and type; each is compared with float64 once."""

    def known() -> dict[str, bool]:
        of = (workload.size, workload.dtype)
        return {c["what"]: c["right"] for c in record["checks"] if (c["size"], c["dtype"]) == of}

    names = {idea: f"{workload.operator}/{idea}" for idea in ideas}
    missing = [idea for idea in ideas if names[idea] not in known()]
    if missing:
        for idea, found in check(workload, missing, device.xp).items():
            record["checks"].append(_check_record(names[idea], workload.size, workload.dtype, *found))
    return {idea for idea in ideas if known()[names[idea]]}


def _check_record(what: str, size: str, dtype: str, error: float, allowed: float) -> dict[str, Any]:
    """Return a check for the JSON file, which has no infinity."""
    finite = error < float("inf")
    return {
        "what": what,
        "size": size,
        "dtype": dtype,
        "error": error if finite else None,
        "allowed": allowed,
        "right": finite and error <= allowed,
    }


def _takes(peer: Peer, workload: Workload, record: dict[str, Any]) -> bool:
    return workload.operator in peer.operators and not record["peers"][peer.name]


def _peer(peer: Peer, workload: Workload, device: Device, copies: list[dict[str, Any]]) -> dict[str, Any]:
    try:
        return _contender(peer.name, "peer", partial(time_peer, peer, workload, device, copies))
    except Exception as error:  # other people's code: it may refuse a shape or a type in any way
        return {"name": peer.name, "kind": "peer", "failed": f"{type(error).__name__}: {first_line(error)}"}


def _contender(name: str, kind: str, timed: Callable[[], Timing]) -> dict[str, Any]:
    return {"name": name, "kind": kind, **timed().record()}


def gpu_tests(seconds: float) -> dict[str, Any]:
    """Run tests/gpu in a process of its own, in which a missing GPU is a failure; return what came of it."""
    root = Path(dcnlab.__file__).resolve().parent.parent
    result: dict[str, Any] = {"ran": False, "why_not": "", "passed": 0, "failed": 0, "errors": 0, "skipped": 0}
    missing = [name for name in NEEDED_BY_TESTS if importlib.util.find_spec(name) is None]
    if not (root / "tests" / "gpu").is_dir():
        return {**result, "why_not": "an installed dcnlab has no tests: run it from a checkout"}
    if missing:
        return {**result, "why_not": f"not installed: {', '.join(missing)}"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("xdist") is not None and (os.cpu_count() or 1) >= 8:
        command += ["-n", "4"]  # most of the time goes into compiling
    environment = {**os.environ, "DCNLAB_REQUIRE_GPU": "1", "PYTHONPATH": str(root)}
    start = time.monotonic()
    try:
        child = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=max(seconds, 1)
        )
    except subprocess.TimeoutExpired:
        return {**result, "why_not": f"stopped after {seconds:.0f} s, before the end"}
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|error)", child.stdout)}
    counts["errors"] = counts.pop("error", 0) or int(child.returncode not in (0, 1))
    tail = "" if child.returncode == 0 else (child.stdout + child.stderr)[-2000:]
    return {**result, "ran": True, **counts, "seconds": round(time.monotonic() - start, 1), "tail": tail}


def _say(budget: Budget, text: str) -> None:
    print(f"[{budget.spent():5.0f} s] {text}", file=sys.stderr, flush=True)
