"""`dcnlab kernels bench`: bytes that every rung asks of global memory, beside the least it could, and its time here.

The bytes are counted by check mode, on this CPU, with the instances, grids and blocks of a GPU: they hardly depend on
the machine, and are most of why one rung is faster than another. The floor is every argument and result moved once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dcnlab import catalogue
from dcnlab.arrays import Array, array_module
from dcnlab.bench.ops import threads
from dcnlab.bench.timing import interleaved, machine, milliseconds
from dcnlab.compiled import activation, deformable, depthwise, fused, normalisation
from dcnlab.compiled.calls import Call, deform_conv2d_shape
from dcnlab.compiled.ladder import gpu_form, rungs_of
from dcnlab.compiled.rung import Problem, Rung
from dcnlab.compiled.rungs import RUNGS
from dcnlab.geometry import sampling_grid
from dcnlab.launch import Traffic, find_compiler
from dcnlab.records import write_part
from dcnlab.tables import format_table

DTYPES = ("float32", "float16")  # of the figures; float64 asks for twice what float32 does

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Example:
    """What the rungs of an operator are measured on.

    Attributes
    ----------
    size : str
        For people.
    arrays : callable
        Returns the arguments, in float64 (integers stay integers).
    run : callable
        ``run(call, arrays)`` returns the result: an array, or a tuple of gradients of which the first is the image's.
    """

    size: str
    arrays: Callable[[], Arrays]
    run: Callable[[Call, Arrays], Any]


def _both(name: str, home: Any, size: str, shapes: Any, **settings: Any) -> dict[str, Example]:
    """Return the examples of an operator of the catalogue, forward and backward; `home` has both functions."""
    operator = catalogue.OPERATORS[name]

    def arrays() -> Arrays:
        return catalogue.Case(operator, "", settings, shapes).arguments(np.random.default_rng(0))

    def arrays_backward() -> Arrays:
        forward = arrays()
        grad = np.random.default_rng(1).standard_normal(operator.function(**forward, **settings).shape)
        return {"grad_output": grad, **forward}

    forward, backward = getattr(home, name), getattr(home, f"{name}_backward")
    return {
        f"{name}_forward": Example(size, arrays, lambda call, given: forward(**given, **settings, call=call)),
        f"{name}_backward": Example(
            size, arrays_backward, lambda call, given: backward(**given, **settings, call=call)
        ),
    }


def _sampling_arrays() -> Arrays:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:28, :28]
    base = np.stack([rows, columns], axis=-1).reshape(-1, 2).astype(np.int32)
    return {
        "image": rng.standard_normal((28, 28, 16)),
        "base": base,
        "displacement": rng.standard_normal(base.shape) / 3,
    }


def sample(call: Call, arrays: Mapping[str, Array]) -> Array:
    """Sample an image at positions by the kernel that shows how."""
    image, base, displacement = arrays.values()
    height, width, channels = image.shape
    output = array_module(image).empty((len(base), channels), image.dtype)
    problem = call.problem(image.dtype, channels, len(base))
    call.launch("sampling", problem, image, base, displacement, output, len(base), height, width, channels)
    return output


def _weight_arrays() -> Arrays:
    arrays = _DEFORMABLE["deform_conv2d_backward"].arrays()
    return {name: array for name, array in arrays.items() if name not in ("weight", "bias")}


def _weight_gradient(call: Call, arrays: Arrays) -> Array:
    grad_output, input, offset, mask = arrays.values()
    weight = np.empty((grad_output.shape[1], input.shape[1], 3, 3), input.dtype)
    grid = sampling_grid(offset, weight.shape[2:], padding=1, layout="deform_conv2d")
    shape = deform_conv2d_shape(input, weight, grid, stride=1, padding=1)
    image = fused.channels_last(input)
    return fused.weight_gradient(call, grid, shape, grad_output, image, offset, mask, weight.shape)


_DCNV3 = {"size": (28, 28), "channels": 128, "offsets": "small"}
_DEFORM_CONV2D = {"size": (14, 14), "channels": 32, "outputs": 32, "offsets": "small"}
_DEPTHWISE = {"batch": 1, "size": (28, 28), "channels": 128, "outputs": 128, "groups": 128}
_DEFORMABLE = _both("deform_conv2d", deformable, "32 to 32 channels, 14x14, 3x3", _DEFORM_CONV2D, padding=1)
EXAMPLES = {
    "sampling": Example("28x28x16, a position a pixel", _sampling_arrays, sample),
    **_both("dcnv3", deformable, "28x28x128, 8 groups, 3x3", _DCNV3, groups=8),
    **_DEFORMABLE,
    "deform_conv2d_weight_backward": Example(
        "as deform_conv2d, and its values are the weights' gradient", _weight_arrays, _weight_gradient
    ),
    **_both("depthwise_conv2d", depthwise, "28x28x128, 3x3", _DEPTHWISE, padding=1),
    **_both("layer_norm", normalisation, "784 rows of 128 channels", {"shape": (784, 128)}),
    **_both("gelu", activation, "784x128", {"shape": (784, 128)}),
    **_both("softmax", activation, "6272 rows of 9 taps", {"shape": (784, 8, 9)}),
}


class NotTaken(Exception):
    """The rung that is asked for does not take the problem."""


class OneRung(Call):
    """A call that runs a given rung of one operator, or none."""

    def __init__(self, array: Array, rung: Rung) -> None:
        super().__init__(array, rungs={rung.operator: rung.idea})

    def rung(self, operator: str, problem: Problem) -> Rung:
        """Return the rung; of another operator, which this one needs on its way, the one in use."""
        if operator not in self.rungs:
            return super().rung(operator, problem)
        found = RUNGS[operator, self.rungs[operator]]
        if not found.takes(problem):
            raise NotTaken
        return found


class Counted(OneRung):
    """A call that launches on this CPU, in check mode, what a GPU would be given, and keeps the traffic.

    Attributes
    ----------
    traffic : dict of str to Traffic
        By the names of the kernel's parameters, of all launches together.
    """

    def __init__(self, array: Array, rung: Rung) -> None:
        super().__init__(array, rung)
        self.target, self.traffic = "cuda", dict[str, Traffic]()

    def launch(self, operator: str, problem: Problem, *arguments: Any, part: str | None = None) -> None:
        """Launch the kernel and add up what it asks of memory."""
        rung = self.rung(operator, problem)
        rung = rung.parts[part] if part else rung
        compiled = gpu_form(rung, rung.instance_for(problem))
        compiled[rung.launch(problem)](*arguments)
        assert compiled.last_traffic is not None
        for name, found in compiled.last_traffic.items():
            before = self.traffic.get(name, Traffic(0, 0, 0))
            self.traffic[name] = Traffic(*(a + b for a, b in zip(before, found, strict=True)))


def run(operator: str | None = None, rounds: int = 7, out: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Measure the rungs of an operator, or all, print the table, and record it where `out` is given; return the record.

    Raises
    ------
    ValueError
        For an operator that there is not, or a partial record.
    BackendUnavailable
        Without a C++ compiler.
    """
    if out is not None and operator is not None:
        raise ValueError("--out records all rungs: leave out OPERATOR")
    find_compiler()
    rungs = tqdm(rungs_of(operator), desc="kernels", disable=None, leave=False)
    record = {"machine": machine(), "rounds": rounds, "rungs": {rung.path: _measure(rung, rounds) for rung in rungs}}
    print(report(record))
    if out is not None:
        write_part(Path(out), "measured", record)
    return record


def _measure(rung: Rung, rounds: int) -> dict[str, Any]:
    if rung.operator not in EXAMPLES:
        raise ValueError(f"{rung.operator} has no example in dcnlab/bench/kernels.py to be measured on")
    example = EXAMPLES[rung.operator]
    found = {dtype: counted(rung, example, dtype) for dtype in DTYPES}
    return {
        "size": example.size,
        "bytes": {d: b for d, b in found.items() if b},
        "cpu_ms": _time(rung, example, rounds),
    }


def counted(rung: Rung, example: Example, dtype: str) -> dict[str, Any] | None:
    """Return the bytes a rung asks for an output value, and the least there could be; None if it does not take them.

    An output value is one of the output; backward, of the gradient of the image. Only kernels are counted: not the
    matrix products and changes of layout that the array library does for some rungs.
    """
    arrays = _as(dtype, example.arrays())
    call = Counted(next(iter(arrays.values())), rung)
    try:
        results = _results(example.run(call, arrays))
    except NotTaken:
        return None
    outputs = results[0].size
    kinds = zip(Traffic._fields, map(sum, zip(*call.traffic.values(), strict=True)), strict=True)
    floor = sum(array.nbytes for array in [*arrays.values(), *results])
    return {
        **{kind: round(total / outputs, 2) for kind, total in kinds},
        "floor": round(floor / outputs, 2),
        "arguments": {name: list(found) for name, found in call.traffic.items()},
    }


def _time(rung: Rung, example: Example, rounds: int) -> float | None:
    """Return the milliseconds of a call with this rung, fast, float32, one thread; None where it is for GPUs only."""
    if "float32" not in rung.dtypes:
        return None
    arrays = _as("float32", example.arrays())
    call = OneRung(next(iter(arrays.values())), rung)
    try:
        with threads(1):
            seconds = interleaved({rung.path: lambda: example.run(call, arrays)}, rounds)
    except NotTaken:
        return None
    return round(milliseconds(seconds[rung.path]), 3)


def _as(dtype: str, arrays: Arrays) -> Arrays:
    return {name: array.astype(dtype) if array.dtype.kind == "f" else array for name, array in arrays.items()}


def _results(found: Any) -> list[np.ndarray]:
    return [found] if isinstance(found, np.ndarray) else [array for array in found if array is not None]


def asked(found: Mapping[str, Any]) -> float:
    """Return the bytes that a rung asks for an output value, of all kinds."""
    return float(sum(found[kind] for kind in Traffic._fields))


def sizes(record: Mapping[str, Any]) -> dict[str, str]:
    """Return what each operator was measured on, by its name."""
    names = {
        path: path.partition("/")[0].removesuffix("_forward").removesuffix("_backward") for path in record["rungs"]
    }
    return {name: record["rungs"][path]["size"] for path, name in names.items()}


def report(record: Mapping[str, Any]) -> str:
    """Return the record as text: the table that `dcnlab kernels bench` prints."""
    lines = []
    for path, row in record["rungs"].items():
        first = [path.removesuffix(".cu"), f"{row['cpu_ms']:.2f}" if row["cpu_ms"] is not None else "-"]
        for dtype, found in row["bytes"].items():
            total = asked(found)
            kinds = [f"{found[kind]:.1f}" for kind in Traffic._fields]
            lines.append(
                [*first, dtype, *kinds, f"{total:.1f}", f"{found['floor']:.1f}", f"{total / found['floor']:.1f}"]
            )
            first = ["", ""]
    header = ["rung", "CPU ms", "arrays of", "read", "written", "atomic", "in all", "floor", "x floor"]
    return "\n".join(
        [
            "bytes asked of global memory for an output value (backward: of the image's gradient), as a GPU would ask;",
            f"CPU ms: float32, fast mode, one thread, {record['machine']['cpu']}",
            "",
            format_table(header, lines),
            "",
            *(f"{name}: {size}" for name, size in sizes(record).items()),
        ]
    )
