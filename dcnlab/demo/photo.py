"""The demo's photo: a picture of the size it works with, or a one-line error."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dcnlab.images import read_image

if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST_SIDE = 32
WIDEST = 2.0  # longer images are cropped to this aspect
FLATTEST = 0.01  # standard deviation of the brightness, 0 to 1
DETAIL = 3  # the photos of the report have this many times the working size


class DemoError(ValueError):
    """The demo cannot run with what it was given; the message is one line."""


class Photo(NamedTuple):
    """A photo at the size the demo works with, and larger for the report.

    Attributes
    ----------
    name : str, for people
    grey : (H, W), brightness in 0..1
    rgb : (H, W, 3), in 0..1
    large : (DETAIL*H, DETAIL*W, 3), in 0..1
    """

    name: str
    grey: np.ndarray
    rgb: np.ndarray
    large: np.ndarray


def read_photo(path: str | os.PathLike[str] | None, size: int) -> Photo:
    """Read an image file, and bring its longer side to `size` pixels.

    Parameters
    ----------
    path : path or None
        PNG, JPEG, WebP, BMP, GIF (its first frame), TIFF or PNM; None is the photograph that ships inside
        matplotlib. Transparency is put on white, 16-bit and floating-point images are scaled to their brightest
        pixel, images longer than 2:1 are cropped to their middle.
    size : int
        At least 48.

    Raises
    ------
    DemoError
        For anything that is not an image of at least 32 by 32 pixels with some structure in it.
    """
    name = "Grace Hopper (matplotlib's sample photo)" if path is None else os.path.basename(os.fspath(path))
    image = _crop(_decode(_sample_path() if path is None else os.fspath(path)))
    shape = [max(1, round(side * size / max(image.size))) for side in image.size]
    rgb, large = (_resized(image, factor * shape[0], factor * shape[1]) for factor in (1, DETAIL))
    grey = rgb @ np.array([0.299, 0.587, 0.114])
    if grey.std() < FLATTEST:
        raise DemoError(
            f"{name!r} is one flat colour (its brightness varies by {grey.std():.4f} of 1, at least {FLATTEST} is "
            "needed): without structure no offset can be learned; give a photo"
        )
    return Photo(name, grey, rgb, large)


def _sample_path() -> str:
    from matplotlib import cbook

    try:
        return str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    except OSError:
        raise DemoError("this matplotlib comes without its sample photo; name an image: dcnlab demo IMAGE") from None


def _decode(path: str) -> Image:
    """Return the image of a file as RGB."""
    try:
        return read_image(path, SMALLEST_SIDE, draft=1024)
    except ValueError as error:
        raise DemoError(str(error)) from None


def _crop(image: Image) -> Image:
    """Return the middle of an image that is longer than `WIDEST`."""
    width, height = image.size
    width, height = min(width, int(WIDEST * height)), min(height, int(WIDEST * width))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _resized(image: Image, width: int, height: int) -> np.ndarray:
    from PIL.Image import Resampling

    return np.asarray(image.resize((width, height), Resampling.LANCZOS), dtype=np.float64) / 255
