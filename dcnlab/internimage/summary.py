"""What a model costs, stage by stage, without running it and without allocating it.

Multiply-adds are counted as the published figures are: convolutions and linear layers, and 5 n K C for a DCNv3 operator
with n output pixels, K taps and C channels (four corners and the modulation). What the published code computes without
a layer of its own is left out, as there: the projections of center feature scaling and of the attention pooling's
queries, keys and values, 0.5 % of variant H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dcnlab.internimage.blocks import Block, Stage, require_dcnv3
from dcnlab.internimage.heads import ConvHead
from dcnlab.internimage.model import InternImage
from dcnlab.tables import format_table

DCNV3_OPERATIONS = 5  # multiply-adds of a tap and channel


@dataclass(frozen=True)
class Cost:
    """One part of a model, for one image.

    Attributes
    ----------
    part : str
    output : (H, W, C), or (classes,) for the head
    blocks : int
    parameters : int
    multiply_adds : int
    kept : int
        Numbers that the layers keep for backward.
    """

    part: str
    output: tuple[int, ...]
    blocks: int
    parameters: int
    multiply_adds: int
    kept: int


def costs(model: InternImage, size: int | tuple[int, int] = 224) -> list[Cost]:
    """Return the costs of stem, stages (with the way down to the next one) and head for one image of `size`."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"size must be positive, got {size!r}")
    h, w = _half(_half(height)), _half(_half(width))
    channels = model.channels
    found = [_stem(model, (height, width))]
    for number, stage in enumerate(model.stages):
        found.append(_stage(f"stage {number + 1}", stage, (h, w), channels))
        if stage.downsample is not None:
            h, w, channels = _half(h), _half(w), 2 * channels
    return [*found, _head(model, (h, w), channels)]


def totals(model: InternImage, size: int | tuple[int, int] = 224) -> tuple[int, int]:
    """Return the parameters and multiply-adds of a model, without those of classifiers it does not have."""
    found = costs(model, size)
    return sum(cost.parameters for cost in found), sum(cost.multiply_adds for cost in found)


def summary(model: InternImage, size: int | tuple[int, int] = 224, title: str = "InternImage") -> str:
    """Return the table that `dcnlab model` prints."""
    found = costs(model, size)
    bytes_each = np.dtype(model.settings.dtype).itemsize
    lines = [
        [
            cost.part,
            " x ".join(map(str, cost.output)),
            str(cost.blocks or ""),
            f"{cost.parameters:,}",
            f"{cost.multiply_adds / 1e9:.3f}",
            f"{cost.parameters * bytes_each / 1e6:.1f}",
            f"{cost.kept * bytes_each / 1e6:.1f}",
        ]
        for cost in found
    ]
    parameters, multiply_adds = sum(c.parameters for c in found), sum(c.multiply_adds for c in found)
    kept = sum(c.kept for c in found)
    lines.append(
        [
            "all",
            "",
            str(sum(c.blocks for c in found)),
            f"{parameters:,}",
            f"{multiply_adds / 1e9:.3f}",
            f"{parameters * bytes_each / 1e6:.1f}",
            f"{kept * bytes_each / 1e6:.1f}",
        ]
    )
    shown = f"{size} x {size}" if isinstance(size, int) else " x ".join(map(str, size))
    header = ["", "output", "blocks", "parameters", "G mult-adds", "weights MB", "kept MB"]
    return "\n".join(
        [
            f"{title}, one image of {shown}, {np.dtype(model.settings.dtype).name}",
            format_table(header, lines),
            "mult-adds: convolutions, linear layers, and 5 a tap and channel of DCNv3",
            "kept: what the layers keep for backward",
        ]
    )


def _half(side: int) -> int:
    """Return the side after a 3x3 convolution of stride 2 and padding 1."""
    return (side + 1) // 2


def _count(*modules: Any) -> int:
    return sum(module.parameter_count() for module in modules)


def _stem(model: InternImage, size: tuple[int, int]) -> Cost:
    h, w = _half(size[0]), _half(size[1])
    c, half, pixels = model.channels, model.channels // 2, h * w
    h, w = _half(h), _half(w)
    macs = pixels * half * 3 * 9 + h * w * c * half * 9
    # image, conv1 (before its norm), after it, after GELU, conv2 (before its norm)
    kept = 3 * size[0] * size[1] + 3 * pixels * half + h * w * c
    return Cost("stem", (h, w, c), 0, _count(model.patch_embed), macs, kept)


def _stage(name: str, stage: Stage, size: tuple[int, int], channels: int) -> Cost:
    h, w = size
    pixels, blocks = h * w, len(stage.blocks)
    macs, kept = (blocks * pixels * n for n in _block(stage.first_block, channels))
    kept += stage.further_norms * pixels * channels
    if stage.downsample is not None:
        below = _half(h) * _half(w)
        macs += below * 2 * channels * channels * 9
        kept += pixels * channels + below * 2 * channels
    return Cost(name, (h, w, channels), blocks, _count(stage), macs, kept)


def _block(block: Block, channels: int) -> tuple[int, int]:
    """Return the multiply-adds and the numbers kept of one pixel of a block."""
    c, dcn = channels, require_dcnv3(block)
    hidden, window = block.mlp.fc1.weight.shape[0], int(np.prod(dcn.dw_conv[0].weight.shape[2:]))
    taps = dcn.groups * dcn.taps
    macs = 2 * c * c + window * c + c * 3 * taps + DCNV3_OPERATIONS * dcn.taps * c + 2 * c * hidden
    # DCNv3: its input, three steps of the depthwise branch, features, projected and sampled values, all C, and offsets,
    # logits and modulation; the MLP: its input and two hidden arrays. Each norm or scale beside them: its input.
    kept = 7 * c + 4 * taps + c + 2 * hidden + c * (sum(len(branch.modules) for branch in block.branches) - 5)
    return macs, kept + c * dcn.center_feature_scale


def _head(model: InternImage, size: tuple[int, int], channels: int) -> Cost:
    pixels, head = size[0] * size[1], model.head_layers
    if head is None:
        return Cost("head", (), 0, 0, 0, 0)
    classes, wide = head.head.weight.shape
    if isinstance(head, ConvHead):
        expanded = head.conv_head[0].weight.shape[0]
        macs = pixels * channels * expanded + wide * classes
        kept = pixels * channels + 2 * pixels * expanded + wide
    else:
        width, tokens = head.dcnv3_head_x3.weight.shape[0], 4 * pixels
        to_one_resolution = pixels * channels * 4 * width + tokens * channels // 2 * width
        macs = to_one_resolution + width * wide + wide * classes
        kept = pixels * channels + 5 * tokens * width + 4 * width + 2 * wide
    return Cost("head", (classes,), 0, _count(*head.named().values()), macs, kept)
