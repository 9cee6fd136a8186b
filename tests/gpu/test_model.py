"""The model runs unchanged on CuPy arrays, by the kernels; and the probes count right there."""

import numpy as np
import pytest
from golden_nets import golden, load_net
from helpers import assert_close

import dcnlab
from dcnlab.arrays import as_numpy, is_cupy
from dcnlab.bench.gpu import ceilings
from dcnlab.bench.gpu.device import CudaDevice

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", ["net_h", "net_t"])
def test_golden_networks(cupy, name):
    model, data = load_net(name, "float64"), golden(name, "float64")
    model.to(cupy)
    logits = model(cupy.asarray(data["input"]))  # CuPy arrays choose the backend "cuda"
    grad = model.backward(cupy.asarray(data["grad_logits"]))
    assert is_cupy(logits)
    assert is_cupy(grad)
    assert_close(as_numpy(logits), data["logits"])
    assert_close(as_numpy(grad), data["grad_input"])


def test_there_and_back_again(cupy):
    model = dcnlab.InternImage(8, [1, 1, 1, 1], [1, 2, 4, 8], num_classes=3, rng=0).eval()
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
    before = model(images)
    assert_close(as_numpy(model.to(cupy)(cupy.asarray(images))), before.astype(float))
    assert np.array_equal(model.to(np)(images), before)


@pytest.mark.parametrize("probe", ceilings.PROBES, ids=lambda p: p.name)
def test_probes(cupy, probe):
    assert ceilings.is_right(probe, CudaDevice())
