"""Costs: formulas against products that were counted one by one, and measurements of what is known."""

import numpy as np
import pytest
from study.counting import Counted, instrument

from dcnlab import nn
from dcnlab.bench import timing
from dcnlab.study import operator_costs as costs
from dcnlab.study.operator_layers import channels_last

CASES = {
    "global attention": (lambda: nn.MultiHeadSelfAttention(4, 2, rng=0), (3, 4)),
    "windows": (lambda: nn.WindowAttention(4, 2, 2, rng=0), (4, 6)),
    "uneven windows": (lambda: nn.WindowAttention(4, 1, (2, 3), rng=0), (3, 5)),
    "depthwise": (lambda: channels_last(nn.DepthwiseConv2d(4, (3, 5), padding=(1, 2), rng=0)), (3, 4)),
    "merged large kernel": (lambda: channels_last(nn.LargeKernelConv2d(2, 7, 3, rng=0).eval().merged()), (3, 3)),
    "dcnv3": (lambda: nn.DCNv3(4, groups=2, rng=0), (4, 5)),
    "dcnv3 without centre": (lambda: nn.DCNv3(4, groups=1, remove_center=True, dw_kernel_size=5, rng=0), (4, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_formula_is_the_number_of_products(name, monkeypatch):
    make, size = CASES[name]
    layer = make()
    x = np.random.default_rng(1).standard_normal((1, *size, _channels(layer))).astype(np.float32)
    expected = layer(x)
    instrument(monkeypatch)
    if isinstance(layer, nn.DCNv3):
        _read_four_corners(layer, monkeypatch)
    monkeypatch.setattr(Counted, "products", 0)
    found = layer(x)
    assert Counted.products == costs.multiply_adds(layer, *size).total
    if not isinstance(layer, nn.DCNv3):
        np.testing.assert_allclose(found, expected, atol=1e-5)  # sums of at most 50 products of float32


def _read_four_corners(layer, monkeypatch):
    """Let every tap read between four pixels inside the image, wherever its pixel is: at (1.5, 1.5)."""
    from dcnlab.reference import loops

    corners = loops.corners
    monkeypatch.setattr(loops, "corners", lambda y, x, height, width: corners((1, 0.5), (1, 0.5), height, width))


def _channels(layer):
    if isinstance(layer, nn.Sequential):
        return len(layer[1].weight.value)
    return layer.channels if isinstance(layer, nn.DCNv3) else layer.dim


def test_mixing_and_projections():
    n, c = 6 * 5, 8
    assert costs.multiply_adds(nn.MultiHeadSelfAttention(c, 2), 6, 5) == (2 * c * n * n, 4 * c * c * n)
    assert costs.multiply_adds(nn.DCNv3(c, groups=2), 6, 5).projections == 2 * c * c * n
    assert costs.multiply_adds(channels_last(nn.DepthwiseConv2d(c, 31, padding=15)), 6, 5) == (961 * c * n, 0)


def test_a_layer_without_a_formula_is_refused():
    with pytest.raises(TypeError, match="no formula for GELU"):
        costs.multiply_adds(nn.Sequential(nn.ToChannelsFirst(), nn.GELU()), 4, 4)


@pytest.mark.parametrize(
    "layer",
    [nn.DepthwiseConv2d(4, 3), nn.DepthwiseConv2d(4, 3, 2, 1), nn.DCNv3(4, stride=2)],
    ids=["no padding", "stride 2", "DCNv3, stride 2"],
)
def test_a_layer_of_another_output_size_is_refused(layer):
    with pytest.raises(ValueError, match=r"must keep the size, it makes \(\d, \d\) of \(6, 8\)"):
        costs.multiply_adds(layer, 6, 8)


# -- memory --------------------------------------------------------------------------------------------------------


def test_peak_bytes_is_what_is_held_at_once():
    def one_after_the_other():
        for _ in range(3):
            np.ones(100_000)

    def at_once():
        return [np.ones(100_000) for _ in range(3)]

    def freed():
        np.ones(200_000).sum()
        return np.ones(100_000)

    for call, expected in ((one_after_the_other, 8e5), (at_once, 24e5), (freed, 16e5)):
        assert expected <= costs.peak_bytes(call) < expected + 2e4, call.__name__


def test_peak_bytes_ends_the_tracing_when_the_call_fails():
    import tracemalloc

    with pytest.raises(ZeroDivisionError):
        costs.peak_bytes(lambda: 1 / 0)
    assert not tracemalloc.is_tracing()


def test_kept_bytes_of_attention():
    """The input, queries, keys and values, and the attended values: 5 C numbers a pixel; the scores are not kept."""
    layer = nn.MultiHeadSelfAttention(8, 2, rng=0)
    layer(np.zeros((1, 6, 5, 8), np.float32))
    assert costs.kept_bytes(layer) == 5 * 8 * 30 * 4


def test_an_array_that_two_layers_keep_counts_once():
    layer = nn.Sequential(nn.ToChannelsFirst(), nn.GELU(), nn.ToChannelsLast())
    pair = nn.Sequential(nn.LayerScale(3), nn.Sequential(nn.Dropout(0.0), nn.GELU()))
    x = np.ones((2, 4, 5, 3), np.float32)
    layer(x)
    pair(x)
    assert costs.kept_bytes(layer) == x.nbytes
    assert costs.kept_bytes(pair) == 2 * x.nbytes
    shared = nn.Sequential(nn.Dropout(0.0), nn.GELU(), nn.Dropout(0.0))
    shared(x)
    assert costs.kept_bytes(shared) == x.nbytes


def test_measure(monkeypatch):
    """Each layer at every point has a time, a peak that holds what was kept, and is left with nothing."""
    layers = {"attention": nn.MultiHeadSelfAttention(8, 2, rng=0), "windows": nn.WindowAttention(8, 2, 4, rng=0)}
    x = np.random.default_rng(0).standard_normal((1, 16, 16, 8)).astype(np.float32)
    found = costs.measure(layers, x, rounds=1)
    assert list(found) == list(layers)
    scores = 2 * 256 * 256 * 4
    for name, point in found.items():
        assert point.forward_ms > 0
        assert point.peak > point.kept - x.nbytes > 0, name
        with pytest.raises(RuntimeError, match="no forward pass"):
            layers[name].kept()
    assert found["attention"].peak > 2 * scores > 4 * found["windows"].peak


def test_times_are_the_median(monkeypatch):
    clock = iter(np.cumsum([9, 0, 1, 0, 5, 0, 3]))  # the warm-up only starts the clock
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    layer = nn.GELU()
    assert costs.measure({"gelu": layer}, np.ones((1, 2, 2, 3), np.float32), rounds=3)["gelu"].forward_ms == 3000


def test_what_would_take_too_much_is_not_affordable():
    point = costs.Point
    assert costs.affordable([])
    assert costs.affordable([point(0, 10**12, 1e9)])  # nothing is known about growth yet
    assert costs.affordable([point(0, 10**8, 1.0), point(0, 4 * 10**8, 1.0)])  # 1.6 GB
    assert not costs.affordable([point(0, 10**8, 1.0), point(0, 5 * 10**8, 1.0)])  # 2.5 GB
    assert not costs.affordable([point(0, 1, 100.0), point(0, 1, 500.0)])  # 2.5 s
    assert not costs.affordable([point(0, 1, 5000.0), point(0, 1, 2500.0)])  # noise does not promise a speed-up


# -- growth --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_exponent(power):
    sides = [3, 7, 14, 28]
    values = [1e9, *(5 * (side**2) ** power for side in sides[1:])]  # the first one is not among those fitted
    assert costs.exponent(sides, values) == pytest.approx(power, abs=1e-12)


def test_exponent_of_two_points():
    assert costs.exponent([7, 14], [1, 16]) == pytest.approx(2)


def test_crossover_by_hand():
    """Attention needs 4 C + 2 n for each pixel and channel, a k x k kernel k^2."""
    attention, kernel = nn.MultiHeadSelfAttention(64, 4), channels_last(nn.DepthwiseConv2d(64, 31, padding=15))
    # 256 + 2 n > 961 from n = 353 on: 18 * 18 = 324, 19 * 19 = 361.
    assert costs.crossover(attention, kernel) == 19
    assert costs.crossover(kernel, attention) is None
    assert costs.crossover(attention, channels_last(nn.DepthwiseConv2d(64, 3, padding=1))) == 1
