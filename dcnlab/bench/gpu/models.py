"""InternImage on the device, unchanged: its time, and how much of it the deformable operators take."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from dcnlab.bench import model as bench
from dcnlab.bench.gpu.device import Device
from dcnlab.bench.gpu.timing import Timing, measure

LAUNCHES = 3  # passes a sample: a pass is many launches
OPERATOR = "DCNv3"  # the layer whose own time is that of the operator and its modulation


def model_rows(variant: str, size: int, batch: int, device: Device) -> dict[str, Any]:
    """Return the times of forward, and forward and backward, and the operators' share in each.

    Shares come from a pass of its own in which the device is waited for after every layer.
    """
    model = bench.random_model(variant).to(device.xp)
    host = np.random.default_rng(2).standard_normal((batch, 3, size, size), np.float32)
    images = device.xp.asarray(host)
    passes = {
        "forward": lambda: bench.forward(model, images, "cuda"),
        "forward + backward": lambda: bench.forward_backward(model, images, "cuda"),
    }
    timings: dict[str, Timing] = {
        name: measure(device, [call], launches=LAUNCHES, ahead=False) for name, call in passes.items()
    }

    def clock() -> float:
        device.synchronize()
        return time.perf_counter()

    layers = bench.layer_times(model, images, "cuda", 1, clock)
    return {
        "variant": variant,
        "size": size,
        "batch": batch,
        "times": {name: timing.record() for name, timing in timings.items()},
        "share": {name: _share(layers, name.split(" + ")) for name in passes},
    }


def _share(layers: dict[str, dict[str, float]], ways: list[str]) -> float:
    spent = {kind: sum(parts.values()) for kind, parts in layers.items() if kind.split()[0] in ways}
    ours = sum(spent.get(f"{way} {OPERATOR}", 0.0) for way in ways)
    return round(ours / max(sum(spent.values()), 1e-12), 4)
