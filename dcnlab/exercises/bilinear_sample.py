"""Exercise 1: reading between pixels."""

from __future__ import annotations

import numpy as np

from dcnlab.exercises import faulty_sampling as faulty
from dcnlab.exercises.exercise import Exercise
from dcnlab.exercises.function_check import Arguments, Case, FunctionCheck
from dcnlab.reference.sampling import sampling_matrix

STATEMENT = r"""
An offset is a real number, so a tap of a deformable convolution looks between pixels. Write the function that reads
there: `bilinear_sample(image, y, x)`, for an image of shape (H, W).

The position falls into the cell whose top left pixel is $(y_0, x_0) = (\lfloor y \rfloor, \lfloor x \rfloor)$; it
stands $l_y = y - y_0$ below and $l_x = x - x_0$ to the right of it. With the corners $v_{00}, v_{01}, v_{10}, v_{11}$
(top left, top right, bottom left, bottom right) the value is, [eq:sample.1],

$$v = (1-l_y)(1-l_x)\, v_{00} + (1-l_y)\, l_x\, v_{01} + l_y (1-l_x)\, v_{10} + l_y\, l_x\, v_{11}$$

A corner outside the image counts as 0, one by one: the value fades to 0 within a pixel of the border. $y$ counts rows,
downwards; $x$ counts columns. Python's loops are fine.
"""

STUB = '''
def bilinear_sample(image, y, x):
    """Return the value of an image (H, W) at the position (y, x), in pixels; 0 outside."""
    height, width = image.shape
    raise NotImplementedError  # replace this line
'''

HINTS = (
    "Find the cell first: y0, x0 with math.floor, not int(), which rounds -0.3 up to 0. Then ly and lx, from 0 to 1.",
    "Loop over the four corners: for dy in (0, 1), for dx in (0, 1). The corner's row is y0 + dy, and its weight along "
    "y is ly if dy == 1, otherwise 1 - ly. Multiply the weights along y and x.",
    "Before you read image[row, column], ask whether 0 <= row < height and 0 <= column < width. If not, skip it.",
)


def cases() -> list[Case]:
    """Return positions on a pixel, inside a cell, across every border, and outside."""
    image = np.random.default_rng(1).uniform(1, 9, (4, 5)).round(1)
    places = [
        ("on a pixel", 1.0, 2.0),
        ("between two rows", 1.25, 2.0),
        ("between two columns", 1.0, 2.25),
        ("inside a cell", 1.25, 3.6),
        ("above the first row", -0.3, 1.5),
        ("left of the first column", 2.5, -0.3),
        ("below the last row", 3.4, 1.25),
        ("right of the last column", 0.75, 4.2),
        ("on the last pixel", 3.0, 4.0),
        ("in the corner, with one pixel in reach", -0.5, -0.5),
        ("exactly one pixel above the image", -1.0, 2.0),
        ("far outside", -7.5, 12.25),
    ]
    return [Case(f"{title}, at y = {y}, x = {x}", {"image": image, "y": y, "x": x}) for title, y, x in places]


def reference(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """Return the value, (), by `dcnlab.sampling_matrix`."""
    value: np.ndarray = sampling_matrix(np.array([[y, x]]), None, *image.shape) @ image.ravel()
    return value[0]


def locate(index: tuple[int, ...], arguments: Arguments) -> str:
    """Return the pixels that the value is made of, for people."""
    found = faulty.corners(arguments["y"], arguments["x"], arguments["image"].shape)
    if not found:
        return "no pixel is in reach"
    parts = [f"{w:.3g} * image[{row}, {column}]" for row, column, w, *_ in found if w]
    return "the value should be " + " + ".join(parts)


def simulate(mistakes: frozenset[str], image: np.ndarray, y: float, x: float) -> np.ndarray:
    """Return the value with some mistakes made."""
    return faulty.value(image, y, x, mistakes)


EXERCISE = Exercise(
    number=1,
    name="bilinear_sample",
    title="Reading between pixels",
    statement=STATEMENT,
    stub=STUB,
    hints=HINTS,
    checker=FunctionCheck(
        cases=cases,
        reference=reference,
        locate=locate,
        mistakes=(
            faulty.SWAPPED,
            *faulty.BETWEEN_PIXELS,
            faulty.MIRRORED,
            faulty.NEAREST,
        ),
        simulate=simulate,
        advice={"IndexError": "A corner lies outside the image. It counts as 0: ask before you read it."},
    ),
    go_on="[01 Bilinear sampling](../01_bilinear_sampling.ipynb) derives the formula and draws the surface.",
)
