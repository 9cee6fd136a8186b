"""`dcnlab bench ops`: the operators, float32, one thread, beside np.matmul of the im2col size and other libraries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dcnlab.bench import memory, peers
from dcnlab.bench.timing import interleaved, machine, milliseconds, ratio
from dcnlab.ops.deformable import dcnv3, dcnv3_backward, deform_conv2d, deform_conv2d_backward
from dcnlab.tables import format_table

# (channels in and out, side of the image); 3x3, stride 1, padding 1, one offset group, batch 1
DEFORM_SIZES = ((64, 56), (128, 28), (256, 56))
DCNV3_SIZE = (64, 56, 4)  # channels, side, groups

# Upper bounds on time / np.matmul, and the lower bound on the speed-up over gather + einsum.
BOUNDS = {"forward": 1.8, "forward + backward": 6.0}
SPEEDUP_BOUND = 2.0
MEMORY_BOUND_MB = 1000


def run(rounds: int = 15, out: str | None = None) -> dict[str, Any]:
    """Measure, print the tables, and record them as JSON where `out` is given; return the record."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        record = {
            "machine": machine(),
            "rounds": rounds,
            "deform_conv2d": [_deform_conv2d(c, side, rounds) for c, side in DEFORM_SIZES],
            "dcnv3": _dcnv3(*DCNV3_SIZE, rounds),
            "memory": memory.measure(),
        }
    print(report(record))
    if out is not None:
        Path(out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _deform_conv2d(channels: int, side: int, rounds: int) -> dict[str, Any]:
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

    def forward() -> Any:
        return deform_conv2d(**arrays, padding=1)

    contenders: dict[str, Callable[[], Any]] = {
        "np.matmul": lambda: columns @ weights,
        "forward": forward,
        "forward + backward": lambda: (forward(), deform_conv2d_backward(grad, **arrays, padding=1)),
    }
    onnx = peers.onnxruntime_deform_conv2d(arrays, padding=1)
    if onnx is not None:
        contenders["onnxruntime forward"] = onnx
    torchvision = peers.torchvision_deform_conv2d(arrays, grad, padding=1)
    if torchvision is not None:
        contenders["torchvision forward"], contenders["torchvision forward + backward"] = torchvision
    seconds = interleaved(contenders, rounds)
    return {
        "size": f"{channels}ch {side}x{side}",
        "ms": {name: round(milliseconds(s), 2) for name, s in seconds.items()},
        "ratio": {name: round(ratio(s, seconds["np.matmul"]), 2) for name, s in seconds.items()},
    }


def _dcnv3(channels: int, side: int, groups: int, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, side, side, channels), np.float32)
    offset = rng.standard_normal((1, side, side, groups * 18), np.float32)
    mask = rng.random((1, side, side, groups * 9), np.float32)
    straightforward = peers.gather_einsum_dcnv3(image, offset, mask, groups)
    difference = float(abs(dcnv3(image, offset, mask, groups=groups) - straightforward).max())
    seconds = interleaved(
        {
            "gather + einsum": lambda: peers.gather_einsum_dcnv3(image, offset, mask, groups),
            "forward": lambda: dcnv3(image, offset, mask, groups=groups),
            "backward": lambda: dcnv3_backward(image, image, offset, mask, groups=groups),
        },
        rounds,
    )
    return {
        "size": f"{side}x{side}x{channels} G{groups}",
        "ms": {name: round(milliseconds(s), 2) for name, s in seconds.items()},
        "speedup": round(ratio(seconds["gather + einsum"], seconds["forward"]), 2),
        "largest_difference": difference,
    }


def report(record: dict[str, Any]) -> str:
    """Return the record as text: the tables that `dcnlab bench ops` prints."""
    names = list(record["deform_conv2d"][0]["ms"])
    lines = []
    for row in record["deform_conv2d"]:
        cells = [f"{row['ms'][name]:.2f} ({row['ratio'][name]:.2f})" for name in names]
        lines.append([row["size"], *cells])
    bounds = ["bound on the ratio", *(f"<= {BOUNDS[name]}" if name in BOUNDS else "" for name in names)]
    m, v3, mem = record["machine"], record["dcnv3"], record["memory"]
    return "\n".join(
        [
            f"float32, one thread, {record['rounds']} rounds, {m['cpu']}, numpy {m['numpy']}, {m['date']}",
            "",
            "deform_conv2d 3x3: ms (ratio to np.matmul of the im2col size, median of the rounds)",
            format_table(["size", *names], [*lines, bounds]),
            "",
            f"dcnv3 {v3['size']}: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in v3["ms"].items()),
            f"  forward {v3['speedup']:.2f} x faster than gather + einsum (bound: at least {SPEEDUP_BOUND} x)",
            "",
            f"memory, deform_conv2d of {tuple(mem['shape'])}, 3x3: {mem['forward_workspace_mb']} MB forward, "
            f"{mem['backward_workspace_mb']} MB backward beyond arguments and results (bound: {MEMORY_BOUND_MB} MB); "
            f"peak RSS {mem['peak_rss_mb']} MB",
        ]
    )
