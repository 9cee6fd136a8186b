"""The rungs on one problem: each is compared with float64, then timed by its kernels alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dcnlab.arrays import Array, as_numpy
from dcnlab.bench.gpu.device import Device
from dcnlab.bench.gpu.timing import Timing, copies_for, measure
from dcnlab.bench.gpu.workloads import Workload
from dcnlab.bench.kernels import NotTaken, OneRung
from dcnlab.compiled.calls import Call
from dcnlab.compiled.ladder import rungs_of
from dcnlab.compiled.rung import Problem, Rung
from dcnlab.compiled.rungs import RUNGS, kernel
from dcnlab.launch import Kernel, Launcher

# Largest deviation from float64, relative to the largest entry: sums of up to about a thousand products, and in half
# precision the rounding of the result (2^-11 of it), four times for kernels that interpolate in half precision too.
ALLOWED = {"float64": 1e-12, "float32": 1e-5, "float16": 4 * 2.0**-11}


class Check(NamedTuple):
    """How far a rung is from float64, relative to the largest entry of each result."""

    error: float
    allowed: float

    @property
    def right(self) -> bool:
        """Whether that is rounding."""
        return self.error <= self.allowed


@dataclass(frozen=True)
class Replay:
    """A launch that can be repeated: sums that the kernel adds to start at 0 again."""

    launcher: Launcher
    arguments: tuple[Any, ...]
    sums: tuple[Array, ...]

    def __call__(self) -> None:
        """Launch it."""
        for array in self.sums:
            array.fill(0)
        self.launcher(*self.arguments)


class Recorder(OneRung):
    """A call of one rung that takes down what it launches.

    Attributes
    ----------
    launched : list of Replay or None
        None for what cannot be repeated by itself.
    """

    def __init__(self, array: Array, rung: Rung) -> None:
        super().__init__(array, rung)
        self.launched: list[Replay | None] = []

    def launch(self, operator: str, problem: Problem, *arguments: Any, **how: Any) -> None:
        """Launch the kernel of the rung that solves a problem."""
        super().launch(operator, problem, *arguments, **how)
        rung = self.rung(operator, problem)
        compiled = kernel(rung, rung.instance_for(problem), self.target, self.mode, self.thread_order)
        launcher = compiled[rung.launch(problem)]
        # A rung of several kernels hands results from one to the next: it cannot be repeated piece by piece.
        alone = not (self.launched or how)
        self.launched.append(Replay(launcher, arguments, _sums(compiled, arguments)) if alone else None)


def _sums(compiled: Kernel, arguments: tuple[Any, ...]) -> tuple[Array, ...]:
    return tuple(a for p, a in zip(compiled.parameters, arguments, strict=True) if p.scattered and a is not None)


def ideas_for(workload: Workload, xp: Any) -> list[str]:
    """Return the rungs of the workload's operator that take it."""
    arrays, ideas = on_device(xp, workload.first_image()), []
    for rung in rungs_of(workload.operator):
        with contextlib.suppress(NotTaken):
            workload.compiled(arrays, OneRung(_first(arrays), rung))
            ideas.append(rung.idea)
    return ideas


def check(workload: Workload, ideas: Iterable[str], xp: Any) -> dict[str, Check]:
    """Compare rungs with the float64 reference on the first image."""
    arrays = workload.first_image()
    given, wanted = on_device(xp, arrays), workload.reference(arrays)
    found = {}
    for idea in ideas:
        result = workload.compiled(given, OneRung(_first(given), RUNGS[workload.operator, idea]))
        found[idea] = Check(largest_error(result, wanted), ALLOWED[workload.dtype])
    return found


def largest_error(found: Any, wanted: Any) -> float:
    """Return the largest deviation of arrays from others, relative to the largest entry; inf if it is not finite."""
    if wanted is None:
        return 0.0
    if isinstance(wanted, tuple):
        return max(largest_error(f, w) for f, w in zip(found, wanted, strict=True))
    actual = as_numpy(found).astype(float)
    scale = float(abs(wanted).max(initial=1e-300))
    error = float(abs(actual - wanted).max(initial=0.0)) / scale
    return error if np.isfinite(error) else float("inf")


def copies_of(workload: Workload, device: Device) -> list[dict[str, Array]]:
    """Return the arguments on the device, as often as the launches need them to find no cache warm."""
    copies = [on_device(device.xp, workload.arrays)]
    for _ in range(copies_for(int(workload.work.bytes), device) - 1):
        copies.append({key: value.copy() for key, value in copies[0].items()})
    return copies


def calls_of(
    workload: Workload, idea: str, copies: Sequence[Mapping[str, Array]]
) -> tuple[list[Callable[[], Any]], bool]:
    """Return what is timed of a rung, on each copy of the arguments, and whether that is its kernel alone.

    Where a rung is several kernels, or products of matrices belong to it, it is the whole call.
    """
    rung = RUNGS[workload.operator, idea]
    if workload.kernel_is_all:
        launches: list[Callable[[], Any]] = []
        for given in copies:
            recorder = Recorder(_first(given), rung)
            workload.compiled(given, recorder)
            launches += [replay for replay in recorder.launched[:1] if replay is not None]
            if len(recorder.launched) != 1 or recorder.launched[0] is None:
                break
        else:
            return launches, True
    return [partial(workload.compiled, given, OneRung(_first(given), rung)) for given in copies], False


def time_call(workload: Workload, device: Device, copies: Sequence[Mapping[str, Array]]) -> Timing:
    """Return the time of the operator as it is called, with the rung in use and all that surrounds it."""
    return measure(device, [partial(workload.compiled, each, Call(_first(each))) for each in copies])


def on_device(xp: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """Return the arrays on the device."""
    return {key: xp.asarray(value) for key, value in arrays.items()}


def _first(arrays: Mapping[str, Array]) -> Array:
    return next(iter(arrays.values()))
