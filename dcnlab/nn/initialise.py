"""How parameters start: each returns a function of a generator and a shape, which `Parameter` calls on first use."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Initialise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def constant(value: float) -> Initialise:
    """Return an initialiser that fills with one value."""
    return lambda rng, shape: np.full(shape, value)


def uniform(bound: float) -> Initialise:
    """Return an initialiser that draws uniformly from -bound to bound."""
    return lambda rng, shape: rng.uniform(-bound, bound, shape)


def by_fan_in(fan_in: int) -> Initialise:
    """Return an initialiser that draws uniformly within 1/sqrt(fan_in): PyTorch's for weights and biases.

    It is `kaiming_uniform` of arXiv 1502.01852 with a = sqrt 5: bound sqrt(6 / ((1 + a**2) fan_in)).
    """
    return uniform(1 / math.sqrt(max(fan_in, 1)))


def xavier_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw (out, in) weights uniformly within sqrt(6 / (in + out)). Eq. 16 of Glorot and Bengio, AISTATS 2010."""
    bound = math.sqrt(6 / (shape[0] + shape[1]))
    return rng.uniform(-bound, bound, shape)


def truncated_normal(std: float) -> Initialise:
    """Return an initialiser that draws from N(0, std**2), drawing anew what lies beyond +-2, as timm's does."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        values = rng.normal(0.0, std, shape)
        while (outside := np.abs(values) > 2).any():
            values[outside] = rng.normal(0.0, std, int(outside.sum()))
        return values

    return draw


zeros, ones = constant(0.0), constant(1.0)
