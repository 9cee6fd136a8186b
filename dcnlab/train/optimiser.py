"""AdamW on the parameters of a model, clipping of gradients, and the moving average of a model's state."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dcnlab.arrays import FLOAT_TYPES, Array, array_module, type_name
from dcnlab.nn.module import Module, Parameter, as_array

# Parts of the names of parameters that the published code trains at a rate of their own.
OFFSET_NAMES = ("offset", "center_feature_scale_proj")
_LISTED = 5  # names in an error message


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters, by name, that are trained alike.

    Attributes
    ----------
    parameters : dict of names to Parameter
    weight_decay : float
        Share of a parameter that a step with learning rate 1 takes away.
    rate : float
        Multiplies the learning rate.
    """

    parameters: Mapping[str, Parameter]
    weight_decay: float = 0.0
    rate: float = 1.0


def parameter_groups(model: Module, weight_decay: float, offset_lr: float = 1.0) -> list[ParameterGroup]:
    """Sort the parameters of a model into groups, by the rules of the published InternImage.

    Parameters of one dimension (norms, biases, layer scale) do not decay. Those with 'offset' or
    'center_feature_scale_proj' in their name are trained at `offset_lr` times the learning rate.

    Parameters
    ----------
    model : nn.Module
    weight_decay : float
        Of all other parameters.
    offset_lr : float
        The published fine-tuning configurations have 0.1. OpenGVLab/InternImage (classification/optimizer.py) applies
        it only together with layer-wise decay of the learning rate; here it is independent of that.

    Returns
    -------
    list of ParameterGroup
        Each parameter is in exactly one; no group is empty.
    """
    sorted_out: dict[tuple[bool, bool], dict[str, Parameter]] = {}
    for name, parameter in model.named_parameters():
        decays = len(parameter.shape) > 1
        offsets = any(part in name for part in OFFSET_NAMES)
        sorted_out.setdefault((decays, offsets), {})[name] = parameter
    return [
        ParameterGroup(parameters, weight_decay if decays else 0.0, offset_lr if offsets else 1.0)
        for (decays, offsets), parameters in sorted_out.items()
    ]


class AdamW:
    r"""Adam with decoupled weight decay (algorithm 2 of arXiv 1711.05101), in place.

    With gradient g at step t, learning rate :math:`\eta` (times the group's) and weight decay :math:`\lambda`

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow (1 - \eta \lambda)\, p
              - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    As in PyTorch, the decay is multiplied by the learning rate.

    Parameters
    ----------
    groups : sequence of ParameterGroup
        Such as `parameter_groups` makes; of float32 or float64, on NumPy or CuPy: move a model before, not after.
    betas : (beta_1, beta_2)
    eps : float

    Raises
    ------
    ValueError, TypeError
        For settings out of range, a parameter that is in two groups, or one of another dtype.

    Examples
    --------
    >>> from dcnlab import nn
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> layer.weight.value, layer.weight.grad = np.ones((1, 1)), np.full((1, 1), 0.3)
    >>> AdamW(parameter_groups(layer, weight_decay=0.5)).step(lr=0.1)  # 1 - 0.1 * 0.5, then a step of 0.1
    >>> layer.weight.value.round(4)
    array([[0.85]], dtype=float32)
    """

    def __init__(
        self, groups: Sequence[ParameterGroup], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas) or not eps > 0:
            raise ValueError(f"AdamW: betas must be in 0..1, without 1, and eps above 0, got {betas} and {eps}")
        self.groups, self.betas, self.eps, self.steps = list(groups), betas, eps, 0
        for group in self.groups:
            if not (group.weight_decay >= 0 and group.rate >= 0):
                raise ValueError(
                    f"AdamW: weight_decay and rate must be at least 0, got {group.weight_decay} and {group.rate}"
                )
        parameters = _each_once(self.groups)
        self._first = {name: _zeros_like(p.value) for name, p in parameters.items()}  # m
        self._second = {name: _zeros_like(p.value) for name, p in parameters.items()}  # v
        self._scratch: Array | None = None

    def step(self, lr: float) -> None:
        """Change the parameters by their gradients.

        A parameter without a gradient stays as it is. One with a gradient that is not finite becomes NaN: look at what
        `clip_gradients` returns before.

        Parameters
        ----------
        lr : float
            Learning rate of this step.
        """
        if not 0 <= lr < math.inf:
            raise ValueError(f"AdamW.step: lr must be at least 0 and finite, got {lr}")
        self.steps += 1
        with np.errstate(over="ignore", invalid="ignore"):
            for group in self.groups:
                for name, parameter in group.parameters.items():
                    if parameter.grad is not None:
                        self._update(name, parameter.value, parameter.grad, lr * group.rate, group.weight_decay)

    def _update(self, name: str, value: Array, grad: Array, lr: float, weight_decay: float) -> None:
        xp, (beta1, beta2) = array_module(value), self.betas
        first, second, work = self._first[name], self._second[name], self._work(value)
        xp.subtract(grad, first, out=work)
        work *= 1 - beta1
        first += work  # m + (1 - beta_1) (g - m)
        xp.multiply(grad, grad, out=work)
        work -= second
        work *= 1 - beta2
        second += work
        xp.sqrt(second, out=work)
        work /= math.sqrt(1 - beta2**self.steps)
        work += self.eps
        xp.divide(first, work, out=work)
        work *= lr / (1 - beta1**self.steps)
        value *= 1 - lr * weight_decay
        value -= work

    def _work(self, value: Array) -> Array:
        """Return room for one array of this shape: the same memory for all parameters of one dtype."""
        kept = self._scratch
        if kept is None or kept.size < value.size or kept.dtype != value.dtype:
            largest = max(p.size for group in self.groups for p in group.parameters.values())
            kept = self._scratch = array_module(value).empty(largest, value.dtype)
        return kept[: value.size].reshape(value.shape)

    def state_dict(self) -> dict[str, Array]:
        """Return "steps" (int64), and "first.NAME" and "second.NAME" of each parameter: its own arrays, not copies."""
        state: dict[str, Array] = {"steps": np.array(self.steps, np.int64)}
        state |= {f"first.{name}": moment for name, moment in self._first.items()}
        return state | {f"second.{name}": moment for name, moment in self._second.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned: the next steps are the same, to the bit.

        Raises
        ------
        ValueError
            Naming what is missing, unexpected, or of another shape or type. Nothing has been changed then.
        """
        given = _matching("AdamW.load_state_dict", self.state_dict(), state)
        steps = _count("AdamW.load_state_dict", "steps", given)
        for prefix, moments in (("first.", self._first), ("second.", self._second)):
            for name, moment in moments.items():
                moment[...] = array_module(moment).asarray(given[prefix + name])
        self.steps = steps


def clip_gradients(model: Module, limit: float) -> float:
    """Scale all gradients of a model by one factor, so that their norm is at most `limit`.

    The norm is that of one vector of all gradients, added up in float64. If it is not finite, nothing is scaled:
    whoever calls decides what becomes of the step.

    Parameters
    ----------
    model : nn.Module
        After its backward pass. Gradients are replaced, not changed in place: they may share memory.
    limit : float
        More than 0; infinity only measures.

    Returns
    -------
    float
        The norm before scaling.
    """
    if not limit > 0:
        raise ValueError(f"clip_gradients: limit must be more than 0, got {limit}")
    with_grad = [parameter for parameter in model.parameters() if parameter.grad is not None]
    with np.errstate(over="ignore", invalid="ignore"):
        # On a GPU, the sum stays there until it is complete.
        squares = sum(_square_sum(parameter.grad) for parameter in with_grad)
        norm = math.sqrt(float(squares))
    if limit < norm < math.inf:
        for parameter in with_grad:
            parameter.grad = parameter.grad * (limit / norm)  # type: ignore[operator]
    return norm


class MovingAverage:
    r"""The exponential moving average of a model's state, which often classifies better than the state itself.

    After update n = 0, 1, ..., with :math:`d_n = \min(d, (1 + n) / (10 + n))`, which forgets the start sooner,

    .. math:: \bar{x} \leftarrow d_n\, \bar{x} + (1 - d_n)\, x

    Buffers are averaged like parameters; those of integers, which count, are copied.

    Parameters
    ----------
    model : nn.Module
        Its state now is where the average starts.
    decay : float
        d, in 0..1, without 1.

    Examples
    --------
    >>> from dcnlab import nn
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> layer.weight.value = np.zeros((1, 1))
    >>> average = MovingAverage(layer, decay=0.99)
    >>> layer.weight.value = np.ones((1, 1))
    >>> average.update()  # d_0 = 1/10
    >>> with average.in_use():
    ...     print(layer.weight.value)
    [[0.9]]
    """

    def __init__(self, model: Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"MovingAverage: decay must be in 0..1, without 1, got {decay}")
        self.model, self.decay, self.updates = model, decay, 0
        self._average = {name: state.value.copy() for name, state in model.named_state()}
        self._in_use = False

    def update(self) -> None:
        """Let the state of the model as it is now flow into the average: call it after each step."""
        self._require_apart("update")
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, state in self.model.named_state():
            average = self._average[name]
            if average.dtype.kind == "f":
                average += (1 - decay) * (state.value - average)
            else:
                average[...] = state.value
        self.updates += 1

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Give the model the averaged state inside the block, and its own again after it, whatever happens."""
        self._require_apart("in_use")
        states = dict(self.model.named_state())
        own = {name: state.value for name, state in states.items()}
        self._in_use = True
        try:
            for name, state in states.items():
                state.value = self._average[name]
            yield
        finally:
            for name, state in states.items():
                state.value = own[name]
            self._in_use = False

    def state_dict(self) -> dict[str, Array]:
        """Return "updates" (int64), and "average.NAME" of everything in the state: its own arrays, not copies."""
        state: dict[str, Array] = {"updates": np.array(self.updates, np.int64)}
        return state | {f"average.{name}": array for name, array in self._average.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; strict like `AdamW.load_state_dict`."""
        self._require_apart("load_state_dict")
        given = _matching("MovingAverage.load_state_dict", self.state_dict(), state)
        self.updates = _count("MovingAverage.load_state_dict", "updates", given)
        for name, average in self._average.items():
            average[...] = array_module(average).asarray(given[f"average.{name}"])

    def _require_apart(self, method: str) -> None:
        if self._in_use:
            raise RuntimeError(f"MovingAverage.{method}: not inside in_use(), where the model's state is the average")


def _each_once(groups: Sequence[ParameterGroup]) -> dict[str, Parameter]:
    """Return all parameters by name; refuse one that comes twice, or is of a dtype that cannot be trained."""
    found: dict[str, Parameter] = {}
    for group in groups:
        for name, parameter in group.parameters.items():
            if name in found or any(parameter is other for other in found.values()):
                raise ValueError(f"AdamW: each parameter must be in one group, {name} is in two")
            if type_name(parameter.dtype) not in FLOAT_TYPES:
                raise TypeError(f"AdamW: {name} must be {' or '.join(FLOAT_TYPES)}, got {parameter.dtype}")
            found[name] = parameter
    return found


def _zeros_like(value: Array) -> Array:
    return array_module(value).zeros(value.shape, value.dtype)


def _square_sum(grad: Array) -> Any:
    return array_module(grad).square(grad, dtype=np.float64).sum()


def _matching(caller: str, own: Mapping[str, Array], state: Mapping[str, Any]) -> dict[str, Array]:
    """Return the arrays of a saved state that has the names, shapes and dtypes of `own`."""
    given = {name: as_array(value) for name, value in state.items()}
    problems = {
        "missing": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
        "of another shape or type": [
            f"{name} (expected {_kind(own[name])}, got {_kind(given[name])})"
            for name in own
            if name in given and _kind(own[name]) != _kind(given[name])
        ],
    }
    if any(problems.values()):
        shown = [
            f"{len(names)} {what}: {', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''}"
            for what, names in problems.items()
            if names
        ]
        raise ValueError(f"{caller}: {'; '.join(shown)}")
    return given


def _kind(array: Array) -> str:
    return f"{tuple(array.shape)} {array.dtype}"


def _count(caller: str, name: str, given: Mapping[str, Array]) -> int:
    count = int(given[name])
    if count < 0:
        raise ValueError(f"{caller}: {name} must be at least 0, got {count}")
    return count
