""".safetensors and .npz as others write them, and how a format is told."""

import json
import zipfile

import numpy as np
import pytest
from checkpoint_files import safetensors, tensor, torch_legacy, torch_zip, zip_of

import dcnlab

ARRAYS = {
    "f8": np.linspace(-1, 1, 7),
    "f4": np.float32([[1, np.nan], [np.inf, -0.0]]),
    "f2": np.float16([0.1]),
    "i8": np.array(-(2**60)),
    "i4": np.int32([[[1]]]),
    "i2": np.int16([-3, 3]),
    "i1": np.int8([-128]),
    "u1": np.uint8([255, 0, 7]),
    "bool": np.array([True, False]),
    "empty": np.zeros((3, 0), np.float32),
}


@pytest.fixture
def judge():
    """The library of the .safetensors format."""
    return pytest.importorskip("safetensors.numpy", reason="not installed: pip install safetensors")


def assert_same(loaded, expected):
    assert set(loaded) == set(expected)
    for name, array in expected.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert loaded[name].tobytes() == array.tobytes(), name


def test_what_the_library_of_the_format_writes(load, judge):
    assert_same(load(judge.save(ARRAYS, metadata={"format": "np"}), "x.safetensors"), ARRAYS)


def test_bfloat16(load):
    bits = np.uint16([0x3F80, 0xC020, 0x0001, 0x7F80, 0x7FC1])
    header = {"w": {"dtype": "BF16", "shape": [5], "data_offsets": [0, 10]}}
    loaded = load(safetensors(json.dumps(header).encode(), bits.tobytes()))["w"]
    assert loaded.dtype == np.float32
    assert loaded[:4].tolist() == [1, -2.5, 2.0**-133, np.inf]
    assert np.isnan(loaded[4])


def test_tensors_across_word_boundaries_are_copied(load):
    header = {
        "b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "w": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    loaded = load(safetensors(json.dumps(header).encode(), b"\7" + np.float32([1, 2]).tobytes()))
    assert loaded["w"].flags.aligned
    assert loaded["w"].tolist() == [1, 2]


def test_the_order_is_that_of_the_header(load):
    header = {n: {"dtype": "U8", "shape": [1], "data_offsets": o} for n, o in (("z", [1, 2]), ("a", [0, 1]))}
    loaded = load(safetensors(json.dumps(header).encode() + b"   ", b"\1\2"))
    assert [(name, int(array[0])) for name, array in loaded.items()] == [("z", 2), ("a", 1)]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes(save, tmp_path):
    arrays = {**ARRAYS, "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "a/b.c": np.arange(3)}
    save(tmp_path / "x.npz", **arrays)
    loaded = dcnlab.load_checkpoint(tmp_path / "x.npz")
    assert list(loaded) == list(arrays)
    assert_same(loaded, arrays)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in loaded.values())


def test_big_endian_npz_comes_back_native(load, tmp_path):
    np.savez(tmp_path / "x.npz", w=np.arange(3, dtype=">f4"), n=np.array(5, ">i8"))
    loaded = dcnlab.load_checkpoint(tmp_path / "x.npz")
    assert_same(loaded, {"w": np.arange(3, dtype=np.float32), "n": np.array(5)})


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions_of_npy(version, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive, archive.open("w.npy", "w") as member:
        np.lib.format.write_array(member, np.arange(4), version)
    assert dcnlab.load_checkpoint(tmp_path / "x.npz")["w"].tolist() == [0, 1, 2, 3]


def test_the_content_tells_the_format_not_the_name(load, judge, tmp_path):
    w = np.float32([1, 2])
    np.savez(tmp_path / "made.npz", w=w)
    contents = [
        torch_zip({"w": tensor(w)}),
        torch_legacy({"w": tensor(w)}),
        judge.save({"w": w}),
        (tmp_path / "made.npz").read_bytes(),
    ]
    for content in contents:
        for name in ("x.pth", "x.npz", "x.bin", "x"):
            assert_same(load(content, name), {"w": w})


def test_a_safetensors_header_of_128_bytes_is_no_pickle(load, judge):
    """Its first byte is that of a pickle."""
    made = judge.save({"w": np.float32([3])}, metadata={"pad": "x" * 40})
    length = int.from_bytes(made[:8], "little")
    header = made[8 : 8 + length].rstrip().ljust(128)
    assert len(header) == 128
    assert load(safetensors(header, made[8 + length :]))["w"].tolist() == [3]


def test_empty_archives(load):
    assert load(zip_of([]), "x.npz") == {}
    assert load(safetensors(b"{}"), "x.safetensors") == {}
