r"""Gradient checks that are right at the kinks.

A backward pass is compared with finite differences in float64, in one of two forms: along random directions (cheap,
any size), or entry by entry as a full Jacobian (small cases).

What makes deformable operators special is that the bilinear interpolant is only piecewise smooth in the position: it
has a kink on every lattice line, and offsets that start at zero sit exactly on them. A central difference across a
kink gives the mean of two slopes, and a correct backward pass looks wrong. Here, `positions=` tells the checker where
the samples are. Every step then stays inside the cell whose slope the backward pass promises: the cell
floor(y), floor(x), which on a lattice line lies to the right, and at exactly -1 the empty one to the left (where the
promised slope is 0). A position at least half a cell away from one of its walls is moved that way, and the derivative
is taken one-sided, from five points:

.. math::
    f'(0) \approx \tfrac{1}{h}
    \left(-\tfrac{25}{3} f_0 + 16 f_{1/4} - 12 f_{1/2} + \tfrac{16}{3} f_{3/4} - f_1\right)

It is exact for polynomials up to degree 4; inside a cell the operators are quadratic. Arguments that move no position
are checked with central differences of the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dcnlab.arrays import Array, array_module, is_cupy
from dcnlab.tables import format_table

STEP = 3e-3  # truncation (h/4)^4 and rounding 42 eps / h are both near 1e-12
TOLERANCE = 1e-8
ON_KINK = 1e-12  # positions are numbers of the size of an image side, known to about 1e-14
SMALLEST_STEP = 1e-7  # below it, rounding alone would exceed the tolerance

CENTRAL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))  # (multiple of h, factor of f)
ONE_SIDED = ((0.0, -25 / 3), (0.25, 16.0), (0.5, -12.0), (0.75, 16 / 3), (1.0, -1.0))


@dataclass(frozen=True)
class InputCheck:
    """What the check of one input found.

    Attributes
    ----------
    input : str
    form : {"directions", "jacobian"}
    error : float
        Largest deviation, relative to norm(gradient)/sqrt(n): what one direction of unit length is expected to show.
    kink_distance : float
        Distance of the nearest sample that this input moves to a lattice line, in pixels; inf if it moves none.
    kinks : int
        How many sample coordinates stand on a lattice line; their slopes are compared one-sided.
    skipped : int
        Entries that could not be compared: every step along them crosses a kink. 0 unless an entry moves several.
    ok : bool
    worst : str
        Where the largest deviation is, for people.
    """

    input: str
    form: str
    error: float
    kink_distance: float
    kinks: int
    skipped: int
    ok: bool
    worst: str = ""


@dataclass(frozen=True)
class GradCheck:
    """The report of `gradcheck`; prints as a table."""

    checks: list[InputCheck]
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether every input passed."""
        return all(check.ok for check in self.checks)

    @property
    def worst(self) -> InputCheck:
        """The input with the largest error."""
        return max(self.checks, key=lambda check: check.error)

    def __str__(self) -> str:
        lines = [
            [c.input, c.form, f"{c.error:.1e}", kink_text(c.kink_distance, c.kinks), verdict(c.ok, c.kinks)]
            for c in self.checks
        ]
        text = format_table(["input", "form", "error", "nearest kink", "verdict"], lines)
        failed = [f"{c.input}: {c.worst}" for c in self.checks if not c.ok]
        return "\n".join([text, *failed])


def gradcheck(
    function: Callable[..., Array],
    backward: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    wrt: Sequence[str] | None = None,
    positions: Callable[[Mapping[str, Any]], Array] | None = None,
    form: str = "directions",
    directions: int = 3,
    step: float = STEP,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> GradCheck:
    """Compare a backward pass with finite differences of its forward pass.

    Parameters
    ----------
    function : callable
        ``function(**arguments)`` returns one array.
    backward : callable
        ``backward(grad_output, **arguments)`` returns the gradients by the names of the arguments: a NamedTuple, a
        mapping, or a single array when there is one input to check.
    arguments : mapping
        Arrays to differentiate must be float64; everything else is passed through.
    wrt : names, optional
        The inputs to check; all float64 arrays by default.
    positions : callable, optional
        ``positions(arguments)`` returns the sampling positions, in pixels, in any shape: where the kinks are.
    form : {"directions", "jacobian"}
    directions : int
        How many random directions to try, at least 3.
    step : float
        Largest step; the entries of a direction are about 1, so it is the size of their changes.
    tolerance : float
        Largest allowed `InputCheck.error`.
    seed : int

    Returns
    -------
    GradCheck
        With ``.ok``; prints as a table.

    Raises
    ------
    TypeError
        When an input to check is not a float64 array.
    ValueError
        For an unknown form, fewer than 3 directions, gradients of the wrong shape, or an output that is not finite.

    Examples
    --------
    >>> import numpy as np, dcnlab
    >>> x = np.random.default_rng(0).standard_normal((4, 3))
    >>> dcnlab.gradcheck(dcnlab.softmax, dcnlab.softmax_backward, {"input": x}).ok
    True
    """
    if form not in ("directions", "jacobian"):
        raise ValueError(f"form must be 'directions' or 'jacobian', got {form!r}")
    if directions < 3:
        raise ValueError(f"directions must be at least 3: one or two can miss an error, got {directions}")
    names = [n for n, a in arguments.items() if _is_float64(a)] if wrt is None else list(wrt)
    for name in names:
        if not _is_float64(arguments[name]):
            raise TypeError(f"gradcheck: {name} must be a float64 array, float32 is too coarse for finite differences")
    checks = []
    for name in names:
        # A stream of its own: arguments drawn with the same seed must not come back as directions.
        rng = np.random.default_rng((seed, 1))
        problem = _Problem(function, backward, dict(arguments), name, positions, step, rng)
        error, worst, skipped = problem.directions(directions) if form == "directions" else problem.jacobian()
        checks.append(
            InputCheck(
                input=name,
                form=form,
                error=error,
                kink_distance=problem.kink_distance,
                kinks=problem.kinks,
                skipped=skipped,
                ok=bool(error <= tolerance),
                worst=worst,
            )
        )
    return GradCheck(checks, tolerance)


def _is_float64(value: Any) -> bool:
    return (isinstance(value, np.ndarray) or is_cupy(value)) and value.dtype.name == "float64"


@dataclass
class _Problem:
    """One input of one function: everything the two forms of the check share."""

    function: Callable[..., Array]
    backward: Callable[..., Any]
    arguments: dict[str, Any]
    name: str
    positions: Callable[[Mapping[str, Any]], Array] | None
    step: float
    rng: np.random.Generator
    kink_distance: float = float("inf")
    kinks: int = 0
    moves: np.ndarray | None = None  # (positions, entries): change of a position per change of an entry
    room: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))  # (positions, 2): left and right

    def __post_init__(self) -> None:
        self.value = self.arguments[self.name]
        self.output = self._forward(self.value)
        if not bool(array_module(self.output).isfinite(self.output).all()):
            raise ValueError("gradcheck: the output is not finite, so it has no derivative to compare with")
        if self.positions is not None:
            self._find_kinks()

    # -- the kinks -----------------------------------------------------------------------------------------------

    def _positions(self, value: Array) -> np.ndarray:
        assert self.positions is not None
        found = self.positions({**self.arguments, self.name: value})
        return np.array(found.get() if is_cupy(found) else found, dtype=float).reshape(-1)

    def _find_kinks(self) -> None:
        """Find which positions this input moves, how much room each has, and how near the kinks are."""
        here = self._positions(self.value)
        if np.array_equal(here, self._positions(self.value + 1e-3 * self._random(self.value.shape))):
            return
        self.moves = np.empty((here.size, self.value.size))
        for entry in range(self.value.size):
            self.moves[:, entry] = (self._positions(self._moved(entry, 1e-3)) - here) / 1e-3
        moved = (np.abs(self.moves) > 1e-9).any(axis=1)
        self.moves, here = self.moves[moved], here[moved]
        left = here - np.floor(here)
        left[left > 1 - ON_KINK] = 0.0  # a hair below the line: rounding of the positions, it is on it
        self.room = np.stack([left, 1 - left], axis=-1)
        at_border = np.abs(here + 1) < ON_KINK
        self.room[at_border] = (1.0, 0.0)  # the slope at exactly -1 is promised to be that of the outside, 0
        distance = np.abs(here - np.round(here))
        self.kink_distance = float(distance.min(initial=np.inf))
        self.kinks = int((distance < ON_KINK).sum())

    def _moved(self, entry: int, change: float) -> Array:
        value = self.value.copy()
        value.reshape(-1)[entry] += change
        return value

    def _towards_room(self, direction: np.ndarray) -> np.ndarray:
        """Flip the signs of a direction so that each position moves to where it has at least half a cell of room."""
        if self.moves is None:
            return direction
        wanted = np.where(self.room[:, 1] >= self.room[:, 0], 1.0, -1.0)
        agreement = np.sign(wanted @ self.moves)  # where an entry moves several positions, the majority decides
        flat = direction.reshape(-1)
        return np.where(agreement == 0, flat, agreement * np.abs(flat)).reshape(direction.shape)

    def _largest_step(self, direction: np.ndarray) -> float:
        """Return how far one can go along a direction before a position leaves its cell."""
        if self.moves is None:
            return self.step
        speed = self.moves @ direction.reshape(-1)
        room = np.where(speed > 0, self.room[:, 1], self.room[:, 0])
        moving = np.abs(speed) > 1e-12
        return float(min(self.step, (0.9 * room[moving] / np.abs(speed[moving])).min(initial=np.inf)))

    # -- finite differences --------------------------------------------------------------------------------------

    def _forward(self, value: Array) -> Array:
        return self.function(**{**self.arguments, self.name: value})

    def _random(self, shape: tuple[int, ...]) -> Array:
        return array_module(self.value).asarray(self.rng.standard_normal(shape))

    def _slope(self, direction: np.ndarray) -> Array | None:
        """Return the derivative of the output along a direction, or None where every step crosses a kink."""
        step = self._largest_step(direction)
        if step < SMALLEST_STEP:
            return None
        along = array_module(self.value).asarray(direction)
        scheme = CENTRAL if self.moves is None else ONE_SIDED
        if scheme is CENTRAL:
            step = step / 2
        # Differences to the output here, not the outputs themselves: the factors of each scheme add up to 0.
        return sum(f * (self._forward(self.value + m * step * along) - self.output) for m, f in scheme if m) / step

    def _gradient(self, grad_output: Array) -> Array:
        grads = self.backward(grad_output, **self.arguments)
        if hasattr(grads, "_asdict"):
            grads = grads._asdict()
        grad = grads[self.name] if isinstance(grads, Mapping) else grads
        if grad is None or grad.shape != self.value.shape:
            got = None if grad is None else tuple(grad.shape)
            raise ValueError(
                f"gradcheck: the gradient of {self.name} must have its shape {self.value.shape}, got {got}"
            )
        return grad

    # -- the two forms -------------------------------------------------------------------------------------------

    def directions(self, count: int) -> tuple[float, str, int]:
        """Compare along random directions; return the error, where it is, and how many could not be compared."""
        errors, skipped = [], 0
        for _ in range(count):
            cotangent = self._random(self.output.shape)
            direction = self._towards_room(self.rng.standard_normal(self.value.shape))
            slope = self._slope(direction)
            if slope is None:
                skipped += 1
                continue
            grad = self._gradient(cotangent)
            expected, got = (
                float((slope * cotangent).sum()),
                float((grad * array_module(grad).asarray(direction)).sum()),
            )
            # A direction of unit length shows norm(grad)/sqrt(n); one with entries of size 1, norm(grad).
            scale = float((grad**2).sum()) ** 0.5 or max(abs(expected), 1e-300)
            errors.append(
                (abs(expected - got) / scale, f"along a direction: backward {got:.10g}, slope {expected:.10g}")
            )
        if not errors:
            return (
                float("nan"),
                "no direction could be compared: every step crosses a kink; try form='jacobian'",
                skipped,
            )
        return (*max(errors), skipped)

    def jacobian(self) -> tuple[float, str, int]:
        """Compare the whole Jacobian, entry by entry."""
        n_out, n_in = self.output.size, self.value.size
        xp = array_module(self.output)
        analytic = np.empty((n_out, n_in))
        for row in range(n_out):
            cotangent = xp.zeros(self.output.shape)
            cotangent.reshape(-1)[row] = 1.0
            grad = self._gradient(cotangent).reshape(-1)
            analytic[row] = grad.get() if is_cupy(grad) else grad
        numeric, skipped = np.full((n_out, n_in), np.nan), 0
        for entry in range(n_in):
            unit = np.zeros(self.value.shape)
            unit.reshape(-1)[entry] = 1.0
            unit = self._towards_room(unit)
            slope = self._slope(unit)
            if slope is None:
                skipped += 1
                continue
            flat = slope.reshape(-1) * unit.reshape(-1)[entry]
            numeric[:, entry] = flat.get() if is_cupy(flat) else flat
        if skipped == n_in:
            return float("nan"), "no entry could be compared: every step crosses a kink", skipped
        deviation = np.where(np.isnan(numeric), 0.0, np.abs(numeric - analytic))
        scale = float(np.linalg.norm(analytic)) / analytic.size**0.5 or max(float(np.nanmax(np.abs(numeric))), 1e-300)
        o, i = np.unravel_index(int(deviation.argmax()), deviation.shape)
        at_out, at_in = (
            ", ".join(map(str, np.unravel_index(int(flat), shape)))
            for flat, shape in ((o, self.output.shape), (i, self.value.shape))
        )
        worst = (
            f"d output[{at_out}] / d {self.name}[{at_in}]: backward {analytic[o, i]:.10g}, slope {numeric[o, i]:.10g}"
        )
        return float(deviation.max() / scale), worst, skipped


def kink_text(distance: float, kinks: int) -> str:
    """Return the distance to the nearest kink in words."""
    if kinks:
        return f"on it ({kinks})"
    return "none" if np.isinf(distance) else f"{distance:.1e} px"


def verdict(ok: bool, kinks: int) -> str:
    """Return the outcome in words."""
    if not ok:
        return "WRONG"
    return "ok, one-sided" if kinks else "ok"
