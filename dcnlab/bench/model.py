"""`dcnlab bench model`: InternImage beside np.matmul, where its time goes layer by layer, and its memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import dcnlab
from dcnlab import nn
from dcnlab.arrays import Array, array_module
from dcnlab.backends import BACKENDS
from dcnlab.bench import model_memory
from dcnlab.bench.ops import DEFORM_SIZES, threads
from dcnlab.bench.timing import interleaved, machine, milliseconds, ratio
from dcnlab.internimage import InternImage
from dcnlab.tables import format_table

# Upper bounds on time / np.matmul of the 64-channel im2col size, for variant T at 224 x 224, batch 1, one thread. The
# published PyTorch code takes as long where that matmul takes 2.18 ms: 226 ms forward, 633 ms forward + backward.
BOUNDS = {"cpu forward": 104, "cpu forward + backward": 290}
YARDSTICK = "np.matmul"
PARTS = ("stem", "stage 1", "stage 2", "stage 3", "stage 4", "head")


def run(
    variant: str = "T", size: int = 224, rounds: int = 5, out: str | None = None, huge: bool = False
) -> dict[str, Any]:
    """Measure, print the tables, and record them as JSON where `out` is given; return the record.

    Parameters
    ----------
    variant : str
    size : int
        Side of the image.
    rounds : int
    out : path, optional
    huge : bool
        Also measure the memory of variant H.
    """
    state, why_not = BACKENDS["cpu"].state()
    backends = ["cpu", "numpy"] if state == "on" else ["numpy"]
    with threads(1):
        model, images = random_model(variant), random_images(size)
        record = {
            "machine": machine(),
            "variant": variant,
            "size": size,
            "rounds": rounds,
            "without_cpu": "" if state == "on" else why_not,
            **_times(model, images, backends, rounds),
            "layers": {backend: layer_times(model, images, backend, rounds) for backend in backends},
        }
    record["memory"] = [model_memory.measure(variant, size, backends[0])]
    if huge:
        record["memory"].append(model_memory.measure("H", 224, backends[0]))
    print(report(record))
    if out is not None:
        Path(out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def random_model(variant: str) -> InternImage:
    """Return a variant whose offsets are not 0, in eval mode: a new model samples the regular grid only."""
    model = InternImage(**InternImage.variants[variant], rng=0).eval()
    rng = np.random.default_rng(1)
    for module in model.modules():
        if isinstance(module, nn.DCNv3):
            for bias in (module.offset.bias, module.mask.bias):
                assert bias is not None
                bias.value = rng.standard_normal(bias.shape)
    return model


def random_images(size: int) -> np.ndarray:
    """Return one image."""
    return np.random.default_rng(2).standard_normal((1, 3, size, size), np.float32)


def forward(model: InternImage, images: Array, backend: str) -> Array:
    """Return the logits; nothing is kept for backward."""
    with dcnlab.use_backend(backend), nn.no_grad():
        return model(images)


def forward_backward(model: InternImage, images: Array, backend: str) -> Array:
    """Return the gradient of the images; those of all parameters are left in the model."""
    with dcnlab.use_backend(backend):
        logits = model(images)
        return model.backward(array_module(logits).ones_like(logits))


def _times(model: InternImage, images: Array, backends: list[str], rounds: int) -> dict[str, Any]:
    channels, side = DEFORM_SIZES[0]
    rng = np.random.default_rng(0)
    columns = rng.standard_normal((side * side, 9 * channels), np.float32)
    weights = rng.standard_normal((9 * channels, channels), np.float32)
    contenders: dict[str, Any] = {YARDSTICK: lambda: columns @ weights}
    for backend in backends:
        contenders[f"{backend} forward"] = lambda b=backend: forward(model, images, b)
        contenders[f"{backend} forward + backward"] = lambda b=backend: forward_backward(model, images, b)
    # The yardstick once more before each of the long ones: it is taken where they stand.
    turns: dict[str, Any] = {}
    for name, call in contenders.items():
        if name != YARDSTICK:
            turns[f"{YARDSTICK} before {name}"] = contenders[YARDSTICK]
            turns[name] = call
    seconds = interleaved(turns, rounds)
    yardstick = [s for name, values in seconds.items() if name.startswith(YARDSTICK) for s in values]
    measured = {name: s for name, s in seconds.items() if not name.startswith(YARDSTICK)}
    return {
        "ms": {YARDSTICK: round(milliseconds(yardstick), 2)}
        | {name: round(milliseconds(s), 1) for name, s in measured.items()},
        "ratio": {name: round(ratio(s, seconds[f"{YARDSTICK} before {name}"]), 1) for name, s in measured.items()},
    }


# -- layer by layer ------------------------------------------------------------------------------------------------


def layer_times(
    model: InternImage, images: Array, backend: str, rounds: int, clock: Callable[[], float] | None = None
) -> dict[str, dict[str, float]]:
    """Return milliseconds by "forward KIND" and "backward KIND" of layer, and by part of the model.

    A layer's time is its own, without that of the layers inside it: of DCNv3 that is the operator and its modulation.
    `clock` gives the seconds (time.perf_counter by default); one for a GPU first waits until it is done.
    """
    totals: dict[str, dict[str, float]] = {}
    with _watched(model, totals, clock):
        forward_backward(model, images, backend)
        totals.clear()
        for _ in range(rounds):
            forward_backward(model, images, backend)
    return {kind: {part: 1e3 * s / rounds for part, s in by_part.items()} for kind, by_part in totals.items()}


@contextmanager
def _watched(
    model: InternImage, totals: dict[str, dict[str, float]], clock: Callable[[], float] | None = None
) -> Iterator[None]:
    """Add up the time of every layer's forward and backward passes inside the block."""
    watched, inside, now = [], [0.0], clock or time.perf_counter

    def watch(module: nn.Module, way: str, part: str) -> None:
        original, key = getattr(module, way), f"{way} {type(module).__name__}"

        def timed(*arguments: Any) -> Any:
            inside.append(0.0)
            start = now()
            result = original(*arguments)
            spent = now() - start
            own = spent - inside.pop()
            inside[-1] += spent
            by_part = totals.setdefault(key, {})
            by_part[part] = by_part.get(part, 0.0) + own
            return result

        setattr(module, way, timed)
        watched.append((module, way))

    for part, root in _parts(model):
        for module in root.modules():
            if not isinstance(module, nn.ModuleList):
                watch(module, "forward", part)
                watch(module, "backward", part)
    try:
        yield
    finally:
        for module, way in watched:
            delattr(module, way)


def _parts(model: InternImage) -> Iterator[tuple[str, nn.Module]]:
    yield "stem", model.patch_embed
    for number, stage in enumerate(model.stages):
        yield f"stage {number + 1}", stage
    for module in model.head_layers.named().values() if model.head_layers is not None else ():
        yield "head", module


# -- tables --------------------------------------------------------------------------------------------------------


def report(record: dict[str, Any]) -> str:
    """Return the record as text."""
    m, bounded = record["machine"], (record["variant"], record["size"]) == ("T", 224)
    times = [
        [
            name,
            f"{ms:.1f}",
            f"{record['ratio'][name]:.0f}" if name in record["ratio"] else "1",
            f"<= {BOUNDS[name]}" if bounded and name in BOUNDS else "",
        ]
        for name, ms in record["ms"].items()
    ]
    text = [
        f"InternImage-{record['variant']}, one image of {record['size']} x {record['size']}, float32, one thread, "
        f"{record['rounds']} rounds, {m['cpu']}, numpy {m['numpy']}, {m['date']}",
        format_table(["", "ms", f"/ {YARDSTICK}", "bound"], times),
    ]
    for backend, layers in record["layers"].items():
        text += ["", f"backend {backend}, ms in each layer itself", _layer_table(layers)]
    for memory in record["memory"]:
        text += ["", model_memory.sentence(memory)]
    if record["without_cpu"]:
        text.append(f"backend 'cpu' was not measured: {record['without_cpu']}")
    return "\n".join(text)


def _layer_table(layers: dict[str, dict[str, float]]) -> str:
    kinds = sorted(layers, key=lambda kind: -sum(layers[kind].values()))
    total = sum(sum(by_part.values()) for by_part in layers.values())
    lines = []
    for kind in kinds:
        spent = sum(layers[kind].values())
        if spent >= 0.005 * total:
            cells = [f"{layers[kind][part]:.1f}" if part in layers[kind] else "" for part in PARTS]
            lines.append([kind, *cells, f"{spent:.1f}", f"{spent / total:.0%}"])
    return format_table(["", *PARTS, "all", "share"], lines)
