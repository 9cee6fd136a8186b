"""The effect of the sum over the taps through many blocks, without training: as many as the paper's stage 3, and more.

Digits need a net of five blocks, where a wrong scale is soon learned away. Thirty blocks of a new net show what it
multiplies up to, forward and backward.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dcnlab import nn
from dcnlab.internimage.blocks import Block, BlockSettings
from dcnlab.modulation import KINDS
from dcnlab.study.ablation.measures import finite, modulation_sums, root_mean_square

BLOCKS = 30
CHANNELS, GROUPS, SIDE = 32, 4, 14  # of the maps: 14 x 14 as in stage 3 at 224 x 224
STACKS = {
    "blocks": "blocks of InternImage-T: layer norm, DCNv3, shortcut, layer norm, MLP, shortcut",
    "layers": "DCNv3 layers alone, one on the other: no norm, no shortcut",
}
LOGITS = {"start": "logits as a new layer has them", "random": "logits N(0, 1), one for each group and tap"}


def through_depth(kind: str, stack: str, logits: str, blocks: int = BLOCKS, seed: int = 0) -> dict[str, Any]:
    """Send standard normal features up through a stack of new layers, and a standard normal gradient down.

    Parameters
    ----------
    kind : {"softmax", "sigmoid", "twice_sigmoid", "none"}
    stack : one of `STACKS`
    logits : one of `LOGITS`
        The random ones are the same for all kinds.
    blocks : int
    seed : int

    Returns
    -------
    dict
        "kind", "stack", "logits"; "sum_mean" of the modulation over the taps, all layers together; "stream", the root
        mean square of the input and of each output, over that of the input; "gradient", that of the gradient at each
        of these places, over that sent into the last one. None for what has overflowed.
    """
    weights, values = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    settings = BlockSettings(core_op=partial(nn.DCNv3, modulation=kind))
    if stack == "blocks":
        modules: list[nn.Module] = [Block(CHANNELS, GROUPS, 0.0, settings, weights) for _ in range(blocks)]
    else:
        modules = [settings.core_op(CHANNELS, groups=GROUPS, rng=weights) for _ in range(blocks)]
    layers: list[Any] = [module.dcn if isinstance(module, Block) else module for module in modules]
    if logits == "random":
        for layer in layers:
            layer.mask.bias.value = values.standard_normal(layer.mask.bias.shape)
    shape = (1, SIDE, SIDE, CHANNELS)
    x, grad = (values.standard_normal(shape, np.float32) for _ in range(2))
    stream, gradient = [root_mean_square(x)], [root_mean_square(grad)]
    with np.errstate(all="ignore"):
        for module in modules:
            x = module(x)
            stream.append(root_mean_square(x))
        for module in reversed(modules):
            grad = module.backward(grad)
            gradient.append(root_mean_square(grad))
    return {
        "kind": kind,
        "stack": stack,
        "logits": logits,
        "sum_mean": finite(np.mean([modulation_sums(layer).mean() for layer in layers])),
        "stream": [finite(value / stream[0]) for value in stream],
        "gradient": [finite(value / gradient[0]) for value in gradient[::-1]],
    }


def all_depths(blocks: int = BLOCKS) -> list[dict[str, Any]]:
    """Return `through_depth` for every stack, start and kind."""
    return [through_depth(kind, stack, logits, blocks) for stack in STACKS for logits in LOGITS for kind in KINDS]
