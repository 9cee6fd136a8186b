"""What the comparison of operators found, in words and tables, from its record."""

from __future__ import annotations

from typing import Any

from dcnlab.study.operator_layers import DEFORMABLE, GLOBAL, LARGE, OPERATORS, SMALL, WINDOWED
from dcnlab.tables import format_table

# Figure 1 of the InternImage paper (arXiv 2211.05778): long-range dependence, adaptive spatial aggregation, efficient
# in computation and memory. The small kernel is not in it.
CLAIMS = {
    GLOBAL: (True, True, False),
    WINDOWED: (False, True, True),
    LARGE: (True, False, True),
    DEFORMABLE: (True, True, True),
}
HEAD = (
    "operator",
    "90 % within",
    "farthest",
    "positions",
    "weights",
    "M mult-adds",
    "mixing",
    "MB held",
    "kept",
    "ms",
    "growth",
)
CLAIM_HEAD = (
    "operator",
    "long-range",
    "reaches",
    "adapts",
    "positions, weights",
    "efficient",
    "M mult-adds, growth, of memory",
)


def table(record: dict[str, Any]) -> str:
    """Return the table that `dcnlab study operators` prints."""
    return format_table(list(HEAD), [list(row) for row in rows(record)])


def rows(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of cells for each operator; costs are those of `record["side"]`, see `HEAD`."""
    at = record["sides"].index(record["side"])
    found: list[tuple[str, ...]] = []
    for name in OPERATORS:
        numbers = record["operators"][name]
        field = next(iter(numbers["fields"].values()))
        exponents = numbers["exponents"]
        found.append(
            (
                name,
                f"{field['radii'][1]:.3g} px",
                f"{field['farthest']:.3g} px",
                changed(numbers["positions"]),
                changed(numbers["weights"]),
                f"{numbers['multiply_adds'][at] / 1e6:.1f}",
                f"{numbers['mixing'][at] / 1e6:.1f}",
                f"{numbers['peak'][at] / 1e6:.1f}",
                f"{numbers['kept'][at] / 1e6:.1f}",
                f"{numbers['forward_ms'][at]:.1f}",
                f"n^{exponents['multiply_adds']:.2f}, n^{exponents['peak']:.2f}",
            )
        )
    return found


def changed(amount: float) -> str:
    """Return a change as a number, or that there is none: exactly none, not a small one.

    >>> changed(0.0), changed(0.001)
    ('no', '0.00')
    """
    return f"{amount:.2f}" if amount else "no"


def explanation(record: dict[str, Any]) -> str:
    """Return what the columns mean."""
    side, made = record["side"], record["machine"]
    return (
        f"One image of {side}x{side} pixels and {record['channels']} channels, float32. px: pixels of the features. "
        "positions, weights: how much they adapt, the change of an output pixel's derivative when the photo is "
        "mirrored; no: exactly none. mixing: the multiply-adds between pixels, the others are linear layers within "
        "each. MB held: the most at once in forward and backward; kept: MB between the two. growth: of multiply-adds "
        f"and of memory held, with the number of pixels n. ms: forward, one thread, on this machine, {made['cpu']}, "
        f"{made['date']}."
    )


def claim_rows(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return what the paper's figure says of each operator, beside what was computed; see `CLAIM_HEAD`."""
    found: list[tuple[str, ...]] = []
    at = record["sides"].index(record["side"])
    scale, farthest = list(record["dcnv3_reach"].items())[-1]
    for name, claims in CLAIMS.items():
        numbers = record["operators"][name]
        field, exponents = next(iter(numbers["fields"].values())), numbers["exponents"]
        longer = f"; {farthest:.3g} px, offsets x {scale}" if name == DEFORMABLE else ""
        long_range, adaptive, efficient = ("yes" if claim else "no" for claim in claims)
        found.append(
            (
                name,
                long_range,
                f"{field['farthest']:.3g} px{longer}",
                adaptive,
                f"{changed(numbers['positions'])}, {changed(numbers['weights'])}",
                efficient,
                f"{numbers['multiply_adds'][at] / 1e6:.0f}, n^{exponents['multiply_adds']:.2f}, "
                f"n^{exponents['peak']:.2f}",
            )
        )
    return found


def findings(record: dict[str, Any]) -> list[str]:
    """Return sentences about range, adaptation and cost, each made of the numbers in the record."""
    return [_range(record), _adaptation(record), _crossovers(record), _cost(record)]


def _range(record: dict[str, Any]) -> str:
    reach = record["dcnv3_reach"]
    farthest = _listed([f"{pixels:.3g}" for pixels in reach.values()])
    return (
        "How far the others can see is built in; how far DCNv3 sees depends on its offsets. Scaled by "
        f"{_listed(list(reach))}, they make the farthest pixel that it reads "
        f"{farthest} px away, for the same multiply-adds. What the paper calls "
        "long-range is what offsets can learn; here they are random, with a root mean square of "
        f"{record['offset_spread']:g} px in each direction."
    )


def _adaptation(record: dict[str, Any]) -> str:
    operators = record["operators"]
    fixed = [name for name in OPERATORS if not operators[name]["positions"] and not operators[name]["weights"]]
    weights = [name for name in OPERATORS if not operators[name]["positions"] and operators[name]["weights"]]
    both = [name for name in OPERATORS if operators[name]["positions"] and operators[name]["weights"]]
    return (
        f"Of {_listed(fixed)}, neither positions nor weights change with the input: the derivative is the same to the "
        f"last bit. Of {_listed(weights)}, the weights change and the positions do not: all pixels are read, of the "
        f"image or of the window. Of {_listed(both)}, both change; its sampling points move by "
        f"{record['points_moved']:.1f} px on average when the photo is mirrored."
    )


def _crossovers(record: dict[str, Any]) -> str:
    parts = [f"{name} from {side}x{side} pixels" for name, side in record["crossovers"].items() if side is not None]
    sides = {name: _slower_from(record, GLOBAL, name) for name in OPERATORS if name != GLOBAL}
    slower = [f"{name} from {side}x{side}" for name, side in sides.items() if side is not None]
    timed = f" Of the sides that were timed, it is slower than {_listed(slower)}." if slower else ""
    return f"Global attention needs more multiply-adds than {_listed(parts)} on.{timed}"


def _slower_from(record: dict[str, Any], name: str, other: str) -> int | None:
    """Return the smallest side that was timed from which on an operator is slower than the other."""
    ms, others = (record["operators"][each]["forward_ms"] for each in (name, other))
    found = None
    for side, mine, theirs in reversed(list(zip(record["sides"], ms, others, strict=False))):
        if mine <= theirs:
            break
        found = side
    return found


def _cost(record: dict[str, Any]) -> str:
    at, operators = record["sides"].index(record["side"]), record["operators"]
    side, shown = record["side"], (GLOBAL, LARGE, WINDOWED)
    counts = {name: operators[name]["multiply_adds"][at] for name in OPERATORS}
    held = {name: operators[name]["peak"][at] for name in OPERATORS}
    ratios = ", ".join(f"{counts[name] / counts[DEFORMABLE]:.1f} for {name}" for name in shown)
    memory = ", ".join(f"{held[name] / held[DEFORMABLE]:.2g} for {name}" for name in shown)
    small = counts[DEFORMABLE] / counts[SMALL]
    return (
        f"At {side}x{side}, in units of DCNv3's multiply-adds: {ratios}; in units of the memory it holds: {memory}. "
        f"DCNv3 in turn needs {small:.0f} times the multiply-adds of a {SMALL} convolution, which has no linear layers."
    )


def _listed(names: list[str]) -> str:
    """Return names with commas, and an "and" before the last.

    >>> _listed(["a", "b", "c"]), _listed(["a"]), _listed([])
    ('a, b and c', 'a', 'none')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "none"
