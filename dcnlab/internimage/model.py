"""InternImage: four stages of DCNv3 blocks over a stem, with a head for classification (arXiv 2211.05778)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from dcnlab import nn
from dcnlab.arrays import Array
from dcnlab.internimage.blocks import Block, BlockSettings, Stage, Stem, add, contiguous
from dcnlab.internimage.heads import ClipHead, ConvHead
from dcnlab.internimage.variants import CLIP_EMBED_DIMS, LEVELS, VARIANTS
from dcnlab.nn.initialise import truncated_normal, zeros

# Settings of the published configurations that have one value, or no meaning, here.
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "act_layer": ("GELU",),
    "norm_layer": ("LN",),
    "drop_path_type": ("linear",),
    "drop_rate": (0, 0.0),
    "with_cp": (False,),
}
CORE_OPS = ("DCNv3", "DCNv3_pytorch")  # one operator, two published implementations


class InternImage(nn.Module):
    """The model, with the published names of settings, modules and parameters.

    Parameters
    ----------
    channels : int
        C_1, of the first stage; each stage has twice those of the one before.
    depths, groups : list of 4 int
        Blocks, and groups of DCNv3, of each stage.
    num_classes : int or None
        None: no head, the model has only `features`.
    mlp_ratio : float
        Hidden channels of the MLP over channels.
    layer_scale : float, optional
        Start of a trained factor on each channel of each branch; None for no such factor.
    offset_scale : float
        Of DCNv3: what grid and offsets are multiplied by.
    post_norm, res_post_norm : bool
        Where the norms of a block stand, see `Block`.
    cls_scale : float
        Channels before the average over those of the last stage.
    dw_kernel_size : int, optional
        Of DCNv3's depthwise convolution.
    use_clip_projector : bool
        The attention pooling head of H and G; its images need sides that are multiples of 32.
    level2_post_norm : bool, level2_post_norm_block_ids : list of int
        Further norms after these blocks of stage 3.
    center_feature_scale, remove_center : bool
        Of DCNv3.
    clip_embed_dims : dict, optional
        pretrain_embed_dim, attnpool_num_heads and clip_embed_dim, where they are not 1024, 16 and 768.
    drop_path_rate : float
        Of the last block; from 0 it grows linearly over the blocks.
    core_op : str or callable
        What a block looks around with: "DCNv3" (and "DCNv3_pytorch", the published names), or a function that makes
        another layer on (N, H, W, C), called as `nn.DCNv3` is, with ``(channels, groups=..., dw_kernel_size=...,
        offset_scale=..., center_feature_scale=..., remove_center=..., dtype=..., rng=...)``. For ablations:
        ``core_op=functools.partial(nn.DCNv3, modulation="sigmoid")``.
    dtype : dtype
    rng : numpy.random.Generator, int or None
        Parameters are drawn when they are first looked at, each from a seed of its own.
    **published
        act_layer, norm_layer, drop_path_type, drop_rate: accepted at their published values.

    Attributes
    ----------
    variants : mapping
        Name (T, S, B, L, XL, H, G) -> the keywords of that model: ``InternImage(**InternImage.variants["T"])``.

    Notes
    -----
    Agrees with OpenGVLab/InternImage (classification, commit 31c962dc). A new model is in training mode. Layers keep
    what backward needs from the last forward; inside ``with dcnlab.nn.no_grad():`` they keep nothing.

    Examples
    --------
    >>> model = InternImage(channels=16, depths=[1, 1, 1, 1], groups=[1, 2, 4, 8], num_classes=10, rng=0).eval()
    >>> x = np.zeros((1, 3, 32, 32), np.float32)
    >>> model(x).shape, [m.shape for m in model.features(x)]
    ((1, 10), [(1, 8, 8, 16), (1, 4, 4, 32), (1, 2, 2, 64), (1, 1, 1, 128)])
    """

    variants = MappingProxyType({name: variant.settings for name, variant in VARIANTS.items()})

    def __init__(
        self,
        channels: int = 64,
        depths: Sequence[int] = (4, 4, 18, 4),
        groups: Sequence[int] = (4, 8, 16, 32),
        num_classes: int | None = 1000,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        offset_scale: float = 1.0,
        post_norm: bool = False,
        cls_scale: float = 1.5,
        dw_kernel_size: int | None = None,
        use_clip_projector: bool = False,
        level2_post_norm: bool = False,
        level2_post_norm_block_ids: Sequence[int] | None = None,
        res_post_norm: bool = False,
        center_feature_scale: bool = False,
        remove_center: bool = False,
        clip_embed_dims: dict[str, int] | None = None,
        drop_path_rate: float = 0.0,
        core_op: str | Callable[..., nn.Module] = "DCNv3",
        dtype: Any = np.float32,
        rng: np.random.Generator | int | None = None,
        **published: Any,
    ) -> None:
        _refuse_unpublished(published)
        depths, groups = _whole("depths", depths), _whole("groups", groups)
        rng = np.random.default_rng(rng)
        settings = BlockSettings(
            core_op=_core_op(core_op),
            mlp_ratio=mlp_ratio,
            layer_scale=layer_scale,
            offset_scale=offset_scale,
            post_norm=post_norm,
            dw_kernel_size=dw_kernel_size,
            res_post_norm=res_post_norm,
            center_feature_scale=center_feature_scale,
            remove_center=remove_center,
            dtype=dtype,
        )
        if channels < 2 or channels % 2:
            raise ValueError(f"InternImage: channels must be a positive even number, got {channels!r}")
        post_norm_ids = _block_ids(level2_post_norm, level2_post_norm_block_ids, depths[2])
        drops = np.split(np.linspace(0, drop_path_rate, sum(depths)), np.cumsum(depths)[:-1])
        self.channels, self.settings = channels, settings
        self.patch_embed = Stem(channels, dtype, rng)
        self.stages = [
            Stage(
                channels * 2**i,
                groups[i],
                drops[i].tolist(),
                post_norm_ids if i == 2 else [],
                i == LEVELS - 1,
                settings,
                rng,
            )
            for i in range(LEVELS)
        ]
        self.levels = nn.ModuleList(*self.stages)
        self.head_layers: ConvHead | ClipHead | None = None
        deepest = channels * 2 ** (LEVELS - 1)
        if num_classes is None:
            pass
        elif use_clip_projector:
            embed = _embedding(clip_embed_dims)
            self.head_layers = ClipHead(deepest, embed, num_classes, dtype, rng)
        else:
            self.head_layers = ConvHead(deepest, cls_scale, num_classes, dtype, rng)
        if self.head_layers is not None:
            vars(self).update(self.head_layers.named())
        self._start()

    def _start(self) -> None:
        """Linear layers start truncated normal with bias 0, but those of the core operator as it starts them."""
        blocks = (module for module in self.modules() if isinstance(module, Block))
        inside = {id(module) for block in blocks for module in block.dcn.modules()}
        for module in self.modules():
            if isinstance(module, nn.Linear) and id(module) not in inside:
                module.weight.start_from(truncated_normal(0.02))
                if module.bias is not None:
                    module.bias.start_from(zeros)

    @classmethod
    def from_checkpoint(
        cls, path: str | os.PathLike[str], variant: str | None = None, dtype: Any = np.float32, **settings: Any
    ) -> Self:
        """Return the model of a checkpoint file (.pth, .safetensors or .npz), in eval mode.

        Parameters
        ----------
        path : str or path
        variant : str, optional
            T, S, B, L, XL, H or G. By default the one whose shapes are those of the file, if there is one.
        dtype : dtype
            Of the model's parameters.
        **settings
            Keywords of `InternImage`; they override what is inferred.

        Raises
        ------
        UnsafeCheckpoint, ValueError
            For a damaged file, or one of another model: naming missing, unexpected and misshapen keys.

        Notes
        -----
        Sizes follow from the shapes, `post_norm`, `layer_scale` and others from the names. What a file cannot tell
        (offset_scale, post_norm beside center_feature_scale, the block ids, the number of attention heads) comes from
        the variant; without one from the defaults, with a warning that names each. Keys may have the prefixes of
        DataParallel, of Hugging Face and of detection models, and the names layer_scale1 and layer_scale2.
        """
        from dcnlab.internimage.loading import load_model

        return load_model(cls, path, variant, dtype, settings)

    def forward(self, input: Array) -> Array:
        """Return the logits (N, classes) of images (N, 3, H, W)."""
        if self.head_layers is None:
            raise ValueError("this InternImage has no head (num_classes=None): use features(x)")
        return self.head_layers.forward(self.features(input))

    def features(self, input: Array) -> list[Array]:
        """Return the maps of the four stages, channels-last: (N, H/4, W/4, C) to (N, H/32, W/32, 8 C)."""
        if input.ndim != 4 or input.shape[1] != 3:
            raise ValueError(f"InternImage: expected images (N, 3, H, W), got {tuple(input.shape)}")
        x, maps = self.patch_embed(input), []
        for stage in self.stages:
            maps.append(stage(x))
            if stage.downsample is not None:
                x = stage.downsample(maps[-1])
        return maps

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the images from that of the logits, and set those of all parameters."""
        if self.head_layers is None:
            raise ValueError("this InternImage has no head (num_classes=None): use backward_features(grads)")
        return self.backward_features(self.head_layers.backward(grad_output))

    def backward_features(self, grads: Sequence[Array | None]) -> Array:
        """Return the gradient of the images from those of the four stage maps; None for a map without any.

        With all but one entry of one map 0, it is what that entry sees: its effective receptive field.
        """
        if len(grads) != LEVELS or all(grad is None for grad in grads):
            raise ValueError(f"expected the gradients of {LEVELS} stage maps, at least one of them not None")
        below: Array | None = None
        for stage, grad in zip(reversed(self.stages), reversed(grads), strict=True):
            if below is not None and stage.downsample is not None:
                below = stage.downsample.backward(below)
            total = add(grad, below)
            below = None if total is None else stage.backward(contiguous(total))
        return self.patch_embed.backward(below)


def _refuse_unpublished(published: dict[str, Any]) -> None:
    for name, value in published.items():
        if name not in PUBLISHED:
            raise TypeError(f"InternImage has no setting {name!r}")
        if value not in PUBLISHED[name]:
            accepted = " or ".join(map(repr, PUBLISHED[name]))
            raise ValueError(f"InternImage: {name} is accepted as {accepted}, got {value!r}")


def _core_op(core_op: str | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    if callable(core_op):
        return core_op
    if core_op not in CORE_OPS:
        accepted = " or ".join(map(repr, CORE_OPS))
        raise ValueError(f"InternImage: core_op is accepted as {accepted}, or as a function, got {core_op!r}")
    return nn.DCNv3


def _whole(name: str, values: Sequence[int]) -> list[int]:
    numbers = list(values)
    if len(numbers) != LEVELS or not all(isinstance(v, (int, np.integer)) and v > 0 for v in numbers):
        raise ValueError(f"InternImage: {name} must be {LEVELS} positive ints, got {values!r}")
    return numbers


def _block_ids(wanted: bool, ids: Sequence[int] | None, depth: int) -> list[int]:
    if not wanted:
        return []
    numbers = list(ids or [])
    if not numbers or len(set(numbers)) != len(numbers) or not all(0 <= i < depth for i in numbers):
        raise ValueError(
            "InternImage: level2_post_norm needs level2_post_norm_block_ids, different numbers from 0 to "
            f"{depth - 1}, got {ids!r}"
        )
    return numbers


def _embedding(dims: dict[str, int] | None) -> tuple[int, int, int]:
    """Return the width, heads and output channels of the attention pooling."""
    unknown = set(dims or {}) - set(CLIP_EMBED_DIMS)
    if unknown:
        raise ValueError(f"InternImage: clip_embed_dims has {', '.join(CLIP_EMBED_DIMS)}, got {sorted(unknown)}")
    width, heads, out = ({**CLIP_EMBED_DIMS, **(dims or {})}[name] for name in CLIP_EMBED_DIMS)
    return width, heads, out
