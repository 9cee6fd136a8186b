"""The large kernel with a small one beside it, and the one kernel that both can be merged into."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nn.layers import randomise

from dcnlab import nn

odd = st.sampled_from((1, 3, 5, 7))


def random_layer(*arguments, dtype=np.float64, seed=0):
    """A layer whose batch norms have statistics of their own."""
    layer = nn.LargeKernelConv2d(*arguments, dtype=dtype, rng=seed)
    randomise(layer, np.random.default_rng(seed))
    return layer


@given(odd, odd, odd, odd, st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(0, 99))
@settings(max_examples=40)
def test_the_merged_convolution_computes_the_same_in_inference(a, b, c, d, size, seed):
    large, small = (max(a, c), max(b, d)), (min(a, c), min(b, d))
    layer = random_layer(3, large, small, seed=seed).eval()
    x = np.random.default_rng(seed).standard_normal((2, 3, *size))
    # Sums of up to 2 * 49 products, of weights and pixels of a few units each: 1e2 * 2e-16, and room.
    np.testing.assert_allclose(layer.merged()(x), layer(x), rtol=0, atol=1e-12)


def test_the_published_size():
    layer = random_layer(2).eval()
    assert (layer.kernel_size, layer.small_kernel_size) == ((31, 31), (5, 5))
    x = np.random.default_rng(1).standard_normal((1, 2, 20, 33))
    expected = layer(x)
    assert expected.shape == x.shape
    np.testing.assert_allclose(layer.merged()(x), expected, rtol=0, atol=1e-12)


def test_the_branches_are_what_their_names_say():
    """Against the layers that they are made of, in training mode too."""
    layer = random_layer(3, 7, 3)
    x = np.random.default_rng(2).standard_normal((2, 3, 6, 5))
    expected = 0
    for branch, size in ((layer.lkb_origin, 7), (layer.small_conv, 3)):
        conv = nn.DepthwiseConv2d(3, size, padding=size // 2, bias=False, dtype=np.float64)
        conv.load_state_dict(branch.conv.state_dict())
        norm = nn.BatchNorm2d(3, dtype=np.float64)
        norm.load_state_dict(branch.bn.state_dict())
        expected = expected + norm(conv(x))
    np.testing.assert_array_equal(layer(x), expected)


def test_batch_statistics_are_not_those_of_inference():
    """Merging holds for inference only: training normalises with the batch."""
    layer = random_layer(3, 7, 3)
    x = np.random.default_rng(3).standard_normal((2, 3, 6, 5))
    assert abs(layer.merged()(x) - layer(x)).max() > 0.1


def test_published_names():
    names = ["conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"]
    expected = [f"{branch}.{name}" for branch in ("lkb_origin", "small_conv") for name in names]
    assert list(nn.LargeKernelConv2d(2, 7, 3).state_dict()) == expected


def test_the_merged_convolution_is_a_layer_of_its_own():
    layer = random_layer(2, 5, 3, dtype=np.float32).eval()
    merged = layer.merged()
    assert not merged.training
    assert {a.dtype for a in merged.state_dict().values()} == {np.dtype(np.float32)}
    before = {name: array.copy() for name, array in layer.state_dict().items()}
    merged.weight.value += 1
    merged.bias.value += 1
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((30, 5), r"kernel_size must be odd, to have a centre, got \(30, 30\)"),
        ((31, (5, 4)), r"small_kernel_size must be odd, to have a centre, got \(5, 4\)"),
        (((31, 3), 5), r"small_kernel_size must be at most kernel_size = \(31, 3\), got \(5, 5\)"),
        ((0, 5), "kernel_size"),
    ],
)
def test_kernels_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        nn.LargeKernelConv2d(4, *sizes)


def test_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="C"):
        nn.LargeKernelConv2d(4, 7, 3)(np.zeros((1, 5, 8, 8), np.float32))


def test_what_is_not_finite_gives_no_warning():
    """Warnings are errors here: infinite values of both signs, and nan, go through."""
    layer = random_layer(1, 3, 1).eval()
    x = np.array([[[[np.inf, -np.inf, np.nan, 1.0, 1.0, 1.0]]]])
    output = layer(x)
    assert np.isfinite(output[0, 0, 0, -2:]).all()
    assert not np.isfinite(output[0, 0, 0, :4]).any()
    layer.backward(np.full(x.shape, np.inf))
