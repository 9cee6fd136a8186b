"""Gradient checks of whole layers: for the input and for every parameter."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dcnlab.arrays import Array, array_module
from dcnlab.gradients import TOLERANCE, GradCheck, gradcheck
from dcnlab.nn.module import Module

# Smaller than for single operators: a layer norm of few channels behind a convolution has fifth derivatives of 1e5,
# and (step/4)**4 / 30 of that must stay below the tolerance. Rounding, 42 eps / step, is 2e-11.
STEP = 5e-4


def check_layer(
    layer: Module,
    *inputs: Any,
    wrt: Iterable[str] | None = None,
    constant_in: Iterable[str] = (),
    form: str = "directions",
    directions: int = 3,
    step: float = STEP,
    tolerance: float = TOLERANCE,
    seed: int = 1,
) -> GradCheck:
    """Compare the backward pass of a layer with finite differences: `dcnlab.gradcheck` for inputs and parameters.

    The layer is checked in the mode that it is in. Random layers drop the same entries in every forward pass of the
    check. Afterwards, parameters, buffers and random generators are what they were before.

    Parameters
    ----------
    layer : Module
        With float64 parameters.
    *inputs : arrays
        What the layer is called with; float64 arrays are checked, others (labels) passed through.
    wrt : names, optional
        What to check; all float64 inputs and all parameters by default.
    constant_in : names
        Inputs or parameters that the output does not depend on although it is computed from them, such as the bias of
        the keys in attention. Their gradient is rounding noise and cannot be compared with itself: 0 is what it is
        compared with, to within `tolerance` of a gradient with entries of 1.
    form, directions, step, tolerance, seed
        As in `dcnlab.gradcheck`.

    Returns
    -------
    GradCheck

    Raises
    ------
    TypeError
        When a parameter is not float64.

    Examples
    --------
    >>> import numpy as np
    >>> from dcnlab import nn
    >>> layer = nn.Linear(3, 2, dtype=np.float64, rng=0)
    >>> print(nn.check_layer(layer, np.ones((4, 3))).ok)
    True
    """
    names = list(inspect.signature(layer.forward).parameters)[: len(inputs)]
    parameters = dict(layer.named_parameters())
    arguments = dict(zip(names, inputs, strict=True)) | {name: p.value for name, p in parameters.items()}
    if wrt is None:
        wrt = [name for name in names if getattr(arguments[name], "dtype", None) == "float64"] + list(parameters)
    call = _Call(layer, names, set(constant_in))
    with _restored(layer):
        return gradcheck(
            call.forward,
            call.backward,
            arguments,
            wrt=list(wrt),
            positions=call.positions if _samples(layer) else None,
            form=form,
            directions=directions,
            step=step,
            tolerance=tolerance,
            seed=seed,
        )


class _Call:
    """A layer as the functions of inputs and parameters that `gradcheck` takes."""

    def __init__(self, layer: Module, names: list[str], constant_in: set[str]) -> None:
        self.layer, self.names, self.constant_in = layer, names, constant_in
        self.random = [m.rng for m in layer.modules() if hasattr(m, "rng")]
        self.states = [rng.bit_generator.state for rng in self.random]

    def forward(self, **arguments: Any) -> Array:
        for name, parameter in self.layer.named_parameters():
            parameter.value = arguments[name]
        for rng, state in zip(self.random, self.states, strict=True):
            rng.bit_generator.state = state
        output = self.layer(*(arguments[name] for name in self.names))
        # What the output does not depend on is added to it: the sum's gradient, 1, is the scale of the comparison.
        return output + sum(arguments[name].sum() for name in self.constant_in)

    def backward(self, grad_output: Array, **arguments: Any) -> Mapping[str, Array]:
        self.forward(**arguments)
        found = self.layer.backward(grad_output)
        grads = dict(zip(self.names, found if isinstance(found, tuple) else (found,), strict=False))
        grads |= self.layer.grad_dict()
        return {n: g + grad_output.sum() if n in self.constant_in else g for n, g in grads.items()}

    def positions(self, arguments: Mapping[str, Any]) -> Array:
        self.forward(**arguments)
        found = [m.sampling_positions().reshape(-1) for m in self.layer.modules() if hasattr(m, "sampling_positions")]
        return array_module(*found).concatenate(found)


@contextmanager
def _restored(layer: Module) -> Iterator[None]:
    """Put the state and the random generators back after the block."""
    state = {buffer: buffer.value for _, buffer in layer.named_state()}
    generators = [(m.rng, m.rng.bit_generator.state) for m in layer.modules() if hasattr(m, "rng")]
    try:
        yield
    finally:
        for buffer, value in state.items():
            buffer.value = value
        for rng, before in generators:
            rng.bit_generator.state = before


def _samples(layer: Module) -> bool:
    return any(hasattr(module, "sampling_positions") for module in layer.modules())
