"""EfficientNet-Lite0 of dcnlab's layers, with the weights that others trained, sees what the photos show."""

import numpy as np
import pytest
from efficientnet_lite import ANSWERS, EfficientNetLite0, PadSame, ReLU6, pretrained

from dcnlab import nn

# Of a logit in float64: 2**-29 of the 5e-6 by which the logits in float32 differ from those in float64.
ROUNDING = 1e-14


def test_the_checkpoint_is_this_network(arrays):
    network = EfficientNetLite0()
    assert network.load_state_dict(arrays) == ([], [])
    assert list(network.state_dict()) == list(arrays)
    assert network.parameter_count() == 4_652_008


@pytest.mark.parametrize("name", [name for name, answers in ANSWERS.items() if answers])
def test_photos(name, logits):
    found = int(logits[list(ANSWERS).index(name)].argmax())
    assert found in ANSWERS[name], f"{name}: expected one of {ANSWERS[name]}, got class {found}"


def deviation(layer):
    """Return how far a batch norm's input is from its running mean, in running standard deviations, (C, H)."""
    rows, mean, variance = layer.kept().input.mean(axis=(0, 3)), layer.running_mean.value, layer.running_var.value
    return (rows - mean[:, None]) / np.sqrt(variance + layer.eps)[:, None]


def test_running_statistics_tell_how_pixels_were_prepared(arrays, images):
    """Nearer than with the mean and deviation of ImageNet's pixels, the other usual preparation."""
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)[:, :, None, None]
    network, distances = pretrained(arrays), []
    for prepared in (images[:3], ((128 * images[:3] + 127) / 255 - mean) / std):
        network(prepared)
        norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
        distances.append(np.mean([np.abs(deviation(layer).mean(axis=1)).mean() for layer in norms]))
    assert distances[0] < 0.8 * distances[1]


def test_running_statistics_tell_the_padding(arrays, images, monkeypatch):
    """The first row behind a stride is as usual with "SAME" padding; with symmetric padding it stands out."""
    network, distances = pretrained(arrays), []
    for symmetric in (False, True):
        if symmetric:
            monkeypatch.setattr(PadSame, "_margins", lambda self, size: (self.kernel_size // 2,) * 2)
        network(images[:3])
        distances.append([np.abs(deviation(b._bn1)[:, 0]).mean() for b in network._blocks if b._pad.stride == 2])
    assert len(distances[0]) == 4
    assert all(same < 0.7 * symmetric for same, symmetric in zip(*distances, strict=True)), distances


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "margins"),
    [(6, 3, 2, (0, 1)), (6, 5, 2, (1, 2)), (5, 3, 2, (1, 1)), (6, 5, 1, (2, 2))],
)
def test_same_padding(size, kernel_size, stride, margins):
    layer, image = PadSame(kernel_size, stride), np.ones((1, 1, size, size))
    padded = layer(image)
    assert np.array_equal(padded, np.pad(image, [(0, 0), (0, 0), margins, margins]))
    assert np.array_equal(layer.backward(padded), image)


@pytest.fixture(scope="module")
def network(arrays):
    return pretrained(arrays, np.float64)


def sides(network):
    """Return on which side of its kinks each ReLU6 was in the last forward pass."""
    inputs = [layer.kept().input for layer in network.modules() if isinstance(layer, ReLU6)]
    return np.concatenate([((x > 0).astype(np.int8) + (x >= 6)).reshape(-1) for x in inputs])


def along_a_linear_piece(network, image, direction):
    """Return the logits a step ahead and a step behind, and the step: so small that no ReLU6 changes sides.

    Between them the network is linear, and their difference has no error but rounding.
    """
    network(image)
    here = sides(network)
    for step in 2.0 ** -np.arange(22, 31):
        logits, linear = [], True
        for sign in (1, -1):
            logits.append(network(image + sign * step * direction))
            linear &= np.array_equal(sides(network), here)
        if linear:
            return *logits, step
    raise AssertionError("an activation stands on a kink of ReLU6: take another photo")


def test_gradient_of_the_image(network, images, monkeypatch):
    """Along a random direction, in float64; and a backward pass that is wrong by a thousandth in one layer fails."""
    rng = np.random.default_rng(1)
    image = images[[list(ANSWERS).index("coffee")]].astype(np.float64)
    direction, grad_output = rng.standard_normal(image.shape), rng.standard_normal((1, 1000))
    ahead, behind, step = along_a_linear_piece(network, image, direction)
    slope = ((ahead - behind) * grad_output).sum() / (2 * step)
    network(image)
    norm = np.linalg.norm(network.backward(grad_output))
    bound = ROUNDING * np.linalg.norm(grad_output) / (step * norm)

    def error():
        return abs((network.backward(grad_output) * direction).sum() - slope) / norm

    assert error() < bound < 1e-5
    layer = network._blocks[8]._depthwise_conv
    right = layer.backward
    monkeypatch.setattr(layer, "backward", lambda grad: 1.001 * right(grad))
    assert error() > 10 * bound
