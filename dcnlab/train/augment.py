"""From stored images to a batch: centred, randomly turned and scaled, normalised.

A random transformation is drawn from (seed, epoch, number of the sample) by a counter-based generator. What a sample
looks like in an epoch does not depend on the batch, the process or the order in which it is drawn, and there is no
generator whose state a resumed training would have to restore.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dcnlab.geometry import packed_offset
from dcnlab.ops.deformable import dcnv3

# For brightness in 0..1, all colours alike: what is black becomes -1, what is white 1. A model that is trained from
# scratch has no use for ImageNet's statistics; one with published weights takes `dcnlab.internimage.preprocess`.
MEAN, STD = 0.5, 0.5

# Streams of random numbers that share nothing.
_TRAIN, _TEST = 0, 1
_DRAWS = 5  # angle, scale, two shifts, flip: always all of them, so that switching one off leaves the others alone


@dataclass(frozen=True)
class RandomAffine:
    """A random rotation, scale, shift and flip of each image about its centre.

    Parameters
    ----------
    rotate : float
        Degrees: angles are uniform in -rotate..rotate.
    scale : (smallest, largest)
        Uniform between them; more than 1 enlarges.
    shift : float
        Of the image's side: shifts are uniform in -shift..shift, each way.
    flip : bool
        Mirror half of the images left to right: for photos, not for digits.

    Examples
    --------
    >>> digits = np.zeros((2, 28, 28, 1), np.uint8)
    >>> RandomAffine().transformed(digits, [0, 17], epoch=3, seed=0, size=32).shape
    (2, 3, 32, 32)
    """

    rotate: float = 25.0
    scale: tuple[float, float] = (0.7, 1.2)
    shift: float = 0.0
    flip: bool = False

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 <= self.rotate <= 180:
            raise ValueError(f"rotate must be in 0..180 degrees, got {self.rotate}")
        if not 0 < low <= high < math.inf:
            raise ValueError(f"scale must be (smallest, largest) with 0 < smallest <= largest, got {self.scale}")
        if not 0 <= self.shift <= 1:
            raise ValueError(f"shift must be in 0..1 of the image's side, got {self.shift}")

    def transformed(
        self, images: np.ndarray, samples: Sequence[int] | np.ndarray, epoch: int | None, seed: int, size: int
    ) -> np.ndarray:
        """Return a batch of transformed images as the model takes it.

        The images are centred on `size` x `size` pixels, sampled bilinearly (outside is black) and normalised.

        Parameters
        ----------
        images : (n, H, W, C) uint8
            C is 1 or 3; grey images become three equal colours. H and W are at most `size`.
        samples : n int
            The number of each image in the data set.
        epoch : int or None
            From 0. None draws from a stream that no epoch uses: the fixed transformation of a test set.
        seed : int
            From 0 to 2^64 - 1.
        size : int

        Returns
        -------
        (n, 3, size, size) float32
        """
        batch = _centred(images, size)
        if len(batch) != len(samples):
            raise ValueError(f"each image needs its number: got {len(batch)} images and {len(samples)} samples")
        linear, shift = self.maps(samples, epoch, seed)
        return _normalised(_warped(batch, linear, np.float32(size) * shift))

    def maps(self, samples: Sequence[int] | np.ndarray, epoch: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
        r"""Return where the transformed images look: pixel p, relative to the centre, shows pixel A p + b.

        With rotation R (counter-clockwise as seen), scale s, shift t and flip F, an image point q moves to
        p = s R F q + t, so that

        .. math:: A = F R^T / s, \quad b = -A t

        Parameters
        ----------
        samples, epoch, seed
            As in `transformed`.

        Returns
        -------
        A : (n, 2, 2) float32
            On (y, x), y down.
        b : (n, 2) float32
            In units of the image's side.
        """
        draws = uniform_draws(samples, epoch, seed)  # (n, _DRAWS), in 0..1
        angle = np.radians(self.rotate * (2 * draws[:, 0] - 1))
        scale = self.scale[0] + (self.scale[1] - self.scale[0]) * draws[:, 1]
        shift = self.shift * (2 * draws[:, 2:4] - 1)  # (n, 2)
        mirror = np.where(self.flip & (draws[:, 4] < 0.5), -1.0, 1.0)
        cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
        rows = np.stack([cos, sin, -mirror * sin, mirror * cos], axis=-1)
        linear = rows.reshape(-1, 2, 2)
        start = -(linear * shift[:, None, :]).sum(axis=-1)
        return linear.astype(np.float32), start.astype(np.float32)


def prepared(images: np.ndarray, size: int) -> np.ndarray:
    """Return a batch as the model takes it, not transformed: centred and normalised.

    Parameters
    ----------
    images : (n, H, W, C) uint8
        As in `RandomAffine.transformed`.
    size : int

    Returns
    -------
    (n, 3, size, size) float32

    Examples
    --------
    >>> batch = prepared(np.full((1, 28, 28, 1), 255, np.uint8), 32)
    >>> batch[0, 0, 0, 0], batch[0, 0, 2, 2]
    (np.float32(-1.0), np.float32(1.0))
    """
    return _normalised(_centred(images, size))


def uniform_draws(samples: Sequence[int] | np.ndarray, epoch: int | None, seed: int) -> np.ndarray:
    """Return the random numbers of each sample in an epoch, uniform in 0..1, (n, 5) float64.

    Philox (Salmon et al., SC 2011) turns a key and a counter of 256 bits into random bits. The key is (seed, stream).
    Of the counter's four words the generator itself counts up the lowest; epoch and sample stand in the two highest,
    so that no two samples or epochs ever share a number.
    """
    stream, second = (_TEST, 0) if epoch is None else (_TRAIN, epoch)
    if not (0 <= second < 2**64 and 0 <= seed < 2**64):
        raise ValueError(f"epoch and seed must be in 0..2^64-1, got epoch {epoch} and seed {seed}")
    numbers = [int(sample) for sample in samples]
    if numbers and min(numbers) < 0:
        raise ValueError(f"samples are numbered from 0, got {min(numbers)}")
    draws = np.empty((len(numbers), _DRAWS))
    for row, sample in zip(draws, numbers, strict=True):
        generator = np.random.Philox(key=_words(seed, stream), counter=_words(0, 0, second, sample))
        row[:] = np.random.Generator(generator).random(_DRAWS)
    return draws


def _words(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)  # as a list, NumPy would make int64 or float64 of large ones


def _centred(images: np.ndarray, size: int) -> np.ndarray:
    """Return images as float32 in a black square, (n, size, size, C); half a pixel more below and to the right."""
    if images.ndim != 4 or images.shape[3] not in (1, 3) or images.dtype != np.uint8:
        raise ValueError(f"images must be (n, H, W, 1 or 3) uint8, got {images.shape} {images.dtype}")
    count, height, width, channels = images.shape
    if max(height, width) > size:
        raise ValueError(f"images of {height}x{width} pixels do not fit {size}x{size}; load them with size={size}")
    top, left = (size - height) // 2, (size - width) // 2
    batch = np.zeros((count, size, size, channels), np.float32)
    batch[:, top : top + height, left : left + width] = images
    return batch


def _warped(batch: np.ndarray, linear: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return what pixel p, relative to the centre, shows of the image: its pixel A p + b. Shapes stay.

    Sampling at given positions is what the deformable operators do: DCNv3 with one tap, modulation 1, and the way to
    A p + b as its offset. It samples one tall image, in which the images of the batch stand one below the other with
    a black row after each: one call for all is several times faster than one for each. Positions are cut off at the
    first pixel outside the image, which is black as all beyond it, so that none reaches a neighbour.
    """
    count, size, _, channels = batch.shape
    if not count:
        return batch
    tall = np.zeros((count, size + 1, size, channels), np.float32)
    tall[:, :size] = batch
    centre = np.float32((size - 1) / 2)
    y = np.arange(size + 1, dtype=np.float32)[:, None] - centre  # (size + 1, 1); the black rows are sampled too
    x = np.arange(size, dtype=np.float32)[None, :] - centre  # (1, size)
    # Written out: a matrix product may round otherwise in a batch of another size.
    a = linear[:, :, :, None, None]  # (n, 2, 2, 1, 1)
    b = shift[:, :, None, None]  # (n, 2, 1, 1)
    offset = np.empty((count, size + 1, size, 2), np.float32)  # (y, x)
    for axis, own in enumerate((y, x)):
        position = a[:, axis, 0] * y + a[:, axis, 1] * x + b[:, axis]  # (n, size + 1, size)
        offset[..., axis] = np.clip(position, -1 - centre, size - centre) - own
    packed = packed_offset(offset.reshape(1, -1, size, 1, 1, 2), layout="dcnv3")
    modulation = np.ones((1, count * (size + 1), size, 1), np.float32)
    # Always the same backend: a training must see the same images on every machine.
    one_tap: dict[str, Any] = {"kernel_size": 1, "padding": 0, "backend": "numpy"}
    warped = dcnv3(tall.reshape(1, -1, size, channels), packed, modulation, **one_tap)
    return warped.reshape(tall.shape)[:, :size]


def _normalised(batch: np.ndarray) -> np.ndarray:
    """Return (x / 255 - MEAN) / STD, as three colours and channels first, (n, 3, size, size)."""
    scaled = (batch - np.float32(255 * MEAN)) / np.float32(255 * STD)
    count, height, width, _ = batch.shape
    return np.ascontiguousarray(np.broadcast_to(scaled.transpose(0, 3, 1, 2), (count, 3, height, width)))
