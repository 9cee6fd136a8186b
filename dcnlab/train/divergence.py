"""Where a run went wrong: which layer made the first number that is not finite, or the largest one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from dcnlab import nn
from dcnlab.arrays import Array, array_module, is_cupy

WORSE_THAN_CHANCE = 3.0  # a mean loss of so many times that of guessing is no training any more
FEW_STEPS = 20  # the mean is taken over at least so many


class Diverged(ArithmeticError):
    """Training that has ended in NaN, infinity or nonsense. The message says when, and which layer it came from."""


def has_diverged(mean_loss: float, steps: int, norm: float, classes: int) -> bool:
    """Whether a run is lost: a loss or gradient that is not finite, or a mean loss far above guessing, log(classes).

    >>> has_diverged(2.3, 50, 1.0, 10), has_diverged(7.0, 50, 1.0, 10), has_diverged(7.0, 5, 1.0, 10)
    (False, True, False)
    >>> has_diverged(2.3, 1, float("inf"), 10)
    True
    """
    if not (math.isfinite(mean_loss) and math.isfinite(norm)):
        return True
    return steps >= FEW_STEPS and mean_loss > WORSE_THAN_CHANCE * math.log(max(classes, 2))


def where_from(model: nn.Module, again: Callable[[], object]) -> str:
    """Return, in half a sentence, where a step of training went wrong.

    Parameters
    ----------
    model : Module
        As it was before the step.
    again : callable
        Computes the step once more, forward and backward, without changing a parameter.

    Returns
    -------
    str
        The first of: a parameter that is not finite; the layer whose output is not while its inputs are; the layer
        whose input gradient is not while its output's is; the parameter whose gradient is not; or else the layer with
        the largest output.
    """
    for name, state in model.named_state():
        if not _finite(state.value):
            return f"{name} holds {_worst(state.value)}"
    seen: list[tuple[str, float]] = []
    first: list[str] = []

    def see(name: str, module: nn.Module, direction: str, inputs: list[Array], output: Any) -> None:
        outputs = [array for array in output if _is_float(array)] if isinstance(output, (tuple, list)) else [output]
        bad = [array for array in outputs if not _finite(array)]
        if bad and not first and all(map(_finite, inputs)):
            made, of = _MADE[direction]
            first.append(f"{name} ({type(module).__name__}) made {made} {_worst(bad[0])} of {of} that is finite")
        if direction == "forward":
            seen.extend((f"{name} ({type(module).__name__})", _rms(array)) for array in outputs)

    with watched(model, see):
        again()
    if first:
        return first[0]
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not _finite(parameter.grad):
            return f"the gradient of {name} holds {_worst(parameter.grad)}"
    name, largest = max(seen, key=lambda pair: pair[1], default=("no layer", 0.0))
    return f"everything is finite; the largest output is that of {name}, rms {largest:.3g}"


_MADE = {"forward": ("an output with", "an input"), "backward": ("an input gradient with", "an output gradient")}

See = Callable[[str, nn.Module, str, list[Array], Any], None]


@contextmanager
def watched(model: nn.Module, see: See) -> Iterator[None]:
    """Show every call of a layer inside the block: ``see(name, module, "forward" | "backward", inputs, output)``.

    Layers inside others are shown first, as they finish first.
    """
    named = [(name or type(module).__name__, module) for name, module in model.named_modules()]
    for name, module in named:
        for direction in ("forward", "backward"):
            vars(module)[direction] = partial(_shown, see, name, module, direction)
    try:
        yield
    finally:
        for _, module in named:
            for direction in ("forward", "backward"):
                del vars(module)[direction]


def _shown(see: See, name: str, module: nn.Module, direction: str, *inputs: Any) -> Any:
    output = getattr(type(module), direction)(module, *inputs)
    see(name, module, direction, [array for array in inputs if _is_float(array)], output)
    return output


def _is_float(value: Any) -> bool:
    return (isinstance(value, np.ndarray) or is_cupy(value)) and value.dtype.kind == "f"


def _finite(array: Any) -> bool:
    return not _is_float(array) or bool(array_module(array).isfinite(array).all())


def _worst(array: Array) -> str:
    return "NaN" if bool(array_module(array).isnan(array).any()) else "an infinite number"


def _rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array.astype(np.float64))))) if array.size else 0.0
