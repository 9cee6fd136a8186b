"""Global attention, window attention, a large kernel and DCNv3 on the same input: reach, adaptation and cost."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np

from dcnlab import nn
from dcnlab.backends import use_backend
from dcnlab.bench.timing import machine
from dcnlab.internimage.receptive import Pixel, radius_of_share
from dcnlab.pages import DPI, writable_folder
from dcnlab.records import as_json
from dcnlab.study import operator_costs as costs
from dcnlab.study import operator_fields as measured
from dcnlab.study.operator_figures import all_figures
from dcnlab.study.operator_layers import (
    CHANNELS,
    DEFORMABLE,
    GLOBAL,
    OFFSET_SPREAD,
    OPERATORS,
    build,
    features,
    sample_photo,
)
from dcnlab.study.operator_page import write_page
from dcnlab.study.operator_text import explanation, findings, table
from dcnlab.study.receptive_figures import SHARES

SIDE = 56  # of the features that fields are shown on and that the table is for: stride 4 of a photo of 224 pixels
SIDES = (7, 14, 28, 56, 112)
FLAG, EYE = (24, 13), (16, 24)  # pixels of the features: the edge of the flag, and an eye
VIEWS: dict[str, tuple[Pixel, bool]] = {
    "pixel A": (FLAG, False),
    "pixel A, photo mirrored": (FLAG, True),
    "pixel B": (EYE, False),
}
COMPARED_SIDE, COMPARED = 28, (6, 13, 22)  # rows and columns of the pixels that adaptation is a mean over
COMPARED_DIRECTIONS = 2
OFFSET_SCALES = (1, 2, 4, 8)


def run(
    out: str | os.PathLike[str] = "dcnlab-operators", seed: int = 0, sides: tuple[int, ...] = SIDES
) -> dict[str, Any]:
    """Compare the operators, print the table, and write the record, the figures and a page.

    Parameters
    ----------
    out : path
        Folder of operators.html, operators.json and the figures, made if missing. Nothing is written anywhere else.
    seed : int
        Of the weights, of the projection that makes the features, and of the random signs.
    sides : tuple of int
        Sides of the images that costs are measured for, each twice the one before, `SIDE` among them.

    Returns
    -------
    dict
        What operators.json holds.

    Raises
    ------
    ValueError
        One line, for a seed or sides that cannot be used, or when the folder cannot be written.
    """
    started = time.perf_counter()
    _check(seed, sides)
    folder = writable_folder(out)
    print(f"{', '.join(OPERATORS)}: {SIDE}x{SIDE} features of a photo ...", flush=True)
    with use_backend("numpy"):
        record = _record(seed, sides)
    print(table(record))
    print(explanation(record))
    for sentence in findings(record):
        print(f"- {sentence}")
    record["seconds"] = round(time.perf_counter() - started, 1)
    _write(record, folder)
    print(
        f"Wrote {folder / 'operators.html'}, operators.json and the figures in {record['seconds']:.0f} s.", flush=True
    )
    return record


def _check(seed: int, sides: tuple[int, ...]) -> None:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be an int of at least 0, got {seed!r}")
    doubled = all(after == 2 * before for before, after in pairwise(sides))
    if len(sides) < 2 or not doubled or SIDE not in sides:
        raise ValueError(f"sides must each be twice the one before, {SIDE} among them, got {sides}")


def _record(seed: int, sides: tuple[int, ...]) -> dict[str, Any]:
    photo = sample_photo()
    layers = build(features(photo, SIDE, seed), seed)
    steps = (1 + len(VIEWS)) * len(layers) + len(sides)
    with _progress(steps) as step:
        fields = _fields(layers, photo, seed, step)
        adapts = _adaptation(layers, photo, seed, step)
        points = _points(layers, photo, sides, seed, step)
        reach = _reach(cast("nn.DCNv3", layers[DEFORMABLE]), features(photo, SIDE, seed), seed)
    small, other = (features(each, COMPARED_SIDE, seed) for each in (photo, photo[:, ::-1]))
    return {
        "machine": machine(),
        "seed": int(seed),
        "channels": CHANNELS,
        "side": SIDE,
        "sides": list(sides),
        "directions": measured.DIRECTIONS,
        "offset_spread": OFFSET_SPREAD,
        "views": {name: {"pixel": list(pixel), "mirrored": mirrored} for name, (pixel, mirrored) in VIEWS.items()},
        "adaptation": {"side": COMPARED_SIDE, "pixels": len(COMPARED) ** 2, "directions": COMPARED_DIRECTIONS},
        "operators": {
            name: {**_cost(layers[name], points[name], sides), **adapts[name]._asdict(), "fields": fields[name]}
            for name in OPERATORS
        },
        "crossovers": {n: costs.crossover(layers[GLOBAL], layers[n]) for n in OPERATORS if n != GLOBAL},
        "dcnv3_reach": reach,
        "points_moved": measured.points_moved(cast("nn.DCNv3", layers[DEFORMABLE]), small, other),
    }


@contextmanager
def _progress(steps: int) -> Iterator[Any]:
    """Yield a function that moves a bar on a terminal by one step, naming what comes next."""
    from tqdm import tqdm

    with tqdm(total=steps, desc="operators", disable=None, leave=False, dynamic_ncols=True) as bar:

        def step(what: str) -> None:
            bar.set_postfix_str(what)
            bar.update()

        yield step


def _fields(layers: Mapping[str, nn.Module], photo: np.ndarray, seed: int, step: Any) -> dict[str, dict[str, Any]]:
    """Return, for every operator and view, the field as text, its radii and its farthest pixel."""
    found: dict[str, dict[str, Any]] = {name: {} for name in layers}
    inputs = {mirrored: features(photo[:, ::-1] if mirrored else photo, SIDE, seed) for mirrored in (False, True)}
    for view, (pixel, mirrored) in VIEWS.items():
        for name, layer in layers.items():
            step(f"field of {name}")
            rows = measured.gradients(layer, inputs[mirrored], [pixel], seed=seed)[0]
            field = measured.receptive_field(rows)
            found[name][view] = {
                "radii": [radius_of_share(field, pixel, share) for share in SHARES],
                "farthest": measured.farthest(field, pixel),
                "levels": measured.packed(field),
            }
    return found


def _adaptation(
    layers: Mapping[str, nn.Module], photo: np.ndarray, seed: int, step: Any
) -> dict[str, measured.Adaptation]:
    inputs = [features(each, COMPARED_SIDE, seed) for each in (photo, photo[:, ::-1])]
    pixels = [(y, x) for y in COMPARED for x in COMPARED]
    found = {}
    for name, layer in layers.items():
        step(f"adaptation of {name}")
        rows = [measured.gradients(layer, each, pixels, COMPARED_DIRECTIONS, seed) for each in inputs]
        found[name] = measured.adaptation(*rows)
    return found


def _points(
    layers: Mapping[str, nn.Module], photo: np.ndarray, sides: tuple[int, ...], seed: int, step: Any
) -> dict[str, list[costs.Point]]:
    """Measure the operators at every side, each until it would need too much memory or time."""
    points: dict[str, list[costs.Point]] = {name: [] for name in layers}
    for place, side in enumerate(sides):
        step(f"cost at {side}x{side}")
        goes_on = {n: l for n, l in layers.items() if len(points[n]) == place and costs.affordable(points[n])}
        for name, point in costs.measure(goes_on, features(photo, side, seed)).items():
            points[name].append(point)
    return points


def _reach(layer: nn.DCNv3, input: np.ndarray, seed: int) -> dict[str, float]:
    """Return the farthest pixel that DCNv3 reads, by the factor of its offsets."""
    before, found = layer.offset_scale, {}
    try:
        for scale in OFFSET_SCALES:
            layer.offset_scale = float(scale)
            rows = measured.gradients(layer, input, [FLAG], seed=seed)[0]
            found[str(scale)] = measured.farthest(measured.receptive_field(rows), FLAG)
    finally:
        layer.offset_scale = before
    return found


def _cost(layer: nn.Module, points: list[costs.Point], sides: tuple[int, ...]) -> dict[str, Any]:
    """Return what one operator costs at each side: formulas at all, measurements as far as they went."""
    counted = [costs.multiply_adds(layer, side, side) for side in sides]
    found: dict[str, list[Any]] = {
        "multiply_adds": [each.total for each in counted],
        "mixing": [each.mixing for each in counted],
        "kept": [point.kept for point in points],
        "peak": [point.peak for point in points],
        "forward_ms": [round(point.forward_ms, 3) for point in points],
    }
    fitted = ("multiply_adds", "peak", "forward_ms")
    return {**found, "exponents": {n: costs.exponent(sides[: len(found[n])], found[n]) for n in fitted}}


def _write(record: dict[str, Any], folder: Path) -> None:
    figures = all_figures(record)
    try:
        (folder / "operators.json").write_text(as_json(record) + "\n", encoding="utf-8")
        for name, (figure, _) in figures.items():
            figure.savefig(folder / name, dpi=DPI)
        write_page(folder, record, {name: caption for name, (_, caption) in figures.items()})
    except OSError as error:
        raise ValueError(f"cannot write to {str(folder)!r}: {error.strerror or error}") from None
