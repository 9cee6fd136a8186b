"""The operators that are compared, as layers of equal channels, and the features of a photo that they look at."""

from __future__ import annotations

import numpy as np

from dcnlab import nn
from dcnlab.demo.photo import read_photo
from dcnlab.internimage.preprocess import crop, preprocess

CHANNELS, HEADS, GROUPS = 64, 4, 4
WINDOW, LARGE_KERNEL, SMALL_KERNEL = 7, 31, 3
PATCH = 4  # pixels of the photo from one pixel of the features to the next, as behind InternImage's stem
LOGIT_SPREAD = 1.0  # standard deviation of the logits of attention and of modulation
OFFSET_SPREAD = 2.0  # pixels in each direction, root mean square

GLOBAL, WINDOWED, LARGE, DEFORMABLE, SMALL = OPERATORS = (
    "global attention",
    "window attention 7x7",
    "depthwise 31x31",
    "DCNv3",
    "depthwise 3x3",
)


def sample_photo() -> np.ndarray:
    """Return matplotlib's sample photo, (H, W, 3) uint8."""
    return (255 * read_photo(None, 600).rgb).round().astype(np.uint8)


def shown_photo(photo: np.ndarray, side: int) -> np.ndarray:
    """Return the part of a photo that features of `side` pixels are made of, (PATCH side, PATCH side, 3) uint8."""
    return crop(photo, PATCH * side)


def features(photo: np.ndarray, side: int, seed: int = 0) -> np.ndarray:
    """Return features of a photo as a network's stem makes them, (1, side, side, CHANNELS) float32.

    Each patch of PATCH x PATCH pixels is projected by one random matrix, and then normalised: what a new stem does,
    whose convolutions are random as well.

    Parameters
    ----------
    photo : (H, W, 3) uint8
        Its middle square is taken, see `dcnlab.internimage.preprocess.crop`.
    side : int
    seed : int
        Of the projection.
    """
    pixels = preprocess(photo, PATCH * side)[0]  # (3, PATCH side, PATCH side)
    patches = pixels.reshape(3, side, PATCH, side, PATCH).transpose(1, 3, 0, 2, 4).reshape(1, side, side, -1)
    rng = np.random.default_rng(seed)
    projection = rng.standard_normal((patches.shape[-1], CHANNELS)).astype(np.float32)
    return nn.LayerNorm(CHANNELS)(patches @ projection)


def build(seen: np.ndarray, seed: int = 0) -> dict[str, nn.Module]:
    """Return the operators by name, in eval mode: each takes and returns (N, H, W, CHANNELS).

    Parameters
    ----------
    seen : (1, H, W, CHANNELS)
        Features on which the spreads are set, see below.
    seed : int
        Of the weights.

    Notes
    -----
    The weights are random. A new DCNv3 does not adapt, since it starts with offsets 0 and equal modulation, and new
    attention hardly does, since its logits start near 0. Training changes that, and random weights of larger spread
    stand for it here: the logits of attention and of the modulation have the same standard deviation,
    `LOGIT_SPREAD`, and the offsets have the root mean square `OFFSET_SPREAD` pixels in each direction. How much an
    operator adapts depends on these choices; whether it can does not.

    The large kernel is what RepLKNet runs in inference: both branches merged, after their batch norms took the
    statistics of `seen`.
    """
    attention, window, large, deformable, small = np.random.default_rng(seed).spawn(len(OPERATORS))
    layers: dict[str, nn.Module] = {
        GLOBAL: _spread_attention(nn.MultiHeadSelfAttention(CHANNELS, HEADS, rng=attention), seen),
        WINDOWED: _spread_attention(nn.WindowAttention(CHANNELS, HEADS, WINDOW, rng=window), seen),
        LARGE: channels_last(_merged_large_kernel(seen, large)),
        DEFORMABLE: spread_dcnv3(nn.DCNv3(CHANNELS, groups=GROUPS, rng=deformable), seen, deformable),
        SMALL: channels_last(nn.DepthwiseConv2d(CHANNELS, SMALL_KERNEL, padding=SMALL_KERNEL // 2, rng=small)),
    }
    return {name: layer.eval() for name, layer in layers.items()}


def channels_last(layer: nn.Module) -> nn.Sequential:
    """Return an NCHW layer as one on channels-last arrays."""
    return nn.Sequential(nn.ToChannelsFirst(), layer, nn.ToChannelsLast())


def _merged_large_kernel(seen: np.ndarray, rng: np.random.Generator) -> nn.DepthwiseConv2d:
    layer = nn.LargeKernelConv2d(CHANNELS, LARGE_KERNEL, rng=rng)
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of this one batch
    layer(seen.transpose(0, 3, 1, 2))
    return layer.merged()


def _spread_attention(layer: nn.MultiHeadSelfAttention, seen: np.ndarray) -> nn.MultiHeadSelfAttention:
    """Scale queries and keys until their logits have the standard deviation LOGIT_SPREAD."""
    few = seen[:, ::4, ::4]  # the logits of all pairs of pixels would fill memory
    heads = layer.qkv(few).reshape(-1, 3, layer.heads, layer.dim // layer.heads)  # (pixels, 3, heads, D)
    logits = np.einsum("qhd,khd->hqk", heads[:, 0], heads[:, 1]) / np.sqrt(heads.shape[-1])
    factor = np.sqrt(LOGIT_SPREAD / logits.std())  # a logit is a product of a query and a key
    for parameter in (layer.qkv.weight, layer.qkv.bias):
        assert parameter is not None
        parameter.value[: 2 * layer.dim] *= factor
    return layer


def spread_dcnv3(layer: nn.DCNv3, seen: np.ndarray, rng: np.random.Generator) -> nn.DCNv3:
    """Give offsets and modulation random weights, scaled until they have the spreads above."""
    for linear in (layer.offset, layer.mask):
        linear.weight.value = rng.standard_normal(linear.weight.shape)
    layer(seen)
    kept = layer.kept()
    layer.offset.weight.value *= OFFSET_SPREAD / np.sqrt(np.mean(kept.offset**2))
    layer.mask.weight.value *= LOGIT_SPREAD / kept.logits.std()
    return layer
