"""The parts of InternImage: stem, blocks in all published residual orders, stages, and both heads.

Arrays are channels-last (N, H, W, C) but at the image and inside the convolutions. Names of modules and parameters are
those of the published state dictionaries (OpenGVLab/InternImage).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dcnlab import nn
from dcnlab.arrays import Array, array_module

Rng = np.random.Generator


class Stem(nn.Module):
    """Two 3x3 convolutions of stride 2: an image (N, 3, H, W) becomes (N, H/4, W/4, C)."""

    def __init__(self, channels: int, dtype: Any, rng: Rng) -> None:
        half = channels // 2
        self.conv1 = nn.Conv2d(3, half, 3, stride=2, padding=1, dtype=dtype, rng=rng)
        self.norm1 = nn.Sequential(nn.ToChannelsLast(), nn.LayerNorm(half, dtype=dtype, rng=rng), nn.ToChannelsFirst())
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(half, channels, 3, stride=2, padding=1, dtype=dtype, rng=rng)
        self.norm2 = nn.Sequential(nn.ToChannelsLast(), nn.LayerNorm(channels, dtype=dtype, rng=rng))
        self.chain = Chain(self.conv1, self.norm1, self.act, self.conv2, self.norm2)

    def forward(self, input: Array) -> Array:
        """Return the features of an image."""
        return self.chain.forward(input)

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the image."""
        return self.chain.backward(grad_output)


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2 and a norm: (N, H, W, C) becomes (N, H/2, W/2, 2 C), sizes rounded up."""

    def __init__(self, channels: int, dtype: Any, rng: Rng) -> None:
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False, dtype=dtype, rng=rng)
        self.norm = nn.Sequential(nn.ToChannelsLast(), nn.LayerNorm(2 * channels, dtype=dtype, rng=rng))
        self.chain = Chain(nn.ToChannelsFirst(), self.conv, self.norm)

    def forward(self, input: Array) -> Array:
        """Return the features at half the resolution."""
        return self.chain.forward(input)

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the features."""
        return self.chain.backward(grad_output)


class Chain:
    """Modules one after the other that are registered, under their published names, somewhere else."""

    def __init__(self, *modules: nn.Module) -> None:
        self.modules = modules

    def forward(self, input: Array) -> Array:
        """Go through the modules."""
        for module in self.modules:
            input = module(input)
        return input

    def backward(self, grad_output: Array) -> Array:
        """Go back through them."""
        for module in reversed(self.modules):
            grad_output = module.backward(grad_output)
        return grad_output


@dataclass(frozen=True)
class BlockSettings:
    """What all blocks of a model share; meanings as in `InternImage`."""

    core_op: Callable[..., nn.Module] = nn.DCNv3
    mlp_ratio: float = 4.0
    layer_scale: float | None = None
    offset_scale: float = 1.0
    post_norm: bool = False
    dw_kernel_size: int | None = None
    res_post_norm: bool = False
    center_feature_scale: bool = False
    remove_center: bool = False
    dtype: Any = np.float32


class Block(nn.Module):
    r"""x + branch(x) twice: the branch with DCNv3 (or another core operator), then the branch with the MLP.

    A branch is, with f the operator, LN a layer norm, gamma the layer scale, and drop path at its end,

    ==================== ========================
    pre-norm             f(LN(x))
    post_norm            LN(f(x))
    res_post_norm        LN'(f(LN(x)))
    with layer_scale     gamma f(LN(x)), or with post_norm gamma LN(f(x))
    ==================== ========================

    post_norm goes before res_post_norm where both are given. With layer_scale, res_post_norm has parameters but no
    effect, as in the published code.
    """

    def __init__(self, channels: int, groups: int, drop_path: float, settings: BlockSettings, rng: Rng) -> None:
        s = settings
        made: dict[str, Any] = {"dtype": s.dtype, "rng": rng}
        scales: list[nn.LayerScale] = []
        if s.layer_scale is not None:
            scales = [nn.LayerScale(channels, s.layer_scale, **made) for _ in range(2)]
            self.gamma1, self.gamma2 = (scale.gamma for scale in scales)
        self.norm1 = _norm(channels, made)
        self.dcn = s.core_op(
            channels,
            dw_kernel_size=s.dw_kernel_size,
            groups=groups,
            offset_scale=s.offset_scale,
            center_feature_scale=s.center_feature_scale,
            remove_center=s.remove_center,
            **made,
        )
        self.norm2 = _norm(channels, made)
        self.mlp = nn.MLP(channels, int(channels * s.mlp_ratio), **made)
        if s.res_post_norm:
            self.res_post_norm1, self.res_post_norm2 = _norm(channels, made), _norm(channels, made)
        self.drop_path1, self.drop_path2 = (nn.DropPath(drop_path, rng=rng.spawn(1)[0]) for _ in range(2))
        self.branches = (self._branch(1, self.dcn, scales, s), self._branch(2, self.mlp, scales, s))

    def _branch(self, number: int, operator: nn.Module, scales: list[nn.LayerScale], settings: BlockSettings) -> Chain:
        norm = getattr(self, f"norm{number}")
        chain = [operator, norm] if settings.post_norm else [norm, operator]
        if settings.res_post_norm and not settings.post_norm and not scales:
            chain.append(getattr(self, f"res_post_norm{number}"))
        if scales:
            chain.append(scales[number - 1])
        return Chain(*chain, getattr(self, f"drop_path{number}"))

    @np.errstate(all="ignore")
    def forward(self, input: Array) -> Array:
        """Return features of the same shape."""
        for branch in self.branches:
            output = branch.forward(input)
            output += input  # in place: a branch's output is nobody else's
            input = output
        return input

    @np.errstate(all="ignore")
    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the features."""
        for branch in reversed(self.branches):
            grad_output = grad_output + branch.backward(grad_output)
        return grad_output


class Stage(nn.Module):
    """Blocks, the norm that may close them, and the way down to the next stage.

    Calling it returns the stage's map, which `downsample` (None in the last stage) takes further.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        drop_paths: Sequence[float],
        post_norm_ids: Sequence[int],
        last: bool,
        settings: BlockSettings,
        rng: Rng,
    ) -> None:
        made: dict[str, Any] = {"dtype": settings.dtype, "rng": rng}
        blocks = [Block(channels, groups, p, settings, rng) for p in drop_paths]
        self.blocks = nn.ModuleList(*blocks)
        closed = not settings.post_norm or settings.center_feature_scale
        self.norm = _norm(channels, made) if closed else None
        norms = [_norm(channels, made) for _ in post_norm_ids]
        if norms:
            self.post_norms = nn.ModuleList(*norms)
        self.downsample = None if last else Downsample(channels, settings.dtype, rng)
        self.further_norms = len(norms) + closed
        after = dict(zip(post_norm_ids, norms, strict=True))
        chain = [m for number, block in enumerate(blocks) for m in (block, after.get(number)) if m is not None]
        self.chain = Chain(*chain, *([self.norm] if self.norm is not None else []))

    @property
    def first_block(self) -> Block:
        """One block of the stage: all have the same sizes."""
        block: Block = self.blocks[0]
        return block

    def forward(self, input: Array) -> Array:
        """Return the stage's map."""
        return self.chain.forward(input)

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the stage's input."""
        return self.chain.backward(grad_output)


def require_dcnv3(block: Block) -> nn.DCNv3:
    """Return the DCNv3 layer of a block; ValueError where a model has another core operator."""
    if not isinstance(block.dcn, nn.DCNv3):
        raise ValueError(f"expected a model of DCNv3 layers, got one of {type(block.dcn).__name__}")
    return block.dcn


def _norm(channels: int, made: dict[str, Any]) -> nn.Sequential:
    """Return a layer norm under the published name NAME.0."""
    return nn.Sequential(nn.LayerNorm(channels, **made))


def add(first: Array | None, second: Array | None) -> Array | None:
    """Return the sum of two gradients, either of which may be absent."""
    if first is None or second is None:
        return second if first is None else first
    with np.errstate(all="ignore"):
        return first + second


def as_image(tokens: Array) -> Array:
    """Return (N, H, W, C) as a view (N, C, H, W)."""
    return tokens.transpose(0, 3, 1, 2)


def contiguous(array: Array) -> Array:
    """Return the array with its entries in order in memory."""
    return array_module(array).ascontiguousarray(array)
