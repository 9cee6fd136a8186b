"""Which implementation runs: the table of backends, and how one is chosen for a call."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType

from dcnlab.arrays import Array, is_cupy
from dcnlab.errors import BackendUnavailable

REFERENCE = "dcnlab.reference.deformable"


@dataclass(frozen=True)
class Backend:
    """One way to run the operators that have kernels.

    Attributes
    ----------
    name : str
    what : str
        One line for `dcnlab info`.
    implementation : str or None
        The module with the operators; None where it is not part of this version.
    missing : str
        Why it is off and what turns it on, where it is.
    """

    name: str
    what: str
    implementation: str | None
    missing: str = ""


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend(
            "numpy",
            "readable vectorised reference; also runs on CuPy arrays when asked for by name",
            REFERENCE,
        ),
        Backend(
            "cpu",
            "the CUDA kernels, compiled for this CPU",
            None,
            "the kernels are not part of dcnlab 0.1: use backend='numpy'",
        ),
        Backend(
            "cuda",
            "the CUDA kernels, on a GPU",
            None,
            "the kernels are not part of dcnlab 0.1: pass backend='numpy', which runs the reference on CuPy arrays",
        ),
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


def implementation(backend: str | None, *arrays: Array | None) -> ModuleType:
    """Return the module that implements the operators for these arrays.

    An explicit `backend` wins, then `use_backend`, then the arrays: CuPy arrays run on "cuda", NumPy arrays on
    "numpy". Nothing falls back silently.

    Raises
    ------
    BackendUnavailable
        Saying what is missing and the line that turns it on.
    """
    cupy = any(is_cupy(array) for array in arrays)
    name = _known(backend or _in_force.get() or ("cuda" if cupy else "numpy"))
    chosen = BACKENDS[name]
    if chosen.implementation is None:
        raise BackendUnavailable(f"backend {name!r} cannot run: {chosen.missing}")
    return importlib.import_module(chosen.implementation)


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name
