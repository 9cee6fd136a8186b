import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dcnlab.demo import DemoError
from dcnlab.demo.photo import DETAIL, read_photo

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(PIXELS).resize((16, 12)).resize((80, 60)))


def saved(tmp_path, image, name="photo.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_the_default_is_matplotlibs_photo():
    photo = read_photo(None, 160)
    assert photo.grey.shape == (160, 137)
    assert photo.large.shape == (DETAIL * 160, DETAIL * 137, 3)
    assert 0 <= photo.rgb.min() < photo.rgb.max() <= 1
    np.testing.assert_allclose(photo.grey, photo.rgb @ [0.299, 0.587, 0.114])


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "HSV"])
def test_every_mode_of_an_image_is_read(tmp_path, mode):
    image = Image.fromarray(SMOOTH).convert("RGB").convert(mode)
    suffix = "tif" if mode in ("CMYK",) else "png"
    path = saved(tmp_path, image if mode != "HSV" else image.convert("RGB"), f"photo.{suffix}")
    photo = read_photo(path, 80)
    assert photo.grey.shape == (60, 80)
    expected = np.asarray(Image.open(path).convert("RGB")) / 255
    np.testing.assert_allclose(photo.rgb, expected, atol=0.02)


def test_sixteen_bits_keep_their_shades(tmp_path):
    values = (np.linspace(0, 1, 80)[None] * np.ones((60, 1)) * 40_000).astype(np.uint16)
    photo = read_photo(saved(tmp_path, Image.fromarray(values)), 80)
    np.testing.assert_allclose(photo.grey[0], np.linspace(0, 1, 80), atol=1 / 255)


def test_transparency_is_put_on_white(tmp_path):
    pixels = np.dstack([SMOOTH, np.full((60, 80), 255, np.uint8)])
    pixels[:20, :, :3], pixels[:20, :, 3] = 0, 0
    photo = read_photo(saved(tmp_path, Image.fromarray(pixels)), 80)
    np.testing.assert_array_equal(photo.rgb[:20], 1.0)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    path = saved(tmp_path, Image.fromarray(SMOOTH), "photo.jpg", exif=exif)
    assert read_photo(path, 80).grey.shape == (80, 60)


def test_panoramas_are_cropped_to_their_middle(tmp_path):
    wide = np.zeros((40, 400, 3), np.uint8)
    wide[:, 160:240] = RNG.integers(0, 256, (40, 80, 3))
    photo = read_photo(saved(tmp_path, Image.fromarray(wide)), 80)
    assert photo.grey.shape == (40, 80)
    assert photo.grey.std(axis=0).min() > 0.1


def test_large_images_are_read(tmp_path):
    big = Image.fromarray(SMOOTH).resize((5000, 3750))
    assert read_photo(saved(tmp_path, big, "photo.jpg"), 80).grey.shape == (60, 80)


def _png_of_size(width, height):
    """A PNG whose header promises `width` x `height` pixels, and whose data is missing."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def bad_file(kind, tmp_path):
    path = tmp_path / f"{kind}.png"
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "truncated":
        Image.fromarray(PIXELS).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "postscript":
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nshowpage\n")
    elif kind == "tiny":
        Image.fromarray(PIXELS[:8, :8]).save(path)
    elif kind == "flat":
        Image.new("L", (80, 80), 90).save(path)
    elif kind == "invisible":
        Image.fromarray(np.dstack([PIXELS, np.zeros((60, 80), np.uint8)])).save(path)
    elif kind == "not finite":
        Image.fromarray(np.full((40, 40), np.nan, np.float32)).save(path, "TIFF")
    else:
        content = {
            "empty": b"",
            "text": b"not an image\n" * 99,
            "bomb": _png_of_size(60_000, 60_000),
            "big": _png_of_size(9_000, 9_000),
            "headless": _png_of_size(80, 80),
            "script": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        }
        path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "No such file"),
        ("folder", "not a regular file"),
        ("pipe", "not a regular file"),
        ("empty", "not an image"),
        ("text", "not an image"),
        ("script", "not an image"),
        ("postscript", "not an image"),
        ("truncated", "cannot read"),
        ("headless", "cannot read"),
        ("bomb", "pixels"),
        ("big", "9000x9000 pixels: at most"),
        ("tiny", "8x8 pixels: at least 32"),
        ("flat", "one flat colour"),
        ("invisible", "one flat colour"),
        ("not finite", "not finite"),
    ],
)
def test_bad_files_get_one_line(tmp_path, kind, message):
    path = bad_file(kind, tmp_path)
    with pytest.raises(DemoError, match=message) as caught:
        read_photo(path, 80)
    assert "\n" not in str(caught.value)
    assert kind in str(caught.value)  # the file is named


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_get_one_line(tmp_path):
    path = saved(tmp_path, Image.fromarray(PIXELS))
    path.chmod(0)
    with pytest.raises(DemoError, match="Permission denied"):
        read_photo(path, 80)


def test_names_with_line_breaks_stay_on_one_line(tmp_path):
    with pytest.raises(DemoError) as caught:
        read_photo(tmp_path / "a\nb\x00.png", 80)
    assert "\n" not in str(caught.value)
