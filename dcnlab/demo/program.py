"""The demo from its arguments to its files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import dcnlab
from dcnlab.bench.timing import machine
from dcnlab.demo.balance import balance_numbers, compare_modulations
from dcnlab.demo.figures import Scene, all_figures, hero, short
from dcnlab.demo.learning import Learning, learn
from dcnlab.demo.photo import DETAIL, DemoError, Photo, read_photo
from dcnlab.demo.report import write_report
from dcnlab.demo.samplers import NineTapDCNv3, OneTapDCNv2
from dcnlab.demo.warp import Warp
from dcnlab.pages import DPI, save_small, writable_folder

SIZES = (48, 512)
GOOD_RATIO = 5.0  # what a photo should reach; less is reported as such


def run(
    image: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "dcnlab-demo",
    seed: int = 0,
    size: int = 160,
    steps: tuple[int, int] = (100, 150),
    progress: bool = True,
) -> dict[str, Any]:
    """Bend a photo, learn the offsets that undo it, compare modulations, check gradients, write the report.

    Parameters
    ----------
    image : path, optional
        The photo; matplotlib's sample photo if not given.
    out : path
        Folder of the results, made if missing: report.html, results.json and the figures. Nothing is written
        anywhere else.
    seed : int
        Of the bend, and of the logits of the comparison.
    size : int
        Pixels of the longer side that the demo works with, 48 to 512.
    steps : (blurred, sharp)
        Gradient steps of the two stages.
    progress : bool
        Print how it goes: bars on a terminal, plain lines otherwise.

    Returns
    -------
    dict
        What results.json holds.

    Raises
    ------
    DemoError
        One line, when the image cannot be used or the folder cannot be written.
    """
    started = time.perf_counter()
    _check(seed, size, steps)
    say: Callable[[str], None] = (lambda line: print(line, flush=True)) if progress else (lambda line: None)
    photo = read_photo(image, size)
    try:
        folder = writable_folder(out)
    except ValueError as error:
        raise DemoError(str(error)) from None
    scene = _scene(photo, seed, steps, progress, say)
    table = _gradient_table(progress, say)
    figures = all_figures(scene)
    results = _results(scene, table, seed, size, steps)
    try:
        for name, (figure, _) in figures.items():
            figure.savefig(folder / name, dpi=DPI)
        save_small(hero(scene), folder / "demo.png")
        results["seconds"] = round(time.perf_counter() - started, 2)
        (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        captions = {name: caption for name, (_, caption) in figures.items()}
        write_report(folder, scene, results, table, captions)
    except OSError as error:
        raise DemoError(f"cannot write to {str(folder)!r}: {error.strerror or error}") from None
    say(f"Wrote {folder / 'report.html'}, results.json and {len(figures) + 1} figures in {results['seconds']:.0f} s.")
    return results


def picture(path: str | os.PathLike[str], seed: int = 0, size: int = 160, steps: tuple[int, int] = (100, 150)) -> None:
    """Learn from the sample photo and write only the picture of the README, about 1200 pixels wide."""
    _check(seed, size, steps)
    scene = _scene(read_photo(None, size), seed, steps, False, lambda line: None)
    save_small(hero(scene), Path(path))


def _check(seed: int, size: int, steps: tuple[int, int]) -> None:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise DemoError(f"seed must be an int of at least 0, got {seed!r}")
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or not SIZES[0] <= size <= SIZES[1]:
        raise DemoError(f"size must be an int in {SIZES[0]}..{SIZES[1]}, got {size!r}")
    whole = isinstance(steps, (tuple, list)) and all(isinstance(s, (int, np.integer)) for s in steps)
    if not whole or len(steps) != 2 or min(steps) < 1:
        raise DemoError(f"steps must be two ints of at least 1 (blurred, sharp), got {steps!r}")


def _scene(photo: Photo, seed: int, steps: tuple[int, int], progress: bool, say: Callable[[str], None]) -> Scene:
    rng = np.random.default_rng(seed)
    shape = photo.grey.shape
    warp = Warp(shape, rng)
    bent, truth = warp.bend(photo.grey), warp.undone()
    longest = np.linalg.norm(warp.field(), axis=-1).max()
    say(f"1. Bend {photo.name}, {shape[1]}x{shape[0]} px, by up to {longest:.1f} px, and learn to undo it.")
    learnings = []
    for sampler in (OneTapDCNv2(shape), NineTapDCNv3(shape)):
        learnings.append(learn(sampler, bent, photo.grey, truth, steps, progress))
        say("   " + _learned_line(learnings[-1]))
    say("2. Sigmoid and softmax modulation of the same logits, through a stack of layers.")
    balances = compare_modulations(photo.grey, rng)
    for kind, numbers in balance_numbers(balances).items():
        say("   " + _balance_line(kind, numbers))
    bent_large = warp.bend(photo.large, DETAIL)
    return Scene(photo, warp, bent, bent_large, truth, steps, tuple(learnings), balances)


def _learned_line(learning: Learning) -> str:
    ratio = learning.before / learning.after
    verdict = f"{ratio:.1f} times smaller" if ratio > 1 else "no smaller"
    line = (
        f"{learning.sampler.name}: mean distance to the true offsets {learning.before:.3f} px before, "
        f"{learning.after:.3f} px after: {verdict} ({learning.seconds:.1f} s)"
    )
    if ratio < GOOD_RATIO:
        line += f". Less than {GOOD_RATIO:g} times: this photo has too little structure in places"
    return line


def _balance_line(kind: str, numbers: dict[str, Any]) -> str:
    layers = len(numbers["output_scale"]) - 1
    return (
        f"{kind}: the taps add up to {numbers['sum_min']:.3g}..{numbers['sum_max']:.3g}; after {layers} layers "
        f"the output is {short(numbers['output_scale'][-1])} and the gradient {short(numbers['gradient_scale'][-1])} "
        "times as large"
    )


def _gradient_table(progress: bool, say: Callable[[str], None]) -> Any:
    from tqdm import tqdm

    from dcnlab.gradient_table import check_operators

    def cases(all_cases: Sequence[Any]) -> Any:
        return tqdm(all_cases, desc="gradients", disable=None if progress else True, leave=False)

    say("3. Every gradient against finite differences.")
    table = check_operators(progress=cases)
    say(str(table))
    return table


def _results(scene: Scene, table: Any, seed: int, size: int, steps: tuple[int, int]) -> dict[str, Any]:
    learned = {
        r.sampler.name.lower(): {
            "before": r.before,
            "after": r.after,
            "ratio": r.before / r.after,
            "seconds": round(r.seconds, 2),
            "loss_first": r.losses[0],
            "loss_last": r.losses[-1],
        }
        for r in scene.learnings
    }
    return {
        **learned,
        "seconds": 0.0,  # the last number to be known
        "image": scene.photo.name,
        "shape": list(scene.photo.grey.shape),
        "seed": int(seed),
        "size": int(size),
        "steps": [int(s) for s in steps],
        "longest_offset": float(np.linalg.norm(scene.truth, axis=-1).max()),
        "modulation": balance_numbers(scene.balances),
        "gradcheck": {
            "ok": bool(table.ok),
            "checks": len(table.rows),
            "worst_error": max((float(row.error) for row in table.rows), default=0.0),
        },
        "versions": {
            "dcnlab": dcnlab.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("numpy", "scipy", "matplotlib", "pillow")},
        },
        "machine": machine(),
    }
