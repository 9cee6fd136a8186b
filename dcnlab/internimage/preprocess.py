"""From a photo to what an InternImage takes: the preprocessing that the published accuracies were measured with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from dcnlab.images import read_image, to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

    Photo = str | os.PathLike[str] | Image | np.ndarray

# Of ImageNet, red, green, blue, for brightness in 0..1.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SIDES = (8, 4096)  # pixels: what a size may be
LONGEST = 20  # times the shorter side; resizing more than that needs memory out of proportion


def preprocess(image: Photo, size: int) -> np.ndarray:
    """Return a photo as the batch of one image that an InternImage classifies.

    ``(cropped / 255 - mean) / std`` for each colour, where `cropped` is what `crop` returns.

    Parameters
    ----------
    image, size
        As in `crop`.

    Returns
    -------
    (1, 3, size, size) float32

    Notes
    -----
    Agrees with the validation transform of OpenGVLab/InternImage (classification/dataset/build.py, with its default
    settings). The preprocessor of the models on Hugging Face does the same, but rounds the half pixel of the crop down.

    Examples
    --------
    >>> white = np.full((40, 30, 3), 255, np.uint8)
    >>> x = preprocess(white, 32)
    >>> x.shape, x.dtype, [round(float(v), 4) for v in x[0, :, 0, 0]]
    ((1, 3, 32, 32), dtype('float32'), [2.2489, 2.4286, 2.64])
    """
    scaled = crop(image, size).astype(np.float32) / np.float32(255)
    normal = (scaled - np.array(MEAN, np.float32)) / np.array(STD, np.float32)  # (size, size, 3)
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None])


def crop(image: Photo, size: int) -> np.ndarray:
    """Return the square in the middle of a photo, as the model sees it.

    The shorter side is resized to `size` pixels and the longer one in proportion, rounded down (bicubic, Pillow's,
    which widens its filter to avoid aliasing where it makes a photo smaller). Then the middle `size` x `size` pixels
    are cut out; where that leaves half a pixel, it is rounded to even.

    Parameters
    ----------
    image : path, Pillow image, or (H, W, 3) or (H, W) uint8
    size : int

    Returns
    -------
    (size, size, 3) uint8

    Raises
    ------
    ValueError, TypeError
        One line: for a file that is no image (see `dcnlab.images.read_image`), another array, another size.
    """
    from PIL.Image import Resampling

    check_size(size)
    photo = _as_rgb(image)
    shorter, longer = sorted(photo.size)
    if longer > LONGEST * shorter:
        raise ValueError(
            f"a photo may be {LONGEST} times as long as wide, this one has {photo.width}x{photo.height} pixels"
        )
    width, height = (size if side == shorter else size * side // shorter for side in photo.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = photo.resize((width, height), Resampling.BICUBIC)
    return np.array(resized.crop((left, top, left + size, top + size)))


def check_size(size: int) -> None:
    """Refuse a size that no image can have."""
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
        raise TypeError(f"size must be an int, got {size!r}")
    if not SIDES[0] <= size <= SIDES[1]:
        raise ValueError(f"size must be in {SIDES[0]}..{SIDES[1]}, got {size}")


def _as_rgb(image: Photo) -> Image:
    from PIL import Image as pillow

    if isinstance(image, pillow.Image):
        return to_rgb(image)
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or 0 in array.shape:
        raise ValueError(
            f"a photo is a path, a Pillow image or a uint8 array (H, W, 3) or (H, W), got {array.dtype} {array.shape}"
        )
    return pillow.fromarray(array).convert("RGB")
