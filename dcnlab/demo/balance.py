"""Sigmoid and softmax modulation side by side, on the same logits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dcnlab.modulation import KINDS
from dcnlab.ops.deformable import dcnv3, dcnv3_backward

LAYERS = 6
TAPS = 9
SHOWN = ("sigmoid", "softmax")


class Balance(NamedTuple):
    """What one kind of modulation does to a stack of layers.

    Attributes
    ----------
    modulation : (1, H, W, 1, K), of the first layer
    output_scale : mean of each layer's output over the mean of the image, which comes first
    gradient_scale : sum of the gradient at each depth over its sum at the last output, which comes first
    logit_gradient : (1, H, W, 1, K), of the first layer's logits when it stands alone
    """

    modulation: np.ndarray
    output_scale: list[float]
    gradient_scale: list[float]
    logit_gradient: np.ndarray


def compare_modulations(image: np.ndarray, rng: np.random.Generator, layers: int = LAYERS) -> dict[str, Balance]:
    """Send an image through a stack of DCNv3 layers and a gradient back, for each kind of modulation.

    Offsets and logits are standard normal, and the same for all kinds. Nothing is learned and nothing normalises
    the maps in between: what remains is the effect of the sum over the taps. The loss is the mean of the last
    output.

    Parameters
    ----------
    image : (H, W), not negative
    """
    height, width = image.shape
    offsets = [rng.standard_normal((1, height, width, 2 * TAPS)) for _ in range(layers)]
    logits = [rng.standard_normal((1, height, width, TAPS)) for _ in range(layers)]
    return {kind: _through(image, kind, offsets, logits) for kind in SHOWN}


def _through(image: np.ndarray, kind: str, offsets: list[np.ndarray], logits: list[np.ndarray]) -> Balance:
    forward, backward = KINDS[kind]
    masks = [forward(z) for z in logits]
    maps = [image[None, ..., None]]
    for offset, mask in zip(offsets, masks, strict=True):
        maps.append(dcnv3(maps[-1], offset, mask))
    grad = np.full(maps[-1].shape, 1 / maps[-1].size)
    alone = dcnv3_backward(grad, maps[0], offsets[0], masks[0])
    sums = [grad.sum()]
    for x, offset, mask in zip(maps[-2::-1], offsets[::-1], masks[::-1], strict=True):
        grad = dcnv3_backward(grad, x, offset, mask).input
        sums.append(grad.sum())
    return Balance(
        modulation=masks[0][:, :, :, None],
        output_scale=[float(x.mean() / maps[0].mean()) for x in maps],
        gradient_scale=[float(s / sums[0]) for s in sums],
        logit_gradient=backward(alone.mask, logits[0])[:, :, :, None],
    )


def balance_numbers(balances: dict[str, Balance]) -> dict[str, dict[str, float | list[float]]]:
    """Return the numbers of the report."""
    return {kind: _numbers(balance) for kind, balance in balances.items()}


def _numbers(balance: Balance) -> dict[str, float | list[float]]:
    sums = balance.modulation.sum(axis=-1)
    logit = balance.logit_gradient
    # How much of the gradient pushes all taps of a pixel the same way: 0 for softmax, whose sum is fixed.
    common = np.abs(logit.sum(axis=-1)).sum() / np.abs(logit).sum()
    return {
        "sum_min": float(sums.min()),
        "sum_mean": float(sums.mean()),
        "sum_max": float(sums.max()),
        "output_scale": balance.output_scale,
        "gradient_scale": balance.gradient_scale,
        "logit_gradient_rms": float(np.sqrt((logit**2).mean())),
        "logit_gradient_common": float(common),
    }
