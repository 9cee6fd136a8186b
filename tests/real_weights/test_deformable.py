"""The network with a deformable convolution in place of each of its 17 convolutions with a window."""

import numpy as np
import pytest
from efficientnet_lite import make_deformable, pad_by_offset, pretrained, set_offset, windowed

from dcnlab import nn

pytestmark = pytest.mark.usefixtures("each_backend")

# A logit sums the roundings of 50 layers: those in float32 differ from float64's by 5e-6. The aim is 20 times that.
LARGEST_CHANGE = 1e-4


@pytest.fixture(params=["none", "twice_sigmoid"])
def twin(request, arrays):
    """DCNv1, and DCNv2 with a mask that is 1 at logit 0."""
    network = make_deformable(pretrained(arrays), request.param)
    assert [type(layer) for _, _, layer in windowed(network)] == [nn.DeformConv2d] * 17
    return network


def change(network, images, logits):
    with nn.no_grad():
        return np.abs(network(images) - logits).max(axis=1)


def test_zero_offsets_change_no_logit(twin, images, logits):
    assert change(twin, images, logits).max() < LARGEST_CHANGE


def test_offsets_can_take_over_the_padding(twin, images, logits):
    assert change(pad_by_offset(twin), images[:2], logits[:2]).max() < LARGEST_CHANGE


def test_other_offsets_change_the_logits(twin, images, logits):
    for _, _, layer in windowed(twin):
        set_offset(layer, 0.3)
    assert change(twin, images[:2], logits[:2]).min() > 1


@pytest.mark.parametrize("modulation", ["none", "twice_sigmoid"])
def test_gradients_are_those_of_the_convolutions(arrays, images, modulation):
    """Zero weights pass nothing back through the offsets: the image and all shared weights get the same gradients."""
    image = images[:1, :, 48:176, 48:176].astype(np.float64)  # the cat's face; any size will do, and this one is fast
    grad_output = np.random.default_rng(2).standard_normal((1, 1000))
    plain = pretrained(arrays, np.float64)
    twin = make_deformable(pretrained(arrays, np.float64), modulation)
    found = []
    for network in (plain, twin):
        network(image)
        found.append({"image": network.backward(grad_output), **network.grad_dict()})
    expected, got = found
    assert all(".conv_offset." in name for name in set(got) - set(expected))
    for name, grad in expected.items():
        assert np.linalg.norm(got[name] - grad) < 1e-12 * np.linalg.norm(grad), name
