"""Exercise 2: the slopes of the bilinear surface, also where it has a kink."""

from __future__ import annotations

import math

import numpy as np

from dcnlab.exercises import faulty_sampling as faulty
from dcnlab.exercises.exercise import Exercise
from dcnlab.exercises.function_check import Arguments, Case, FunctionCheck, Mistake
from dcnlab.reference import loops

STATEMENT = r"""
Offsets are learned through the slopes of the surface that you built in exercise 1. Write
`bilinear_slopes(image, y, x)`, which returns the pair $(\partial v/\partial y, \partial v/\partial x)$ at a position of
an image (H, W). Inside a cell, [eq:sample.2],

$$\frac{\partial v}{\partial y} = (1-l_x)(v_{10} - v_{00}) + l_x (v_{11} - v_{01}), \qquad
  \frac{\partial v}{\partial x} = (1-l_y)(v_{01} - v_{00}) + l_y (v_{11} - v_{10})$$

where a corner outside the image counts as 0. On a lattice line, where $y$ or $x$ is a whole number, the surface has a
kink and two slopes. Every offset starts at 0, so every tap starts on a kink: a rule is needed, and it is the one of the
published CUDA kernels. The slopes are those of the cell $\lfloor y \rfloor, \lfloor x \rfloor$, to the right; and a
sample that is not inside $(-1, H) \times (-1, W)$, the end points excluded, has slopes of 0.
"""

STUB = '''
def bilinear_slopes(image, y, x):
    """Return (dv/dy, dv/dx), the slopes of an image (H, W) at the position (y, x)."""
    height, width = image.shape
    raise NotImplementedError  # replace this line
'''

HINTS = (
    "Ask first whether -1 < y < height and -1 < x < width; if not, both slopes are 0. Then the cell, as in exercise 1: "
    "with floor, whole numbers belong to the cell on their right by themselves.",
    "Read the four corners through a small function that returns 0 outside the image. The formulas then hold "
    "everywhere, also at the borders.",
    "The slope along y is a blend of two differences, bottom minus top: that of the left side weighs 1 - lx, that of "
    "the right side lx. Check your function against (bilinear_sample(image, y + h, x) - bilinear_sample(image, y, x)) "
    "/ h with a small h > 0.",
)

SWAPPED_RESULT = Mistake(
    "swapped_result",
    "The two slopes are swapped: the one along y, between rows, comes first.",
)
UNBLENDED = Mistake(
    "unblended",
    "The slope along y is the difference of the left side of the cell only, that along x of its top. Blend both sides.",
)
NEGATED = Mistake("negated", "The signs are wrong: the slope along y is bottom minus top, along x right minus left.")


def cases() -> list[Case]:
    """Return positions inside a cell, across the borders, on kinks, and outside."""
    image = np.random.default_rng(2).uniform(1, 9, (4, 5)).round(1)
    places = [
        ("inside a cell", 1.25, 2.6),
        ("above the first row", -0.3, 1.5),
        ("right of the last column", 0.75, 4.2),
        ("on a line between rows: a kink along y", 2.0, 1.5),
        ("on a line between columns: a kink along x", 1.5, 2.0),
        ("on a pixel: a kink along both", 1.0, 3.0),
        ("on a pixel of the last row", 3.0, 1.5),
        ("exactly one pixel above the image", -1.0, 1.5),
        ("exactly one pixel right of the image", 1.5, 5.0),
        ("far outside", -7.5, 12.25),
    ]
    return [Case(f"{title}, at y = {y}, x = {x}", {"image": image, "y": y, "x": x}) for title, y, x in places]


def reference(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """Return the slopes, (2,), by `dcnlab.reference.loops`."""
    found = loops.corners(loops.split(0, y), loops.split(0, x), *image.shape)
    along = [sum(corner[axis] * image[corner[0], corner[1]] for corner in found) for axis in (3, 4)]
    return np.array(along, dtype=float)


def locate(index: tuple[int, ...], arguments: Arguments) -> str:
    """Return which slope it is, and of which cell."""
    y, x = math.floor(arguments["y"]), math.floor(arguments["x"])
    return f"the slope along {'yx'[index[0]]}, in the cell whose top left pixel is ({y}, {x})"


def simulate(mistakes: frozenset[str], image: np.ndarray, y: float, x: float) -> np.ndarray:
    """Return the slopes with some mistakes made."""
    found = faulty.slopes(image, y, x, mistakes)
    if "unblended" in mistakes:
        at_left, at_top = (y, float(math.floor(x))), (float(math.floor(y)), x)
        gate = -1 < y < image.shape[0] and -1 < x < image.shape[1]
        ungated = mistakes | {"ungated"} if gate else mistakes
        found = np.array([faulty.slopes(image, *at_left, ungated)[0], faulty.slopes(image, *at_top, ungated)[1]])
    if "swapped_result" in mistakes:
        found = found[::-1]
    return -found if "negated" in mistakes else found


EXERCISE = Exercise(
    number=2,
    name="bilinear_slopes",
    title="The slopes, and the kinks",
    statement=STATEMENT,
    stub=STUB,
    hints=HINTS,
    checker=FunctionCheck(
        cases=cases,
        reference=reference,
        locate=locate,
        mistakes=(
            SWAPPED_RESULT,
            faulty.LEFT,
            faulty.CENTRAL,
            faulty.UNGATED,
            UNBLENDED,
            NEGATED,
            faulty.SWAPPED,
            *faulty.BETWEEN_PIXELS,
            faulty.MIRRORED,
        ),
        simulate=simulate,
        advice={"IndexError": "A corner lies outside the image. It counts as 0: ask before you read it."},
    ),
    go_on="[05 Gradient checking](../05_gradient_checking.ipynb) shows what kinks do to finite differences.",
)
