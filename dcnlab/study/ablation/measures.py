"""What is measured in a network on fixed images: sums over the taps, and the scale of what passes each block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from dcnlab import nn
from dcnlab.arrays import Array
from dcnlab.internimage import InternImage
from dcnlab.internimage.blocks import Block
from dcnlab.train.divergence import watched

Measured = dict[str, Any]


def measure(model: InternImage, images: np.ndarray, labels: np.ndarray) -> Measured:
    """Send images through a classifier and the gradient of the mean loss back, in inference mode.

    Parameters
    ----------
    model : InternImage
        Its core operators keep their modulation as `nn.DCNv3` does.
    images : (N, 3, H, W)
    labels : (N,)

    Returns
    -------
    dict
        "loss", and "layers": of each block in the order in which they run, "stage" and "block" from 0, and the numbers
        of `block_numbers`. What is not finite is None.
    """
    blocks = [
        (s, b, block)
        for s, stage in enumerate(model.stages)
        for b, block in enumerate(cast("list[Block]", list(stage.blocks)))
    ]
    training, loss = model.training, nn.CrossEntropy()
    model.eval()
    with scales(model, [block for _, _, block in blocks]) as seen:
        value = loss(model(images), labels)
        model.backward(loss.backward())
    layers = [
        {"stage": stage, "block": number, **block_numbers(block, found)}
        for (stage, number, block), found in zip(blocks, seen, strict=True)
    ]
    model.train(training)
    return {"loss": finite(value), "layers": layers}


def block_numbers(block: Block, seen: dict[str, float]) -> Measured:
    """Return what a block did in its last forward and backward pass.

    "sum_mean", "sum_std", "sum_least" and "sum_most" of the modulation's sum over the taps, over all pixels and groups;
    and the root mean squares "operator" of the output of the core operator, "stream" of the output of the block (the
    residual stream), and "gradient" of the gradient of the block's input.
    """
    sums = modulation_sums(block.dcn)
    spread = {"mean": sums.mean(), "std": sums.std(), "least": sums.min(), "most": sums.max()}
    return {
        **{f"sum_{name}": finite(value) for name, value in spread.items()},
        **{name: finite(value) for name, value in seen.items()},
    }


def modulation_sums(layer: Any) -> np.ndarray:
    """Return the sums over the taps of a layer's modulation in its last forward pass, (N, Ho, Wo, G), float64."""
    mask = layer.kept().mask  # (N, Ho, Wo, G*K)
    by_tap = mask.reshape(*mask.shape[:3], layer.groups, layer.taps)
    sums: np.ndarray = by_tap.sum(axis=-1, dtype=np.float64)
    return sums


@contextmanager
def scales(model: InternImage, blocks: Sequence[Block]) -> Iterator[list[dict[str, float]]]:
    """Note the root mean squares of what passes blocks inside the ``with``: a dict a block, see `block_numbers`."""
    seen: list[dict[str, float]] = [{} for _ in blocks]
    wanted = {(id(block.dcn), "forward"): (found, "operator") for block, found in zip(blocks, seen, strict=True)}
    for block, found in zip(blocks, seen, strict=True):
        wanted |= {(id(block), "forward"): (found, "stream"), (id(block), "backward"): (found, "gradient")}

    def see(name: str, module: nn.Module, direction: str, inputs: list[Array], output: Any) -> None:
        if (id(module), direction) in wanted:
            found, what = wanted[id(module), direction]
            found[what] = root_mean_square(output)

    with watched(model, see):
        yield seen


@np.errstate(all="ignore")
def root_mean_square(array: Array) -> float:
    """Return the root mean square of all entries, computed in float64.

    >>> root_mean_square(np.array([3.0, -4.0, 0.0, 0.0]))
    2.5
    """
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def finite(value: Any) -> float | None:
    """Return a number for a record: JSON knows no NaN and no infinity."""
    number = float(value)
    return number if math.isfinite(number) else None
