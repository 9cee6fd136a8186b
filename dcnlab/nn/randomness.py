"""Random masks by sample: what is dropped depends on who the sample is, not on what was drawn before it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dcnlab.nn.basic import Dropout, DropPath
from dcnlab.nn.module import Module

WORD = 2**64  # what a word of a counter or a key is less than
MASKS = 1  # the second word of every counter here: other uses of the same (seed, epoch) have another


def seed_samples(model: Module, seed: int, epoch: int, samples: Any) -> None:
    """Let every random layer of a model draw the mask of each sample from a stream of that sample's own.

    The numbers of a sample are a function of (seed, epoch, layer, sample) alone: the same in any batch, in any
    order, on any of several processes, and in a run that was stopped and goes on, which needs no saved generator.

    Parameters
    ----------
    model : Module
        Its `Dropout` and `DropPath` layers are numbered by their places in ``model.modules()``.
    seed, epoch : int
        From 0 to 2**64 - 1.
    samples : (N,) integers, or None
        Which sample each row of the next batches is, such as its number in the data set: from 0. None lets the layers
        go back to their own generators.

    Raises
    ------
    ValueError, TypeError
        For anything else; and from the forward pass in training, for a batch of another length.

    Notes
    -----
    Philox 4x64 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011) encrypts a counter of four words
    with a key of two; any two different counters give independent numbers. Here the key is (seed, epoch) and a row
    starts at the counter (0, `MASKS`, layer, sample), whose first word counts on along the row.

    Examples
    --------
    >>> import numpy as np
    >>> from dcnlab import nn
    >>> layer, x = nn.DropPath(0.5), np.ones((4, 1))
    >>> nn.seed_samples(layer, seed=0, epoch=0, samples=[5, 6, 7, 8])
    >>> masks = layer(x)
    >>> nn.seed_samples(layer, seed=0, epoch=0, samples=[8, 7, 6, 5])
    >>> bool((layer(x) == masks[::-1]).all())
    True
    """
    numbers = None if samples is None else _sample_numbers(samples)
    key = np.array([_word("seed", seed), _word("epoch", epoch)], np.uint64)
    for number, module in enumerate(model.modules()):
        if isinstance(module, (Dropout, DropPath)):
            module.uniform = None if numbers is None else SampleStreams(key, number, numbers)


class SampleStreams:
    """Uniform numbers for the rows of a batch, each row from the stream of its sample.

    Parameters
    ----------
    key : (2,) uint64
    layer : int
    samples : (N,) uint64
    """

    def __init__(self, key: np.ndarray, layer: int, samples: np.ndarray) -> None:
        self.key, self.layer, self.samples = key, layer, samples

    def __call__(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return float32 numbers from [0, 1) of a shape (N, ...)."""
        if shape[:1] != self.samples.shape:
            batch = f"a batch of {shape[0]}" if shape else "one without rows"
            raise ValueError(f"nn.seed_samples: expected batches of the {len(self.samples)} samples given, got {batch}")
        bits = np.random.Philox(key=self.key)
        generator = np.random.Generator(bits)
        start = bits.state  # setting it again is five times as fast as a new generator
        counter = start["state"]["counter"]
        counter[1:3] = MASKS, self.layer
        numbers = np.empty((len(self.samples), math.prod(shape[1:])), np.float32)
        for row, sample in zip(numbers, self.samples, strict=True):
            counter[3] = sample
            bits.state = start
            generator.random(out=row, dtype=np.float32)
        return numbers.reshape(shape)


def _sample_numbers(samples: Any) -> np.ndarray:
    numbers = np.array(samples)  # a copy: the caller may go on using the array
    if numbers.ndim != 1 or (numbers.dtype.kind not in "iu" and numbers.size):
        raise TypeError(f"nn.seed_samples: samples must be (N,) integers, got {numbers.shape} of {numbers.dtype}")
    if numbers.size and numbers.min() < 0:
        raise ValueError(f"nn.seed_samples: samples must not be negative, got {numbers.min()}")
    return numbers.astype(np.uint64)


def _word(name: str, value: int) -> int:
    if not isinstance(value, (int, np.integer)) or not 0 <= value < WORD:
        raise ValueError(f"nn.seed_samples: {name} must be an integer from 0 to 2**64 - 1, got {value!r}")
    return int(value)
