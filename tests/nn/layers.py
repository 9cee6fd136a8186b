"""The list of layers that the tests go through: how to make each, and what to call it with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dcnlab import nn


@dataclass(frozen=True)
class LayerCase:
    """A layer, the shapes of its inputs, and the names that its output does not depend on."""

    name: str
    make: Callable[..., nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    constant_in: tuple[str, ...] = ()
    labels: tuple[int, ...] | None = None
    has_dtype: bool = True

    def layer(self, dtype: Any = np.float64, seed: int = 0) -> nn.Module:
        """Return the layer with random parameters, none at its initial value."""
        rng = np.random.default_rng(seed)
        layer = self.make(dtype=dtype, rng=rng) if self.has_dtype else self.make()
        randomise(layer, rng)
        return layer

    def inputs(self, dtype: Any = np.float64, seed: int = 0) -> tuple[Any, ...]:
        """Return random inputs."""
        rng = np.random.default_rng([seed, 1])
        arrays = tuple(rng.standard_normal(shape).astype(dtype) for shape in self.shapes)
        return arrays if self.labels is None else (*arrays, np.array(self.labels))


def randomise(layer: nn.Module, rng: np.random.Generator) -> None:
    """Give every parameter and running statistic a random value; keep samples a fifth of a pixel off the lattice."""
    for name, state in layer.named_state():
        if name.endswith("num_batches_tracked"):
            continue
        value = 0.5 * rng.standard_normal(state.shape)
        state.value = 1 + abs(value) if name.endswith("running_var") else value
    for module in layer.modules():
        if isinstance(module, (nn.DCNv3, nn.UnsharedDCNv3)):
            module.offset.weight.value *= 0.02
            module.offset.bias.value = rng.uniform(0.25, 0.75, module.offset.bias.shape) / max(module.offset_scale, 1)
        if isinstance(module, nn.DeformConv2d):
            module.conv_offset.weight.value[: module.offset_channels] *= 0.01
            module.conv_offset.bias.value[: module.offset_channels] = rng.uniform(0.25, 0.75, module.offset_channels)


def case(
    name: str, layer: Any, *shapes: tuple[int, ...], args: tuple = (), settings: Any = (), **more: Any
) -> LayerCase:
    def make(**each: Any) -> nn.Module:
        return layer(*args, **dict(settings), **each)

    return LayerCase(name, make, shapes, **more)


def residual(dtype: Any, rng: Any) -> nn.Module:
    """Layers in layers, as in a model's block."""
    return nn.Sequential(
        nn.LayerNorm(4, dtype=dtype, rng=rng),
        nn.MLP(4, 6, dtype=dtype, rng=rng),
        nn.LayerScale(4, 0.1, dtype=dtype, rng=rng),
        nn.DropPath(0.4, rng=3),
        nn.ToChannelsFirst(),
        nn.Conv2d(4, 2, 3, padding=1, dtype=dtype, rng=rng),
        nn.ToChannelsLast(),
    )


IMAGE, PIXELS, TOKENS = (2, 4, 5, 4), (2, 4, 5, 4), (2, 5, 4)
SMALL = (1, 4, 4, 4)
PLAIN: Any = {"has_dtype": False}

LAYERS = [
    case("Linear", nn.Linear, PIXELS, args=(4, 3)),
    case("Linear without bias", nn.Linear, (3, 4), args=(4, 3), settings={"bias": False}),
    case("LayerNorm", nn.LayerNorm, PIXELS, args=(4,)),
    case("GELU", nn.GELU, PIXELS, **PLAIN),
    case("LayerScale", nn.LayerScale, PIXELS, args=(4,)),
    case("Dropout", nn.Dropout, PIXELS, args=(0.4,), settings={"rng": 5}, **PLAIN),
    case("DropPath", nn.DropPath, (6, 2, 3), args=(0.4,), settings={"rng": 5}, **PLAIN),
    case("DropPath unscaled", nn.DropPath, (6, 2), args=(0.4, False), settings={"rng": 5}, **PLAIN),
    case("MLP", nn.MLP, PIXELS, args=(4, 6, 3)),
    case("MLP with dropout", nn.MLP, PIXELS, args=(4, 6), settings={"drop": 0.3}),
    case("Conv2d", nn.Conv2d, IMAGE, args=(4, 6, 3), settings={"stride": 2, "padding": 1, "groups": 2}),
    case("Conv2d 1x1", nn.Conv2d, IMAGE, args=(4, 3, 1), settings={"bias": False}),
    case("DepthwiseConv2d", nn.DepthwiseConv2d, IMAGE, args=(4, 3), settings={"padding": 1}),
    case("DepthwiseConv2d s(2,1)", nn.DepthwiseConv2d, IMAGE, args=(4, (2, 3)), settings={"stride": (2, 1)}),
    case("LargeKernelConv2d", nn.LargeKernelConv2d, IMAGE, args=(4, 7, 3)),
    case("LargeKernelConv2d uneven", nn.LargeKernelConv2d, IMAGE, args=(4, (3, 5), (1, 5))),
    case("BatchNorm2d", nn.BatchNorm2d, IMAGE, args=(4,)),
    case("PixelShuffle", nn.PixelShuffle, IMAGE, args=(2,), **PLAIN),
    case("GlobalAveragePool", nn.GlobalAveragePool, IMAGE, **PLAIN),
    case("ToChannelsLast", nn.ToChannelsLast, IMAGE, **PLAIN),
    case("ToChannelsFirst", nn.ToChannelsFirst, IMAGE, **PLAIN),
    case("Sequential", residual, PIXELS),
    case("MultiHeadSelfAttention tokens", nn.MultiHeadSelfAttention, TOKENS, args=(4, 2)),
    case("MultiHeadSelfAttention image", nn.MultiHeadSelfAttention, (2, 2, 3, 4), args=(4, 2)),
    case("WindowAttention", nn.WindowAttention, (2, 4, 6, 4), args=(4, 2, 2)),
    case("WindowAttention uneven", nn.WindowAttention, (1, 3, 5, 4), args=(4, 2, (2, 3))),
    case(
        "CrossAttention",
        nn.CrossAttention,
        (2, 2, 4),
        (2, 5, 4),
        (2, 5, 4),
        args=(4, 2, 3),
        constant_in=("k_bias",),
    ),
    case(
        "AttentionPoolingBlock",
        nn.AttentionPoolingBlock,
        TOKENS,
        args=(4, 2, 3),
        constant_in=("cross_dcn.k_bias", "norm1_k.0.bias"),
    ),
    case("DCNv3", nn.DCNv3, SMALL, args=(4,), settings={"groups": 2}),
    case(
        "DCNv3 centre feature scale, dw 5",
        nn.DCNv3,
        SMALL,
        args=(4,),
        settings={"groups": 2, "dw_kernel_size": 5, "center_feature_scale": True, "offset_scale": 2.0},
    ),
    case("DCNv3 stride 2", nn.DCNv3, (1, 5, 4, 4), args=(4,), settings={"groups": 1, "stride": 2}),
    case(
        "DCNv3 stride (2, 1), centre feature scale",
        nn.DCNv3,
        (1, 5, 4, 4),
        args=(4,),
        settings={"groups": 2, "stride": (2, 1), "center_feature_scale": True},
    ),
    case(
        "DCNv3 remove centre, dilation 2",
        nn.DCNv3,
        SMALL,
        args=(4,),
        settings={"groups": 1, "remove_center": True, "dilation": 2, "padding": 2, "offset_scale": 0.5},
    ),
    *(
        case(f"DCNv3 {kind}", nn.DCNv3, (1, 3, 3, 4), args=(4,), settings={"groups": 2, "modulation": kind})
        for kind in ("sigmoid", "twice_sigmoid", "none")
    ),
    case(
        "UnsharedDCNv3 offset scale 2",
        nn.UnsharedDCNv3,
        (1, 3, 4, 4),
        args=(4,),
        settings={"groups": 2, "offset_scale": 2.0, "modulation": "sigmoid"},
    ),
    case(
        "UnsharedDCNv3 remove centre, stride (2, 1), dilation 2",
        nn.UnsharedDCNv3,
        (1, 5, 4, 4),
        args=(4,),
        settings={
            "groups": 1,
            "remove_center": True,
            "stride": (2, 1),
            "dilation": 2,
            "padding": 2,
            "offset_scale": 0.5,
        },
    ),
    *(
        case(
            f"DeformConv2d {kind}", nn.DeformConv2d, SMALL, args=(4, 2, 3), settings={"padding": 1, "modulation": kind}
        )
        for kind in nn.DeformConv2d.KINDS
    ),
    case(
        "DeformConv2d groups, stride 2",
        nn.DeformConv2d,
        (1, 4, 5, 4),
        args=(4, 6, (2, 3)),
        settings={"groups": 2, "offset_groups": 4, "stride": 2, "bias": False},
    ),
    case("CrossEntropy", nn.CrossEntropy, (3, 4), args=(0.1,), labels=(0, 3, 1), **PLAIN),
]
