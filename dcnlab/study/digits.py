"""The digits that the studies train on."""

from __future__ import annotations

from functools import cache

from dcnlab.train.data import MNIST5K, LabelledImages, load_images, split

SPLIT_SEED = 0  # the same digits are held out in every run


@cache
def digits(train: int, test: int) -> tuple[LabelledImages, LabelledImages]:
    """Return training and held-out digits, the classes in equal shares; read once in a process."""
    most, held_out = split(load_images(MNIST5K), test, SPLIT_SEED)
    return split(most, train, SPLIT_SEED)[1], held_out
