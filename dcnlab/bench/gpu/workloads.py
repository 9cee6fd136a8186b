"""The problems that are timed: shapes of InternImage, types, batches and offsets, the most telling first."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dcnlab import catalogue
from dcnlab.arrays import Array
from dcnlab.bench.gpu.floors import DCNv3Size, Work, dcnv3_backward, dcnv3_forward
from dcnlab.bench.kernels import sample
from dcnlab.compiled.calls import Call
from dcnlab.compiled.rungs import RUNGS
from dcnlab.geometry import output_size, sampling_positions
from dcnlab.modulation import normalise_modulation
from dcnlab.reference.sampling import sampling_matrix

TAPS = 9
# The module of `dcnlab.reference` and of `dcnlab.compiled` in which an operator is.
HOMES = {
    "dcnv3": "deformable",
    "deform_conv2d": "deformable",
    "depthwise_conv2d": "depthwise",
    "layer_norm": "normalisation",
    "gelu": "activation",
    "softmax": "activation",
}
# Operators of the table of rungs that are a part of another one, and timed with it.
PARTS = {"deform_conv2d_weight_backward": "deform_conv2d_backward"}
SHARED = ("weight", "bias")  # arguments that all images share
OFFSETS = {"N(0, 0.5)": 0.5, "N(0, 2)": 2.0, "zero": 0.0}


class Shape(NamedTuple):
    """A stage of an InternImage: square images, 3x3, padding 1."""

    name: str
    side: int
    channels: int
    groups: int
    stride: int = 1

    @property
    def label(self) -> str:
        """How tables call it."""
        stride = f" stride {self.stride}" if self.stride > 1 else ""
        return f"{self.name} {self.side}x{self.side}x{self.channels} G{self.groups}{stride}"


@dataclass(frozen=True)
class Plan:
    """What is timed. Of `batches` and `offsets` the first ones matter most."""

    shapes: tuple[Shape, ...] = (
        Shape("T1", 56, 64, 4),
        Shape("T2", 28, 128, 8),
        Shape("T3", 14, 256, 16),
        Shape("T4", 7, 512, 32),
        Shape("B1", 56, 112, 7),
        Shape("H1", 56, 320, 10),
        Shape("S2", 56, 64, 4, 2),
    )
    dtypes: tuple[str, ...] = ("float16", "float32")
    batches: tuple[int, ...] = (64, 1)
    offsets: tuple[str, ...] = tuple(OFFSETS)
    layers_side: int = 56  # of the images of the operators beside DCNv3
    layers_channels: int = 64
    model: tuple[str, int] | None = ("T", 224)
    model_batches: tuple[int, ...] = (1, 64)


@dataclass
class Workload:
    """One operator on one set of arguments.

    Attributes
    ----------
    operator : str
        As in `dcnlab.compiled.rungs.RUNGS`.
    size, dtype, offsets : str
    batch : int
    arrays : dict of numpy.ndarray
    settings : dict
    work : Work
    outside : float or None
        The share of samples that fall outside the image.
    kernel_is_all : bool
        False where products of matrices belong to a rung: then its call is timed, not its kernels.
    """

    operator: str
    size: str
    dtype: str
    batch: int
    offsets: str
    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]
    work: Work
    outside: float | None = None
    kernel_is_all: bool = True

    @property
    def name(self) -> str:
        """The operator without its direction: "dcnv3"."""
        return function_of(self.operator).removesuffix("_backward")

    @property
    def title(self) -> str:
        """All in one line."""
        return f"{self.operator} {self.size} {self.dtype} batch {self.batch}" + (
            f" offsets {self.offsets}" if self.offsets else ""
        )

    def compiled(self, arrays: Mapping[str, Array], call: Call) -> Any:
        """Return what the operator makes of arrays, by kernels."""
        if self.operator == "sampling":
            return sample(call, arrays)
        module = importlib.import_module(f"dcnlab.compiled.{HOMES[self.name]}")
        return getattr(module, function_of(self.operator))(**arrays, **self.settings, call=call)

    def reference(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """Return the same by the reference, in float64."""
        exact = {key: value.astype(float) if value.dtype.kind == "f" else value for key, value in arrays.items()}
        if self.operator == "sampling":
            return reference_samples(**exact)
        module = importlib.import_module(f"dcnlab.reference.{HOMES[self.name]}")
        return getattr(module, function_of(self.operator))(**exact, **self.settings)

    def first_image(self) -> dict[str, np.ndarray]:
        """Return the arguments of the first image alone."""
        return {
            key: value if key in SHARED or self.operator == "sampling" else value[: -(-len(value) // self.batch)]
            for key, value in self.arrays.items()
        }


class Item(NamedTuple):
    """A problem still to be made: how important it is (less is more), and how to make it."""

    importance: int
    title: str
    make: Callable[[], Workload]


def function_of(operator: str) -> str:
    """Return the function that an operator of the table of rungs is: forward passes have the operator's own name."""
    return operator.removesuffix("_forward")


# -- DCNv3 ---------------------------------------------------------------------------------------------------------


class Noise:
    """Random arguments of a shape, made once: a batch is its beginning, offsets are the same at every scale."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: dict[Shape, dict[str, np.ndarray]] = {}

    def __call__(self, shape: Shape) -> dict[str, np.ndarray]:
        """Return float32 input, offset, mask and grad_output of the largest batch."""
        if shape not in self._made:
            rng, n = np.random.default_rng(0), self._most
            out = output_size((shape.side, shape.side), 3, shape.stride, 1)
            logits = rng.standard_normal((n, *out, shape.groups * TAPS), np.float32)
            self._made[shape] = {
                "input": rng.standard_normal((n, shape.side, shape.side, shape.channels), np.float32),
                "offset": rng.standard_normal((n, *out, shape.groups * TAPS * 2), np.float32),
                "mask": normalise_modulation(logits, "softmax", shape.groups),
                "grad_output": rng.standard_normal((n, *out, shape.channels), np.float32),
            }
        return self._made[shape]


def dcnv3_workload(noise: Noise, operator: str, shape: Shape, dtype: str, batch: int, offsets: str) -> Workload:
    """Return DCNv3 forward or backward of a shape."""
    made = {key: value[:batch] for key, value in noise(shape).items()}
    made["offset"] = made["offset"] * np.float32(OFFSETS[offsets])
    if operator == "dcnv3_forward":
        del made["grad_output"]
    out = made["offset"].shape[1] * made["offset"].shape[2]
    size = DCNv3Size(batch * shape.side**2, batch * out, shape.channels, shape.groups, TAPS)
    work = {"dcnv3_forward": dcnv3_forward, "dcnv3_backward": dcnv3_backward}[operator]
    return Workload(
        operator,
        shape.label,
        dtype,
        batch,
        offsets,
        {key: value.astype(dtype) for key, value in made.items()},
        {"groups": shape.groups, "stride": shape.stride},
        work(size, np.dtype(dtype).itemsize),
        outside_share(made["offset"][:4], shape),
    )


def outside_share(offset: np.ndarray, shape: Shape) -> float:
    """Return the share of samples that are 0 because they lie outside (-1, H) x (-1, W)."""
    positions = sampling_positions(offset, 3, stride=shape.stride, padding=1, layout="dcnv3")
    inside = ((positions > -1) & (positions < shape.side)).all(axis=-1)
    return round(float(1 - inside.mean()), 4)


# -- the others ----------------------------------------------------------------------------------------------------


def layer_shapes(plan: Plan, batch: int) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return, of each operator beside DCNv3, the shapes for the catalogue and the settings."""
    side, channels = plan.layers_side, plan.layers_channels
    pixels = batch * side * side
    image = {"batch": batch, "channels": channels, "outputs": channels, "size": (side, side)}
    return {
        "deform_conv2d": (image, {"padding": 1}),
        "depthwise_conv2d": ({**image, "groups": channels}, {"padding": 1}),
        "layer_norm": ({"shape": (pixels, channels)}, {}),
        "gelu": ({"shape": (pixels, 4 * channels)}, {}),
        "softmax": ({"shape": (pixels, channels // 16 or 1, TAPS)}, {}),
    }


def layer_workload(operator: str, plan: Plan, dtype: str, batch: int) -> Workload:
    """Return an operator beside DCNv3 on the images of the plan; its floor is that of its bytes."""
    name = function_of(operator).removesuffix("_backward")
    shapes, settings = layer_shapes(plan, batch)[name]
    entry = catalogue.OPERATORS[name]
    arrays = catalogue.Case(entry, "", {}, shapes).arguments(np.random.default_rng(0))
    arrays = {key: value.astype(dtype) for key, value in arrays.items()}
    moved = sum(value.nbytes for value in arrays.values())
    result = arrays["input"]  # all of these keep its shape
    if operator.endswith("_backward"):
        arrays = {"grad_output": np.random.default_rng(1).standard_normal(result.shape).astype(dtype), **arrays}
        moved *= 2
    size = "x".join(map(str, result.shape[1:] if result.ndim == 4 else result.shape))
    columns = name == "deform_conv2d"
    return Workload(
        operator,
        size,
        dtype,
        batch,
        "N(0, 2)" if columns else "",
        arrays,
        settings,
        Work(moved + result.nbytes),
        kernel_is_all=not columns,
    )


def sampling_workload(plan: Plan, dtype: str) -> Workload:
    """Return the hello world of sampling: positions anywhere in an image."""
    rng, side, channels = np.random.default_rng(0), plan.layers_side, plan.layers_channels
    count = 9 * side * side
    arrays = {
        "image": rng.standard_normal((side, side, channels)).astype(dtype),
        "base": rng.integers(0, side, (count, 2)).astype(np.int32),
        "displacement": rng.uniform(-1, 1, (count, 2)).astype(dtype),
    }
    moved = sum(value.nbytes for value in arrays.values()) + count * channels * np.dtype(dtype).itemsize
    return Workload("sampling", f"{count} of {side}x{side}x{channels}", dtype, 1, "", arrays, {}, Work(moved))


def reference_samples(image: np.ndarray, base: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Sample an image by the sampling matrix."""
    matrix = sampling_matrix(base + displacement, None, *image.shape[:2])
    return np.asarray(matrix @ image.reshape(-1, image.shape[2]))


# -- in order ------------------------------------------------------------------------------------------------------


def items(plan: Plan) -> Iterator[Item]:
    """Yield every problem of the plan. First DCNv3 at the first batch and offsets of the plan, on every shape."""
    noise = Noise(max(plan.batches))
    for spread, offsets in enumerate(plan.offsets):
        for number, batch in enumerate(plan.batches):
            importance = 0 if spread == number == 0 else 1 + 2 * spread + 3 * number
            for shape in plan.shapes:
                for dtype in plan.dtypes:
                    for operator in ("dcnv3_forward", "dcnv3_backward"):
                        title = f"{operator} {shape.label} {dtype} batch {batch} offsets {offsets}"
                        yield Item(
                            importance, title, partial(dcnv3_workload, noise, operator, shape, dtype, batch, offsets)
                        )
    for operator in dict.fromkeys(operator for operator, _ in RUNGS):
        name = function_of(operator).removesuffix("_backward")
        for dtype in plan.dtypes:
            if operator == "sampling":
                yield Item(6, f"sampling {dtype}", partial(sampling_workload, plan, dtype))
            elif name in HOMES and name != "dcnv3":
                batch = plan.batches[0]
                make = partial(layer_workload, operator, plan, dtype, batch)
                yield Item(2, f"{operator} {dtype} batch {batch}", make)


def unknown_operators() -> list[str]:
    """Return the operators of the table of rungs that no problem is made for."""
    known = {*HOMES, "sampling"}
    found = dict.fromkeys(operator for operator, _ in RUNGS if operator not in PARTS)
    return [operator for operator in found if function_of(operator).removesuffix("_backward") not in known]
