"""Every golden operator file: output and every gradient, in float64 and float32."""

import numpy as np
import pytest
from helpers import GOLDEN, assert_close, expected_gradient, golden_dcnv3, golden_deform_conv2d

import dcnlab
from dcnlab.reference import loops

pytestmark = pytest.mark.usefixtures("each_backend")

V2 = sorted((GOLDEN / "dcnv2").glob("*.npz"))
V3 = sorted((GOLDEN / "dcnv3").glob("op_*.npz"))


def name(path):
    return path.stem


def test_the_golden_files_are_there():
    assert len(V2) == 14
    assert len(V3) == 12


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("path", V2, ids=name)
def test_deform_conv2d(path, dtype):
    arrays, settings, data = golden_deform_conv2d(path)
    arrays = {key: array.astype(dtype) for key, array in arrays.items()}
    output = dcnlab.deform_conv2d(**arrays, **settings)
    assert output.dtype == dtype
    assert_close(output, data["output"], name="output")
    if "grad_output" in data:
        grads = dcnlab.deform_conv2d_backward(data["grad_output"].astype(dtype), **arrays, **settings)
        for key in arrays:
            assert_close(getattr(grads, key), expected_gradient(data, key), name=f"gradient of {key}")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("path", V3, ids=name)
def test_dcnv3(path, dtype):
    arrays, settings, data = golden_dcnv3(path)
    arrays = {key: array.astype(dtype) for key, array in arrays.items()}
    output = dcnlab.dcnv3(**arrays, **settings)
    assert output.dtype == dtype
    assert_close(output, data["output"], name="output")
    grads = dcnlab.dcnv3_backward(data["grad_output"].astype(dtype), **arrays, **settings)
    for key in arrays:
        assert_close(getattr(grads, key), expected_gradient(data, key), name=f"gradient of {key}")


@pytest.mark.parametrize("path", [p for p in V3 if "mask_logits" in np.load(p)], ids=name)
def test_gradient_through_the_softmax(path):
    arrays, settings, data = golden_dcnv3(path)
    logits, groups = data["mask_logits"], settings["groups"]
    mask = dcnlab.normalise_modulation(logits, "softmax", groups)
    assert_close(mask, data["mask"], name="mask")
    grads = dcnlab.dcnv3_backward(data["grad_output"], **arrays, **settings)
    grad_logits = dcnlab.normalise_modulation_backward(grads.mask, logits, "softmax", groups)
    assert_close(grad_logits, data["grad_mask_logits"], name="gradient of the logits")


@pytest.mark.parametrize("stem", ["v1_k3_border", "v2_k3x5_s21_p12_d12_og2", "lattice_zero_offset_pad1"])
def test_the_loops_agree_with_golden_data_too(stem):
    arrays, settings, data = golden_deform_conv2d(GOLDEN / "dcnv2" / f"{stem}.npz")
    assert_close(loops.deform_conv2d(**arrays, **settings), data["output"], name="output")
    grads = loops.deform_conv2d_backward(data["grad_output"], **arrays, **settings)
    for key in arrays:
        assert_close(getattr(grads, key), expected_gradient(data, key), name=f"gradient of {key}")


@pytest.mark.parametrize("stem", ["op_k3_border_g2", "op_k3_remove_center_g2", "op_k3_zero_os05", "op_k2_s2_p0"])
def test_the_dcnv3_loops_agree_with_golden_data_too(stem):
    arrays, settings, data = golden_dcnv3(GOLDEN / "dcnv3" / f"{stem}.npz")
    assert_close(loops.dcnv3(**arrays, **settings), data["output"], name="output")
    grads = loops.dcnv3_backward(data["grad_output"], **arrays, **settings)
    for key in arrays:
        assert_close(getattr(grads, key), expected_gradient(data, key), name=f"gradient of {key}")


def test_the_slope_at_exactly_minus_one_is_that_of_the_published_kernels_not_torchvisions():
    arrays, settings, data = golden_deform_conv2d(GOLDEN / "dcnv2" / "lattice_zero_offset_pad1.npz")
    found = dcnlab.deform_conv2d_backward(data["grad_output"], **arrays, **settings).offset
    torchvision = data["grad_offset_right_derivative"]
    differs = ~np.isclose(found, torchvision, rtol=1e-9, atol=1e-12)
    assert differs.any(), "the file is there to tell the two rules apart"
    assert (found[differs] == 0).all(), "where they differ, the sample is on the border of the open range"
