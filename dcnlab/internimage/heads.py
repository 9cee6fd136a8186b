"""The two heads: a convolution and global average pooling (T to XL), and attention pooling (H and G).

A head takes the four stage maps, channels-last, and returns logits; its backward pass returns the gradients of the
maps, None for those it does not look at. Its modules are the model's own, under their published names: `named`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab import nn
from dcnlab.arrays import Array
from dcnlab.internimage.blocks import as_image

MapGrads = list[Array | None]


class ConvHead:
    """1x1 convolution to cls_scale times the channels, batch norm, GELU, global average, linear."""

    def __init__(self, channels: int, cls_scale: float, num_classes: int, dtype: Any, rng: Any) -> None:
        wide = int(channels * cls_scale)
        self.conv_head = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False, dtype=dtype, rng=rng),
            nn.Sequential(nn.BatchNorm2d(wide, dtype=dtype, rng=rng)),
            nn.GELU(),
        )
        self.avgpool = nn.GlobalAveragePool()
        self.head = nn.Linear(wide, num_classes, dtype=dtype, rng=rng)

    def named(self) -> dict[str, nn.Module]:
        """Return the modules by name, in order."""
        return {name: member for name, member in vars(self).items() if isinstance(member, nn.Module)}

    def forward(self, maps: list[Array]) -> Array:
        """Return the logits (N, classes)."""
        return self.head(self.avgpool(self.conv_head(as_image(maps[-1]))))

    def backward(self, grad_logits: Array) -> MapGrads:
        """Return the gradients of the maps."""
        grad = self.conv_head.backward(self.avgpool.backward(self.head.backward(grad_logits)))
        return [None, None, None, grad.transpose(0, 2, 3, 1)]


class ClipHead:
    """The last two maps at one resolution, added, pooled by cross attention of their mean to all pixels; linear."""

    def __init__(self, channels: int, embed: tuple[int, int, int], num_classes: int, dtype: Any, rng: Any) -> None:
        width, heads, out = embed
        made: dict[str, Any] = {"dtype": dtype, "rng": rng}
        self.dcnv3_head_x4 = nn.Sequential(nn.Conv2d(channels, 4 * width, 1, **made), nn.PixelShuffle(2))
        self.dcnv3_head_x3 = nn.Conv2d(channels // 2, width, 1, **made)
        self.clip_projector = nn.AttentionPoolingBlock(width, heads, out, **made)
        self.fc_norm = nn.Sequential(nn.LayerNorm(out, **made))
        self.head = nn.Linear(out, num_classes, **made)
        self.shape = (0, 0, 0, 0)

    def named(self) -> dict[str, nn.Module]:
        """Return the modules by name, in order."""
        return {name: member for name, member in vars(self).items() if isinstance(member, nn.Module)}

    def forward(self, maps: list[Array]) -> Array:
        """Return the logits (N, classes)."""
        x3, x4 = maps[2:]
        if x3.shape[1:3] != (2 * x4.shape[1], 2 * x4.shape[2]):
            raise ValueError(
                "InternImage with use_clip_projector needs images whose height and width are multiples of 32: "
                f"stage 3 has {x3.shape[1]}x{x3.shape[2]} pixels, stage 4 {x4.shape[1]}x{x4.shape[2]}"
            )
        with np.errstate(all="ignore"):
            joined = self.dcnv3_head_x4(as_image(x4)) + self.dcnv3_head_x3(as_image(x3))  # (N, width, H, W)
        self.shape = joined.shape
        tokens = joined.reshape(*joined.shape[:2], -1).transpose(0, 2, 1)  # (N, H W, width)
        return self.head(self.fc_norm(self.clip_projector(tokens)))

    def backward(self, grad_logits: Array) -> MapGrads:
        """Return the gradients of the maps."""
        grad = self.clip_projector.backward(self.fc_norm.backward(self.head.backward(grad_logits)))
        joined = grad.transpose(0, 2, 1).reshape(self.shape)
        grads = (self.dcnv3_head_x3.backward(joined), self.dcnv3_head_x4.backward(joined))
        return [None, None, *(each.transpose(0, 2, 3, 1) for each in grads)]
