"""The two heads: a convolution and global average pooling (T to XL), and attention pooling (H and G).

A head takes the four stage maps, channels-last, and returns logits; its backward pass returns the gradients of the
maps, None for those it does not look at.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab import nn
from dcnlab.arrays import Array
from dcnlab.internimage.blocks import as_image

MapGrads = list[Array | None]


class ConvHead:
    """1x1 convolution to cls_scale times the channels, batch norm, GELU, global average, linear.

    Its modules are the model's own: `conv_head` and `head`.
    """

    def __init__(self, model: Any, channels: int, cls_scale: float, num_classes: int, dtype: Any, rng: Any) -> None:
        wide = int(channels * cls_scale)
        model.conv_head = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False, dtype=dtype, rng=rng),
            nn.Sequential(nn.BatchNorm2d(wide, dtype=dtype, rng=rng)),
            nn.GELU(),
        )
        model.avgpool = nn.GlobalAveragePool()
        model.head = nn.Linear(wide, num_classes, dtype=dtype, rng=rng)
        self.model = model

    def forward(self, maps: list[Array]) -> Array:
        """Return the logits (N, classes)."""
        model = self.model
        return model.head(model.avgpool(model.conv_head(as_image(maps[-1]))))

    def backward(self, grad_logits: Array) -> MapGrads:
        """Return the gradients of the maps."""
        model = self.model
        grad = model.conv_head.backward(model.avgpool.backward(model.head.backward(grad_logits)))
        return [None, None, None, grad.transpose(0, 2, 3, 1)]


class ClipHead:
    """The last two maps at one resolution, added, pooled by cross attention of their mean to all pixels; linear.

    Its modules are the model's own: `dcnv3_head_x4`, `dcnv3_head_x3`, `clip_projector`, `fc_norm` and `head`.
    """

    def __init__(
        self, model: Any, channels: int, embed: tuple[int, int, int], num_classes: int, dtype: Any, rng: Any
    ) -> None:
        width, heads, out = embed
        made: dict[str, Any] = {"dtype": dtype, "rng": rng}
        model.dcnv3_head_x4 = nn.Sequential(nn.Conv2d(channels, 4 * width, 1, **made), nn.PixelShuffle(2))
        model.dcnv3_head_x3 = nn.Conv2d(channels // 2, width, 1, **made)
        model.clip_projector = nn.AttentionPoolingBlock(width, heads, out, **made)
        model.fc_norm = nn.Sequential(nn.LayerNorm(out, **made))
        model.head = nn.Linear(out, num_classes, **made)
        self.model, self.shape = model, (0, 0, 0, 0)

    def forward(self, maps: list[Array]) -> Array:
        """Return the logits (N, classes)."""
        model, (x3, x4) = self.model, maps[2:]
        if x3.shape[1:3] != (2 * x4.shape[1], 2 * x4.shape[2]):
            raise ValueError(
                "InternImage with use_clip_projector needs images whose height and width are multiples of 32: "
                f"stage 3 has {x3.shape[1]}x{x3.shape[2]} pixels, stage 4 {x4.shape[1]}x{x4.shape[2]}"
            )
        with np.errstate(all="ignore"):
            joined = model.dcnv3_head_x4(as_image(x4)) + model.dcnv3_head_x3(as_image(x3))  # (N, width, H, W)
        self.shape = joined.shape
        tokens = joined.reshape(*joined.shape[:2], -1).transpose(0, 2, 1)  # (N, H W, width)
        return model.head(model.fc_norm(model.clip_projector(tokens)))

    def backward(self, grad_logits: Array) -> MapGrads:
        """Return the gradients of the maps."""
        model = self.model
        grad = model.clip_projector.backward(model.fc_norm.backward(model.head.backward(grad_logits)))
        joined = grad.transpose(0, 2, 1).reshape(self.shape)
        grads = (model.dcnv3_head_x3.backward(joined), model.dcnv3_head_x4.backward(joined))
        return [None, None, *(each.transpose(0, 2, 3, 1) for each in grads)]
