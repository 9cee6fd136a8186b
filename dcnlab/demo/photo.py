"""Reading a photo safely: whatever the file holds, there is a picture or a one-line error."""

from __future__ import annotations

import os
import stat
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# Formats that Pillow decodes by itself. Others are left out on purpose: EPS, for one, starts another program.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MOST_PIXELS = 80_000_000  # below Pillow's own limit for decompression bombs
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
    from PIL import Image as pillow

    shown = repr(path)  # keeps strange names on one line
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe or a device could block for ever
            raise DemoError(f"cannot read {shown}: not a regular file")
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata, and the size that is checked here
            with pillow.open(file, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise DemoError(
                        f"{shown} has {image.width}x{image.height} pixels: at most {MOST_PIXELS} can be read"
                    )
                if min(image.size) < SMALLEST_SIDE:
                    raise DemoError(
                        f"{shown} has {image.width}x{image.height} pixels: at least {SMALLEST_SIDE} each way are needed"
                    )
                image.draft("RGB", (1024, 1024))  # lets a large JPEG be decoded at a fraction of its size
                return _to_rgb(image)
    except DemoError:
        raise
    except pillow.UnidentifiedImageError:
        raise DemoError(f"cannot read {shown}: not an image in a known format ({', '.join(FORMATS)})") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise DemoError(f"cannot read {shown}: {_one_line(reason)}") from None
    except Exception as error:  # a damaged file can raise anything inside a decoder
        raise DemoError(f"cannot read {shown}: {_one_line(f'{type(error).__name__}: {error}')}") from None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _to_rgb(image: Any) -> Image:
    """Return any mode as 8-bit RGB, the right way up."""
    from PIL import Image as pillow
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # more than 8 bits: a plain conversion would cut them off
        values = np.asarray(image, dtype=np.float64)
        brightest = values.max()
        if not np.isfinite(values).all():
            raise ValueError("it holds pixels that are not finite numbers")
        scaled = np.clip(values / brightest if brightest > 0 else values, 0, 1)
        return pillow.fromarray((255 * scaled).round().astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = pillow.new("RGBA", image.size, "white")
        return pillow.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _crop(image: Image) -> Image:
    """Return the middle of an image that is longer than `WIDEST`."""
    width, height = image.size
    width, height = min(width, int(WIDEST * height)), min(height, int(WIDEST * width))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _resized(image: Image, width: int, height: int) -> np.ndarray:
    from PIL.Image import Resampling

    return np.asarray(image.resize((width, height), Resampling.LANCZOS), dtype=np.float64) / 255
