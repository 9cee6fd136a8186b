"""Calling a function that may do anything: what comes back is an array that can be compared, or one line."""

from __future__ import annotations

import inspect
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LONGEST = 160


@dataclass(frozen=True)
class Outcome:
    """What one call gave.

    Attributes
    ----------
    result : array of the expected shape, or None if there is a problem
    problem : str
        One line, empty if there is none.
    kind : str
        Of the problem, as in `dcnlab.exercises.Report`.
    error : str
        Name of the exception's type, if one was raised.
    """

    result: np.ndarray | None = None
    problem: str = ""
    kind: str = ""
    error: str = ""


def signature_problem(answer: Any, arguments: Mapping[str, Any]) -> str:
    """Return why `answer` cannot be called with these arguments, in their order; empty if it can."""
    wanted = ", ".join(arguments)
    if not callable(answer):
        return f"expected a function of ({wanted}), got {_described(answer)}"
    try:
        signature = inspect.signature(answer)
    except (TypeError, ValueError):  # some built-in functions have none
        return ""
    try:
        signature.bind(*arguments.values())
    except TypeError:
        return f"the function must take ({wanted}), got {signature}"
    return ""


def call(function: Callable[..., Any], arguments: Mapping[str, Any], shape: tuple[int, ...]) -> Outcome:
    """Call a function with copies of the arguments; `shape` is the one that its result must have."""
    copies = {name: a.copy() if isinstance(a, np.ndarray) else a for name, a in arguments.items()}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            returned = function(*copies.values())
            result = None if returned is None else np.array(returned)
    except NotImplementedError:
        return Outcome(problem="not written yet: replace the line that raises NotImplementedError", kind="stub")
    except (Exception, SystemExit) as error:
        return Outcome(problem=f"it raised {_raised(error, function)}", kind="call", error=type(error).__name__)
    for name, copy in copies.items():
        if isinstance(copy, np.ndarray) and not np.array_equal(copy, arguments[name]):
            return Outcome(problem=f"it changes its argument {name} in place; work on a copy", kind="call")
    if result is None:
        return Outcome(problem="it returned None: is a return missing?", kind="result")
    problem = _result_problem(result, shape)
    return Outcome(problem=problem, kind="result") if problem else Outcome(result=result)


def _result_problem(result: np.ndarray, shape: tuple[int, ...]) -> str:
    if result.dtype.kind not in "fiu":
        return f"it returned {_described(result)}; expected real numbers"
    if result.shape != shape:
        return f"it returned {_of_shape(result.shape)}; expected {_of_shape(shape)}"
    return ""


def _of_shape(shape: tuple[int, ...]) -> str:
    return f"an array of shape {shape}" if shape else "a single number"


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{_of_shape(value.shape)} and type {value.dtype}"
    return f"an object of type {type(value).__name__}"


def _raised(error: BaseException, function: Callable[..., Any]) -> str:
    """Return type and message of an exception, and the line of the student's that it came from."""
    try:
        lines = str(error).splitlines()
    except Exception:  # an exception of the student's own, whose message raises
        lines = []
    text = type(error).__name__ + (f": {lines[0][:LONGEST]}" if lines else "")
    code = getattr(function, "__code__", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
    if not frames:
        return text
    where = f"line {frames[-1].lineno}" + (f", `{frames[-1].line}`" if frames[-1].line else "")
    return f"{text} (at {where})"
