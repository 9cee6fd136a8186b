"""The list of operators, with arguments to try them on: the one place that checks, tests and tables read.

An `Operator` names the public function, its backward pass and the loops that specify both. A `Case` is one geometry of
one operator: it makes random arguments and knows where their sampling points are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dcnlab import modulation
from dcnlab.geometry import IntOrPair, output_size, pair, sampling_positions, tap_positions
from dcnlab.ops import deformable, dense, layers
from dcnlab.reference import loops, loops_layers, loops_regular

Arguments = dict[str, Any]
Rng = np.random.Generator


@dataclass(frozen=True)
class Operator:
    """A public operator, its backward pass, and the loops that specify both; with a kernel, it takes `backend`."""

    name: str
    function: Callable[..., Any]
    backward: Callable[..., Any]
    loops: Callable[..., Any] | None
    loops_backward: Callable[..., Any] | None
    has_kernel: bool = False

    @property
    def is_deformable(self) -> bool:
        """Whether it samples between pixels."""
        return self.name in ("deform_conv2d", "dcnv3")


def _operator(module: Any, specification: Any, name: str, has_kernel: bool = False) -> Operator:
    back = f"{name}_backward"
    return Operator(
        name=name,
        function=getattr(module, name),
        backward=getattr(module, back),
        loops=getattr(specification, name, None),
        loops_backward=getattr(specification, back, None),
        has_kernel=has_kernel,
    )


OPERATORS = {
    operator.name: operator
    for operator in (
        _operator(deformable, loops, "deform_conv2d", has_kernel=True),
        _operator(deformable, loops, "dcnv3", has_kernel=True),
        _operator(dense, loops_regular, "conv2d"),
        _operator(layers, loops_regular, "depthwise_conv2d", has_kernel=True),
        _operator(dense, loops_regular, "linear"),
        _operator(dense, loops_layers, "attention"),
        _operator(layers, loops_layers, "layer_norm", has_kernel=True),
        _operator(layers, loops_layers, "batch_norm"),
        _operator(layers, loops_layers, "gelu", has_kernel=True),
        _operator(layers, loops_layers, "cross_entropy"),
        _operator(layers, loops_regular, "softmax", has_kernel=True),
        _operator(modulation, loops_regular, "sigmoid"),
        _operator(modulation, loops_regular, "twice_sigmoid"),
        # Made of the others: no loops of its own.
        _operator(modulation, loops_regular, "normalise_modulation", has_kernel=True),
    )
}


# -- random arguments ----------------------------------------------------------------------------------------------


def random_offsets(rng: Rng, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Return offsets of a kind: zero, integer, small (a third of a pixel), medium (2 px), large (up to 40 px)."""
    if kind == "zero":
        return np.zeros(shape)
    if kind == "integer":
        return rng.integers(-2, 3, shape).astype(float)
    if kind == "large":
        return rng.uniform(-40, 40, shape)
    if kind not in ("small", "medium"):
        raise ValueError(f"offsets must be zero, integer, small, medium or large, got {kind!r}")
    return rng.standard_normal(shape) * {"small": 1 / 3, "medium": 2.0}[kind]


def deform_conv2d_arguments(
    rng: Rng,
    batch: int = 1,
    channels: int = 4,
    outputs: int = 4,
    size: tuple[int, int] = (5, 6),
    kernel_size: IntOrPair = 3,
    groups: int = 1,
    offset_groups: int = 1,
    mask: bool = True,
    bias: bool = True,
    offsets: str = "medium",
    stride: IntOrPair = 1,
    padding: IntOrPair = 1,
    dilation: IntOrPair = 1,
) -> Arguments:
    """Return random float64 arrays for `deform_conv2d` with the given geometry."""
    kh, kw = pair(kernel_size, "kernel_size", 1)
    ho, wo = output_size(size, (kh, kw), stride, padding, dilation)
    arguments: Arguments = {
        "input": rng.standard_normal((batch, channels, *size)),
        "offset": random_offsets(rng, (batch, offset_groups * kh * kw * 2, ho, wo), offsets),
        "weight": rng.standard_normal((outputs, channels // groups, kh, kw)),
    }
    if bias:
        arguments["bias"] = rng.standard_normal(outputs)
    if mask:
        arguments["mask"] = rng.uniform(0.1, 1.0, (batch, offset_groups * kh * kw, ho, wo))
    return arguments


def dcnv3_arguments(
    rng: Rng,
    batch: int = 1,
    channels: int = 4,
    size: tuple[int, int] = (5, 6),
    kernel_size: IntOrPair = 3,
    groups: int = 2,
    offsets: str = "medium",
    stride: IntOrPair = 1,
    padding: IntOrPair = 1,
    dilation: IntOrPair = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Arguments:
    """Return random float64 arrays for `dcnv3` with the given geometry; the mask is softmaxed."""
    taps = len(tap_positions(kernel_size, dilation, layout="dcnv3", remove_center=remove_center))
    ho, wo = output_size(size, kernel_size, stride, padding, dilation)
    logits = rng.standard_normal((batch, ho, wo, groups * taps))
    return {
        "input": rng.standard_normal((batch, *size, channels)),
        "offset": random_offsets(rng, (batch, ho, wo, groups * taps * 2), offsets),
        "mask": modulation.normalise_modulation(logits, "softmax", groups),
    }


def conv_arguments(
    rng: Rng,
    batch: int = 2,
    channels: int = 4,
    outputs: int = 6,
    size: tuple[int, int] = (5, 6),
    kernel_size: IntOrPair = 3,
    groups: int = 1,
    bias: bool = True,
) -> Arguments:
    """Return random float64 arrays for `conv2d`, or for `depthwise_conv2d` with groups = channels = outputs."""
    kh, kw = pair(kernel_size, "kernel_size", 1)
    arguments: Arguments = {
        "input": rng.standard_normal((batch, channels, *size)),
        "weight": rng.standard_normal((outputs, channels // groups, kh, kw)),
    }
    if bias:
        arguments["bias"] = rng.standard_normal(outputs)
    return arguments


def linear_arguments(rng: Rng, shape: tuple[int, ...] = (2, 3), inputs: int = 5, outputs: int = 4) -> Arguments:
    """Return random float64 arrays for `linear`."""
    return {
        "input": rng.standard_normal((*shape, inputs)),
        "weight": rng.standard_normal((outputs, inputs)),
        "bias": rng.standard_normal(outputs),
    }


def attention_arguments(
    rng: Rng, shape: tuple[int, ...] = (2, 2), queries: int = 3, keys: int = 4, width: int = 5, values: int = 3
) -> Arguments:
    """Return random float64 arrays for `attention`."""
    return {
        "query": rng.standard_normal((*shape, queries, width)),
        "key": rng.standard_normal((*shape, keys, width)),
        "value": rng.standard_normal((*shape, keys, values)),
    }


def norm_arguments(rng: Rng, shape: tuple[int, ...] = (2, 3, 5), axis: int = -1, statistics: bool = False) -> Arguments:
    """Return random float64 arrays for `layer_norm`, or for `batch_norm` with axis 1 and 4 dimensions."""
    channels = shape[axis]
    weight, bias = rng.standard_normal((2, channels))
    arguments: Arguments = {"input": 1 + 2 * rng.standard_normal(shape), "weight": weight, "bias": bias}
    if statistics:
        arguments |= {"mean": rng.standard_normal(channels), "variance": rng.uniform(0.5, 2.0, channels)}
    return arguments


def logit_arguments(rng: Rng, shape: tuple[int, ...] = (2, 3, 18)) -> Arguments:
    """Return random float64 logits: for the modulations."""
    return {"input": 2 * rng.standard_normal(shape)}


_MAKERS: dict[str, Callable[..., Arguments]] = {
    "deform_conv2d": deform_conv2d_arguments,
    "dcnv3": dcnv3_arguments,
    "conv2d": conv_arguments,
    "depthwise_conv2d": conv_arguments,
    "linear": linear_arguments,
    "attention": attention_arguments,
    "layer_norm": norm_arguments,
    "batch_norm": lambda rng, shape=(2, 3, 2, 4), **kw: norm_arguments(rng, shape, axis=1, **kw),
    "gelu": logit_arguments,
    "cross_entropy": lambda rng, shape=(4, 5): {"logits": logit_arguments(rng, shape)["input"]},
    "softmax": logit_arguments,
    "sigmoid": logit_arguments,
    "twice_sigmoid": logit_arguments,
    "normalise_modulation": lambda rng, **kw: {"logits": logit_arguments(rng, **kw)["input"]},
}


# -- cases ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One geometry of one operator.

    Attributes
    ----------
    operator : Operator
    label : str
    settings : dict
        Passed to the operator: stride, padding, ...
    shapes : dict
        Only for making the arguments: sizes, channels, kind of offsets, ...
    form : {"directions", "jacobian"}
        How the gradient check looks at it.
    """

    operator: Operator
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, Any] = field(default_factory=dict)
    form: str = "directions"

    def arguments(self, rng: Rng) -> Arguments:
        """Return random arrays for the operator, by the names of its arguments."""
        maker = _MAKERS[self.operator.name]
        geometry = self.settings if self.operator.is_deformable else {}
        return maker(rng, **geometry, **self.shapes)

    def fixed(self, backend: str | None = None) -> dict[str, Any]:
        """Return everything else that the operator is called with."""
        return {**self.settings, "backend": backend} if self.operator.has_kernel else dict(self.settings)

    @property
    def positions(self) -> Callable[[Mapping[str, Any]], Any] | None:
        """Where the samples are, as `gradcheck` asks for it; None for operators that sample on pixels only."""
        if not self.operator.is_deformable:
            return None
        return self._positions

    def _positions(self, arguments: Mapping[str, Any]) -> Any:
        settings = {k: v for k, v in self.settings.items() if k != "groups"}
        settings.setdefault("kernel_size", self.shapes.get("kernel_size", 3))
        settings.setdefault("padding", 1 if self.operator.name == "dcnv3" else 0)
        return sampling_positions(arguments["offset"], layout=self.operator.name, **settings)


def _cases() -> list[Case]:
    def case(operator: str, label: str, form: str = "directions", shapes: Any = (), **settings: Any) -> Case:
        return Case(OPERATORS[operator], label, settings, dict(shapes), form)

    v1 = {"mask": False}
    return [
        case("deform_conv2d", "v1 3x3", padding=1, shapes=v1),
        case("deform_conv2d", "v1 full Jacobian", "jacobian", padding=1, shapes={**v1, "size": (3, 4), "channels": 2}),
        case("deform_conv2d", "v2 3x3", padding=1, shapes={"batch": 2}),
        case(
            "deform_conv2d",
            "v2 full Jacobian",
            "jacobian",
            padding=1,
            shapes={"size": (3, 3), "channels": 2, "outputs": 2},
        ),
        case("deform_conv2d", "v2 zero offsets", padding=1, shapes={"offsets": "zero"}),
        case(
            "deform_conv2d",
            "v2 zero offsets, Jacobian",
            "jacobian",
            padding=1,
            shapes={"offsets": "zero", "size": (3, 3), "channels": 2, "outputs": 2},
        ),
        case("deform_conv2d", "v2 integer offsets", padding=1, shapes={"offsets": "integer"}),
        case("deform_conv2d", "v2 far outside", padding=1, shapes={"offsets": "large"}),
        case(
            "deform_conv2d",
            "v2 3x5 s(2,1) d(1,2)",
            stride=(2, 1),
            padding=(1, 2),
            dilation=(1, 2),
            shapes={"kernel_size": (3, 5), "size": (6, 8)},
        ),
        case(
            "deform_conv2d",
            "v2 groups 2, offset groups 4",
            padding=1,
            shapes={"groups": 2, "offset_groups": 4, "channels": 8},
        ),
        case("deform_conv2d", "v2 2x2 stride 2", stride=2, padding=0, shapes={"kernel_size": 2, "bias": False}),
        case("dcnv3", "3x3, 2 groups", groups=2),
        case("dcnv3", "full Jacobian", "jacobian", groups=2, shapes={"size": (3, 3)}),
        case("dcnv3", "zero offsets", groups=2, shapes={"offsets": "zero"}),
        case("dcnv3", "zero offsets, Jacobian", "jacobian", groups=1, shapes={"size": (3, 3), "offsets": "zero"}),
        case("dcnv3", "remove centre, scale 0.5", groups=4, remove_center=True, offset_scale=0.5),
        case("dcnv3", "scale 1.1, stride 2", groups=1, offset_scale=1.1, stride=2),
        case("dcnv3", "3x5 s(2,1) p(1,2)", groups=2, kernel_size=(3, 5), stride=(2, 1), padding=(1, 2)),
        case("dcnv3", "2x2, dilation 2", groups=2, kernel_size=2, dilation=2),
        case("conv2d", "3x3 groups 2, stride 2", stride=2, padding=1, shapes={"groups": 2}),
        case("conv2d", "2x3 dilation (1,2)", padding=(0, 1), dilation=(1, 2), shapes={"kernel_size": (2, 3)}),
        case("conv2d", "full Jacobian", "jacobian", shapes={"batch": 1, "size": (4, 4), "channels": 2, "outputs": 2}),
        case("depthwise_conv2d", "5x5", padding=2, shapes={"groups": 4, "outputs": 4, "kernel_size": 5}),
        case("depthwise_conv2d", "3x3 stride (2,1)", stride=(2, 1), shapes={"groups": 4, "outputs": 4}),
        case("linear", "batch (2, 3)"),
        case("linear", "full Jacobian", "jacobian", shapes={"shape": (2,)}),
        case("attention", "2 images, 2 heads"),
        case("attention", "one query, scale 1", scale=1.0, shapes={"queries": 1}),
        case("layer_norm", "batch (2, 3)"),
        case("layer_norm", "full Jacobian", "jacobian", shapes={"shape": (2, 4)}),
        case("batch_norm", "batch statistics"),
        case("batch_norm", "full Jacobian", "jacobian", shapes={"shape": (2, 2, 1, 2)}),
        case("batch_norm", "fixed statistics", shapes={"statistics": True}),
        case("gelu", "over channels"),
        case("cross_entropy", "hard targets", labels=(1, 0, 4, 1)),
        case("cross_entropy", "label smoothing 0.1", labels=(1, 0, 4, 1), label_smoothing=0.1),
        case("softmax", "over taps"),
        case("softmax", "full Jacobian", "jacobian", shapes={"shape": (2, 9)}),
        case("sigmoid", "over taps"),
        case("twice_sigmoid", "over taps"),
        *(case("normalise_modulation", f"{kind}, 2 groups", kind=kind, groups=2) for kind in modulation.KINDS),
    ]


CASES = _cases()
