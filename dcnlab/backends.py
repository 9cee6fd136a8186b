"""Which implementation runs: the table of backends, and how one is chosen for a call."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

from dcnlab.arrays import FLOAT_TYPES, Array, is_cupy
from dcnlab.errors import BackendUnavailable


@dataclass(frozen=True)
class Backend:
    """One way to run the operators that have kernels.

    Attributes
    ----------
    name : str
    what : str
        One line for `dcnlab info`.
    package : str
        With the modules of operators: `dcnlab.reference`, or the same by kernels.
    require : callable
        Raises `BackendUnavailable`, saying what is missing and the line that brings it, where the backend cannot run.
    dtypes : tuple of str
    library : str or None
        "numpy" or "cupy": the only arrays it takes; None for both.
    """

    name: str
    what: str
    package: str
    require: Callable[[], object]
    dtypes: tuple[str, ...] = FLOAT_TYPES
    library: str | None = None

    def state(self) -> tuple[str, str]:
        """Return "on", "off" or "not tried", and why; imports no CuPy to find out."""
        if self.library == "cupy" and importlib.util.find_spec("cupy") is not None:
            return "not tried", "CuPy is installed; it is imported when a CuPy array arrives"
        try:
            self.require()
        except BackendUnavailable as error:
            return "off", str(error)
        return "on", ""


def _nothing() -> None:
    """NumPy is always there."""


def _compiler() -> object:
    return _compiler_on(os.environ.get("CXX"), os.environ.get("PATH"))


@lru_cache(maxsize=4)
def _compiler_on(named: str | None, path: str | None) -> object:
    """Look for the compiler once, not in every call; where there is none, look again."""
    from dcnlab.launch import find_compiler

    return find_compiler()


def _gpu() -> object:
    from dcnlab.launch.cuda import import_cupy

    return import_cupy()


HALF = ("float16", *FLOAT_TYPES)
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend(
            "numpy",
            "readable vectorised reference; also runs on CuPy arrays when asked for by name",
            "dcnlab.reference",
            _nothing,
        ),
        Backend(
            "cpu",
            "the CUDA kernels, compiled for this CPU; NumPy arrays",
            "dcnlab.compiled",
            _compiler,
            HALF,
            "numpy",
        ),
        Backend("cuda", "the CUDA kernels, on a GPU; CuPy arrays", "dcnlab.compiled", _gpu, HALF, "cupy"),
    )
}

_in_force: ContextVar[str | None] = ContextVar("dcnlab_backend", default=None)


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the operators inside the `with` block on the named backend, unless a call names another.

    Raises
    ------
    ValueError
        For an unknown name. A known backend that cannot run raises `BackendUnavailable` when an operator is called.

    Examples
    --------
    >>> import dcnlab
    >>> with dcnlab.use_backend("numpy"):
    ...     pass
    """
    token = _in_force.set(_known(name))
    try:
        yield
    finally:
        _in_force.reset(token)


def choose(backend: str | None, array: Array) -> Backend:
    """Return the backend for a call.

    An explicit `backend` wins, then `use_backend`, then the array: CuPy arrays run on "cuda", others on "numpy".
    """
    return BACKENDS[_known(backend or _in_force.get() or ("cuda" if is_cupy(array) else "numpy"))]


def fastest() -> tuple[str, str]:
    """Return the fastest backend for NumPy arrays here, and why it is not "cpu" where it is not."""
    state, why = BACKENDS["cpu"].state()
    return ("cpu", "") if state == "on" else ("numpy", why)


def implementation(backend: Backend, module: str, array: Array) -> ModuleType:
    """Return a module of operators, such as "deformable", as the backend implements it. Nothing falls back silently.

    Raises
    ------
    BackendUnavailable
        Saying what is missing and the line that turns it on.
    TypeError
        For arrays of a library that the backend does not take.
    """
    try:
        backend.require()
    except BackendUnavailable as error:
        raise BackendUnavailable(f"backend {backend.name!r} cannot run: {error}") from None
    library = "cupy" if is_cupy(array) else "numpy"
    if backend.library not in (None, library):
        cure = "cupy.asarray(x)" if library == "numpy" else "cupy.asnumpy(x)"
        raise TypeError(f"backend {backend.name!r} takes {backend.library} arrays, got {library}; convert with {cure}")
    return importlib.import_module(f"{backend.package}.{module}")


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name
