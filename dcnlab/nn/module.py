"""What all layers share: named parameters, what backward keeps of forward, and the state as a dictionary of arrays.

A layer is a `Module`: calling it runs `forward`; `backward` takes the gradient of the output, returns that of the
input and leaves the gradients of the parameters in their ``.grad``. There is no graph and no recording: a layer made
of layers calls their backward passes in reverse order, and that is all there is to backpropagation.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import numpy as np

from dcnlab.arrays import Array, as_numpy, is_cupy, require_arrays
from dcnlab.nn.initialise import Initialise

Rng = np.random.Generator | int | None  # as numpy.random.default_rng takes it

_KEEPING: ContextVar[bool] = ContextVar("keep what backward needs", default=True)
_LISTED = 8  # names in an error message: a checkpoint of another model differs in hundreds


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Let layers keep nothing for backward inside the block: inference in less memory. Local to this context."""
    token = _KEEPING.set(False)
    try:
        yield
    finally:
        _KEEPING.reset(token)


# -- state ---------------------------------------------------------------------------------------------------------


class Buffer:
    """An array that belongs to a layer's state and is not trained, such as running statistics.

    It is made when its `value` is first looked at: a model can be counted without memory, and loading a checkpoint
    draws no random numbers. The draws do not depend on the order of access: each has a seed of its own, a child of the
    layer's generator.

    Parameters
    ----------
    shape : tuple of int
    initialise : callable
        ``initialise(rng, shape)`` returns the first value; see `dcnlab.nn.initialise`.
    dtype : dtype
    rng : numpy.random.Generator, int or None
    """

    def __init__(self, shape: tuple[int, ...], initialise: Initialise, dtype: Any = np.float32, rng: Rng = None):
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self._initialise = initialise
        self._seed = np.random.default_rng(rng).bit_generator.seed_seq.spawn(1)[0]  # type: ignore[attr-defined]
        self._value: Array | None = None

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    @property
    def value(self) -> Array:
        """The array, in `shape` and `dtype`. What is assigned is converted to the dtype, and must have the shape."""
        if self._value is None:
            first = self._initialise(np.random.default_rng(self._seed), self.shape)
            self._value = np.asarray(first).astype(self.dtype, copy=False)
        return self._value

    @value.setter
    def value(self, value: Array) -> None:
        array = as_array(value)
        if tuple(array.shape) != self.shape:
            raise ValueError(f"this parameter has shape {self.shape}, got {tuple(array.shape)}")
        if array.dtype.kind not in "biuf":
            raise TypeError(f"this parameter is {self.dtype}, got {array.dtype}")
        self._value = array.astype(self.dtype, copy=False)

    def start_from(self, initialise: Initialise) -> None:
        """Begin anew from another initialiser, again on first use and from the same seed."""
        self._initialise, self._value = initialise, None


class Parameter(Buffer):
    """An array that is trained: `value`, and after a backward pass `grad`, the gradient of that one call."""

    grad: Array | None = None


class LoadedKeys(NamedTuple):
    """What `Module.load_state_dict` found: names that the module has and the dictionary lacks, and the reverse."""

    missing: list[str]
    unexpected: list[str]


# -- layers --------------------------------------------------------------------------------------------------------


class Module(ABC):
    """A layer: parameters, a forward and a backward pass.

    Attributes that are a `Parameter`, a `Buffer` or a `Module` make up its state, named as they are, in the order in
    which they were assigned.

    Attributes
    ----------
    training : bool
        True for a new layer; see `train` and `eval`.
    """

    training: bool = True
    _kept: SimpleNamespace | None = None

    def __call__(self, *inputs: Any) -> Any:
        """Run `forward`."""
        return self.forward(*inputs)

    @abstractmethod
    def forward(self, *inputs: Any) -> Any:
        """Return the output; keep what `backward` needs. Calling the layer does the same."""

    @abstractmethod
    def backward(self, grad_output: Any) -> Any:
        """Return the gradient of the input of the last forward pass, and set the gradients of the parameters.

        They are overwritten, never added to. Raises RuntimeError when the last forward pass kept nothing.
        """

    # -- what backward keeps of forward --

    def keep(self, **values: Any) -> None:
        """Remember values for `backward`; under `no_grad` only forget the last ones."""
        self._kept = SimpleNamespace(**values) if _KEEPING.get() else None

    def kept(self) -> SimpleNamespace:
        """Return what the last forward pass kept."""
        if self._kept is None:
            raise RuntimeError(
                f"{type(self).__name__}: there is no forward pass to go back through; call the layer first, "
                "outside nn.no_grad()"
            )
        return self._kept

    # -- state --

    def _members(self) -> list[tuple[str, Buffer | Module]]:
        return [(name, value) for name, value in vars(self).items() if isinstance(value, (Buffer, Module))]

    def named_modules(self, name: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and all modules inside it with their names; its own is ""."""
        yield name, self
        for inner, member in self._members():
            if isinstance(member, Module):
                yield from member.named_modules(f"{name}.{inner}" if name else inner)

    def modules(self) -> Iterator[Module]:
        """Yield this module and all modules inside it."""
        return (module for _, module in self.named_modules())

    def named_state(self, prefix: str = "") -> Iterator[tuple[str, Buffer]]:
        """Yield the name and the `Parameter` or `Buffer` of everything in the state."""
        for name, member in self._members():
            if isinstance(member, Module):
                yield from member.named_state(f"{prefix}{name}.")
            else:
                yield prefix + name, member

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield the name and the `Parameter` of everything that is trained."""
        return ((name, state) for name, state in self.named_state() if isinstance(state, Parameter))

    def parameters(self) -> list[Parameter]:
        """Return everything that is trained."""
        return [parameter for _, parameter in self.named_parameters()]

    def parameter_count(self) -> int:
        """Return the number of trained numbers; makes no array."""
        return sum(parameter.size for parameter in self.parameters())

    def state_dict(self) -> dict[str, Array]:
        """Return the arrays of the state by name: the module's own, not copies."""
        return {name: state.value for name, state in self.named_state()}

    def grad_dict(self) -> dict[str, Array]:
        """Return the gradients that the last backward pass left, by the names of the parameters."""
        return {name: p.grad for name, p in self.named_parameters() if p.grad is not None}

    def load_state_dict(self, arrays: Mapping[str, Any], strict: bool = True) -> LoadedKeys:
        """Copy arrays into the state, converted to its dtypes.

        Parameters
        ----------
        arrays : mapping of names to arrays
        strict : bool
            Refuse missing and unexpected names. Other shapes are always refused.

        Returns
        -------
        LoadedKeys(missing, unexpected)

        Raises
        ------
        ValueError
            Naming what is missing, unexpected or of another shape. Nothing has been changed then.
        """
        own = dict(self.named_state())
        given = {name: as_array(value) for name, value in arrays.items()}
        missing = [name for name in own if name not in given]
        unexpected = [name for name in given if name not in own]
        common = [name for name in own if name in given]
        fits = {
            name: tuple(given[name].shape) == own[name].shape and given[name].dtype.kind in "biuf" for name in common
        }
        problems = [_listed("of another shape", [_difference(n, own[n], given[n]) for n in common if not fits[n]])]
        if strict:
            problems.append(_listed("missing", [f"{n} {own[n].shape}" for n in missing]))
            problems.append(_listed("unexpected", [f"{n} {tuple(given[n].shape)}" for n in unexpected]))
        if any(problems):
            raise ValueError(f"{type(self).__name__}.load_state_dict: {'; '.join(filter(None, problems))}")
        for name in common:
            own[name].value = given[name].astype(own[name].dtype)  # a copy
        return LoadedKeys(missing, unexpected)

    def to(self, xp: Any) -> Self:
        """Move the state to the arrays of a module: ``layer.to(cupy)``, and back with ``layer.to(numpy)``."""
        for _, state in self.named_state():
            value = state.value
            state.value = as_numpy(value) if xp is np else xp.asarray(value)
        return self

    # -- mode --

    def train(self, mode: bool = True) -> Self:
        """Set training mode here and in all modules inside: batch statistics, dropout and drop path are on."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set inference mode: running statistics, nothing dropped."""
        return self.train(False)


class Sequential(Module):
    """Modules one after the other, named "0", "1", ..."""

    def __init__(self, *modules: Module) -> None:
        for number, module in enumerate(modules):
            vars(self)[str(number)] = module

    def forward(self, input: Array) -> Array:
        """Return what the last module makes of what the others made."""
        for module in self:
            input = module(input)
        return input

    def backward(self, grad_output: Array) -> Array:
        """Go back through the modules, the last one first."""
        for module in reversed(list(self)):
            grad_output = module.backward(grad_output)
        return grad_output

    def __iter__(self) -> Iterator[Module]:
        return (member for _, member in self._members() if isinstance(member, Module))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, number: int) -> Any:
        return list(self)[number]


class ModuleList(Sequential):
    """Modules in a list, named "0", "1", ...; whoever owns the list decides in which order they run."""

    def forward(self, input: Array) -> Array:
        """Refuse: a list has no forward pass of its own."""
        raise TypeError("a ModuleList cannot be called; call the modules in it")

    def backward(self, grad_output: Array) -> Array:
        """Refuse: a list has no backward pass of its own."""
        raise TypeError("a ModuleList has no backward pass; call that of the modules in it")


def as_array(value: Any) -> Array:
    """Return a value as an array of its library: NumPy's, or CuPy's."""
    return value if is_cupy(value) else np.asarray(value)


def require_input(layer: Module, input: Any, *sizes: int | str, hint: str = "") -> None:
    """Refuse anything but an array of this shape. A str stands for any size, a leading "..." for any axes."""
    name = type(layer).__name__
    require_arrays(name, input=input)
    shape = tuple(input.shape)
    wanted, compared = sizes, shape
    if sizes[0] == "...":
        wanted, compared = sizes[1:], shape[max(len(shape) - len(sizes) + 1, 0) :]
    fits = len(compared) == len(wanted) and all(
        isinstance(want, str) or want == got for want, got in zip(wanted, compared, strict=True)
    )
    if not fits:
        raise ValueError(f"{name}: expected ({', '.join(map(str, sizes))}), got {shape}{hint}")


def require_grad_output(layer: Module, grad_output: Any, shape: tuple[int, ...]) -> None:
    """Refuse anything but an array of the shape of the last output."""
    name = f"{type(layer).__name__}.backward"
    require_arrays(name, grad_output=grad_output)
    if tuple(grad_output.shape) != tuple(shape):
        raise ValueError(f"{name}: grad_output must have the output's shape {shape}, got {tuple(grad_output.shape)}")


def _listed(what: str, entries: list[str]) -> str:
    more = f" and {len(entries) - _LISTED} more" if len(entries) > _LISTED else ""
    return f"{len(entries)} {what}: {', '.join(entries[:_LISTED])}{more}" if entries else ""


def _difference(name: str, own: Buffer, given: Array) -> str:
    numbers = "" if given.dtype.kind in "biuf" else f" of {given.dtype}"
    return f"{name} (expected {own.shape}, got {tuple(given.shape)}{numbers})"
