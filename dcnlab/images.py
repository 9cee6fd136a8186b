"""Reading an image file safely: whatever it holds, there is a picture or a one-line error."""

from __future__ import annotations

import os
import stat
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# Formats that Pillow decodes by itself. Others are left out on purpose: EPS, for one, starts another program.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MOST_PIXELS = 80_000_000  # below Pillow's own limit for decompression bombs


def read_image(path: str | os.PathLike[str], smallest: int = 1, draft: int | None = None) -> Image:
    """Return the picture in a file as 8-bit RGB, the right way up.

    Parameters
    ----------
    path : path
        PNG, JPEG, WebP, BMP, GIF (its first frame), TIFF or PNM. Transparency is put on white, 16-bit and
        floating-point images are scaled to their brightest pixel, EXIF orientation is applied.
    smallest : int
        Pixels that each side must have.
    draft : int, optional
        Large JPEGs may be decoded at a half, a quarter or an eighth of their size, with at least this many pixels
        each way: faster, but with slightly other values.

    Raises
    ------
    ValueError
        One line, for anything else.
    """
    from PIL import Image as pillow

    shown = repr(os.fspath(path))  # keeps strange names on one line
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe or a device could block for ever
            raise Refused(f"cannot read {shown}: not a regular file")
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata, and the size that is checked here
            with pillow.open(file, formats=FORMATS) as image:
                _check_size(shown, image.width, image.height, smallest)
                if draft is not None:
                    image.draft("RGB", (draft, draft))
                return to_rgb(image)
    except Refused:
        raise
    except pillow.UnidentifiedImageError:
        raise Refused(f"cannot read {shown}: not an image in a known format ({', '.join(FORMATS)})") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise Refused(f"cannot read {shown}: {_one_line(reason)}") from None
    except Exception as error:  # a damaged file can raise anything inside a decoder
        raise Refused(f"cannot read {shown}: {_one_line(f'{type(error).__name__}: {error}')}") from None


class Refused(ValueError):
    """A file that `read_image` cannot or will not read."""


def _check_size(shown: str, width: int, height: int, smallest: int) -> None:
    if width * height > MOST_PIXELS:
        raise Refused(f"{shown} has {width}x{height} pixels: at most {MOST_PIXELS} can be read")
    if min(width, height) < smallest:
        raise Refused(f"{shown} has {width}x{height} pixels: at least {smallest} each way are needed")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def to_rgb(image: Any) -> Image:
    """Return a Pillow image of any mode as 8-bit RGB, the right way up."""
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
