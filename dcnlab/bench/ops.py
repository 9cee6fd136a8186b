"""`dcnlab bench ops`: the operators, float32, one thread, beside np.matmul of the im2col size and other libraries."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dcnlab.backends import BACKENDS
from dcnlab.bench import memory, peers
from dcnlab.bench.timing import interleaved, machine, milliseconds, ratio
from dcnlab.ops.deformable import dcnv3, dcnv3_backward, deform_conv2d, deform_conv2d_backward
from dcnlab.tables import format_table

# (channels in and out, side of the image); 3x3, stride 1, padding 1, one offset group, batch 1
DEFORM_SIZES = ((64, 56), (128, 28), (256, 56))
DCNV3_SIZE = (64, 56, 4)  # channels, side, groups

# Upper bounds on time / np.matmul, one a size, and lower bounds on speed-ups.
BOUNDS = {
    "numpy forward": (1.8, 1.8, 1.8),
    "numpy forward + backward": (6.0, 6.0, 6.0),
    "cpu forward": (1.4, 1.3, 1.2),
}
SPEEDUPS = {
    "numpy forward over gather + einsum": 2.0,
    "cpu forward over numpy": 3.0,
    "cpu backward over numpy": 2.0,
    "cpu forward over numpy, batch 8": 3.0,
    "cpu backward over numpy, batch 8": 2.0,
    "cpu forward, batch 8, 2 threads over 1": 1.6,
    "cpu backward, batch 8, 2 threads over 1": 1.6,
}
MEMORY_BOUND_MB = 1000


def run(rounds: int = 15, out: str | None = None) -> dict[str, Any]:
    """Measure, print the tables, and record them as JSON where `out` is given; return the record."""
    compiled, why_not = _compiled()
    with threads(1):
        record = {
            "machine": machine(),
            "rounds": rounds,
            "without_cpu": why_not,
            "deform_conv2d": [_deform_conv2d(c, side, rounds, compiled) for c, side in DEFORM_SIZES],
            "dcnv3": _dcnv3(*DCNV3_SIZE, rounds, compiled),
            "memory": memory.measure(),
        }
    print(report(record))
    if out is not None:
        Path(out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _compiled() -> tuple[bool, str]:
    """Return whether the backend "cpu" can run, and why not."""
    state, reason = BACKENDS["cpu"].state()
    return state == "on", reason


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Give the kernels and the BLAS this many threads."""
    from threadpoolctl import threadpool_limits

    before = os.environ.get("DCNLAB_NUM_THREADS")
    os.environ["DCNLAB_NUM_THREADS"] = str(number)
    try:
        with threadpool_limits(number):
            yield
    finally:
        if before is None:
            del os.environ["DCNLAB_NUM_THREADS"]
        else:
            os.environ["DCNLAB_NUM_THREADS"] = before


def _deform_conv2d(channels: int, side: int, rounds: int, compiled: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "input": rng.standard_normal((1, channels, side, side), np.float32),
        "offset": rng.standard_normal((1, 18, side, side), np.float32),
        "weight": rng.standard_normal((channels, channels, 3, 3), np.float32),
        "bias": rng.standard_normal(channels, np.float32),
        "mask": rng.random((1, 9, side, side), np.float32),
    }
    grad = rng.standard_normal((1, channels, side, side), np.float32)
    columns = rng.standard_normal((side * side, 9 * channels), np.float32)
    weights = rng.standard_normal((9 * channels, channels), np.float32)
    contenders: dict[str, Callable[[], Any]] = {"np.matmul": lambda: columns @ weights}
    for backend in ("numpy", "cpu")[: 1 + compiled]:
        forward = partial(deform_conv2d, **arrays, padding=1, backend=backend)
        backward = partial(deform_conv2d_backward, grad, **arrays, padding=1, backend=backend)
        contenders[f"{backend} forward"] = forward
        contenders[f"{backend} forward + backward"] = partial(_both, forward, backward)
    peer = {
        "onnxruntime forward": peers.onnxruntime_deform_conv2d(arrays, padding=1),
        "OpenVINO forward": peers.openvino_deform_conv2d(arrays, padding=1),
    }
    torchvision = peers.torchvision_deform_conv2d(arrays, grad, padding=1)
    if torchvision is not None:
        peer["torchvision forward"], peer["torchvision forward + backward"] = torchvision
    contenders |= {name: call for name, call in peer.items() if call is not None}
    seconds = interleaved(contenders, rounds)
    return {
        "size": f"{channels}ch {side}x{side}",
        "ms": {name: round(milliseconds(s), 2) for name, s in seconds.items()},
        "ratio": {name: round(ratio(s, seconds["np.matmul"]), 2) for name, s in seconds.items()},
    }


def _both(forward: Callable[[], Any], backward: Callable[[], Any]) -> None:
    forward()
    backward()


def _dcnv3(channels: int, side: int, groups: int, rounds: int, compiled: bool) -> dict[str, Any]:
    image, offset, mask = _dcnv3_arrays(1, channels, side, groups)
    straightforward = peers.gather_einsum_dcnv3(image, offset, mask, groups)
    difference = float(abs(dcnv3(image, offset, mask, groups=groups) - straightforward).max())
    # Two at a time: what a third one does to the caches is no part of a speed-up.
    seconds = interleaved(
        {
            "gather + einsum": lambda: peers.gather_einsum_dcnv3(image, offset, mask, groups),
            "numpy forward": lambda: dcnv3(image, offset, mask, groups=groups),
        },
        rounds,
    )
    speedup = {"numpy forward over gather + einsum": ratio(seconds["gather + einsum"], seconds["numpy forward"])}
    if compiled:
        for batch in (1, 8):
            found, ratios = _over_numpy(*_dcnv3_arrays(batch, channels, side, groups), groups, rounds)
            speedup |= {name + (", batch 8" if batch == 8 else ""): value for name, value in ratios.items()}
            seconds |= found if batch == 1 else {}
        speedup |= _two_threads(*_dcnv3_arrays(8, channels, side, groups), groups, rounds)
    return {
        "size": f"{side}x{side}x{channels} G{groups}",
        "ms": {name: round(milliseconds(s), 2) for name, s in seconds.items()},
        "speedup": {name: round(value, 2) for name, value in speedup.items()},
        "largest_difference": difference,
    }


def _ways(image: np.ndarray, offset: np.ndarray, mask: np.ndarray, groups: int) -> dict[str, Callable[..., Any]]:
    return {
        "forward": partial(dcnv3, image, offset, mask, groups=groups),
        "backward": partial(dcnv3_backward, image, image, offset, mask, groups=groups),
    }


def _over_numpy(
    image: np.ndarray, offset: np.ndarray, mask: np.ndarray, groups: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the seconds of numpy and cpu, forward and backward, and how much faster cpu is."""
    seconds: dict[str, list[float]] = {}
    ratios: dict[str, float] = {}
    for way, call in _ways(image, offset, mask, groups).items():
        numpy, cpu = f"numpy {way}", f"cpu {way}"
        found = interleaved({numpy: partial(call, backend="numpy"), cpu: partial(call, backend="cpu")}, rounds)
        seconds |= found
        ratios[f"cpu {way} over numpy"] = ratio(found[numpy], found[cpu])
    return seconds, ratios


def _two_threads(image: np.ndarray, offset: np.ndarray, mask: np.ndarray, groups: int, rounds: int) -> dict[str, float]:
    """Return how much faster two threads are than one."""
    result = {}
    for way, call in _ways(image, offset, mask, groups).items():
        contenders = {str(n): partial(_with_threads, partial(call, backend="cpu"), n) for n in (1, 2)}
        seconds = interleaved(contenders, rounds)
        result[f"cpu {way}, batch 8, 2 threads over 1"] = ratio(seconds["1"], seconds["2"])
    return result


def _with_threads(call: Callable[[], Any], number: int) -> Any:
    with threads(number):
        return call()


def _dcnv3_arrays(batch: int, channels: int, side: int, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal((batch, side, side, channels), np.float32),
        rng.standard_normal((batch, side, side, groups * 18), np.float32),
        rng.random((batch, side, side, groups * 9), np.float32),
    )


def report(record: dict[str, Any]) -> str:
    """Return the record as text: the tables that `dcnlab bench ops` prints."""
    names = list(record["deform_conv2d"][0]["ms"])
    rows = record["deform_conv2d"]
    lines = [
        [name, *(f"{row['ms'][name]:.2f} ({row['ratio'][name]:.2f})" for row in rows), _bound(name)] for name in names
    ]
    m, v3, mem = record["machine"], record["dcnv3"], record["memory"]
    speedups = [[name, f"{value:.2f} x", f">= {SPEEDUPS[name]} x"] for name, value in v3["speedup"].items()]
    text = [
        f"float32, one thread, {record['rounds']} rounds, {m['cpu']}, numpy {m['numpy']}, {m['date']}",
        "",
        "deform_conv2d 3x3: ms (ratio to np.matmul of the im2col size, median of the rounds)",
        format_table(["", *(row["size"] for row in rows), "bound on the ratio"], lines),
        "",
        f"dcnv3 {v3['size']}: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in v3["ms"].items()),
        format_table(["speed-up", "measured", "bound"], speedups),
        "",
        f"memory, deform_conv2d of {tuple(mem['shape'])}, 3x3: {mem['forward_workspace_mb']} MB forward, "
        f"{mem['backward_workspace_mb']} MB backward beyond arguments and results (bound: {MEMORY_BOUND_MB} MB); "
        f"peak RSS {mem['peak_rss_mb']} MB",
    ]
    if record["without_cpu"]:
        text.append(f"backend 'cpu' was not measured: {record['without_cpu']}")
    return "\n".join(text)


def _bound(name: str) -> str:
    return "<= " + " / ".join(map(str, dict.fromkeys(BOUNDS[name]))) if name in BOUNDS else ""
