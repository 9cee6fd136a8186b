"""The DCNv3 layer against the published one: output, intermediates, every gradient."""

import numpy as np
import pytest
from helpers import GOLDEN, assert_close

from dcnlab import nn

pytestmark = pytest.mark.usefixtures("each_backend")

FILES = sorted((GOLDEN / "dcnv3").glob("module_*.npz"))


def golden_layer(path, dtype):
    """Return the layer with the weights of a file, and the file's arrays."""
    data = dict(np.load(path, allow_pickle=False))
    layer = nn.DCNv3(
        int(data["channels"]),
        int(data["kernel_size"]),
        int(data["dw_kernel_size"]),
        padding=int(data["pad"]),
        dilation=int(data["dilation"]),
        groups=int(data["group"]),
        offset_scale=float(data["offset_scale"]),
        center_feature_scale=bool(data["center_feature_scale"]),
        remove_center=bool(data["remove_center"]),
        dtype=dtype,
    )
    layer.load_state_dict({key.removeprefix("param."): a for key, a in data.items() if key.startswith("param.")})
    return layer, data


def test_the_golden_files_are_there():
    assert len(FILES) == 3


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_dcnv3_layer(path, dtype):
    layer, data = golden_layer(path, dtype)
    output = layer(data["input"].astype(dtype))
    assert output.dtype == dtype
    assert_close(output, data["output"], name="output")
    kept = layer.kept()
    assert_close(kept.features, data["inter.dw"], name="features")
    assert_close(kept.offset, data["inter.offset"], name="offset")
    assert_close(kept.mask.reshape(data["inter.mask"].shape), data["inter.mask"], name="mask")

    grad_input = layer.backward(data["grad_output"].astype(dtype))
    assert_close(grad_input, data["grad_input"], name="gradient of the input")
    grads = layer.grad_dict()
    expected = {key.removeprefix("grad."): a for key, a in data.items() if key.startswith("grad.")}
    assert set(grads) == set(expected)
    for name, grad in grads.items():
        assert_close(grad, expected[name], name=f"gradient of {name}")
