"""Masks that depend on the sample alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strict_cupy import StrictArray, install, unwrap, wrap

from dcnlab import nn

KINDS = [nn.Dropout, nn.DropPath]
SHAPE = (3, 5)  # of one sample


def mask(layer, samples, seed=1, epoch=2):
    """Return what a layer makes of ones."""
    nn.seed_samples(layer, seed, epoch, samples)
    return layer(np.ones((len(samples), *SHAPE), np.float32))


@pytest.mark.parametrize("make", KINDS)
@given(samples=st.lists(st.integers(0, 2**63 - 1), max_size=8), cut=st.integers(0, 8), seed=st.integers(0, 2**64 - 1))
def test_the_batch_does_not_matter(make, samples, cut, seed):
    layer = make(0.5)
    samples = np.array(samples, np.int64)
    whole = mask(layer, samples, seed)
    np.testing.assert_array_equal(mask(layer, samples, seed), whole, err_msg="another call")
    np.testing.assert_array_equal(mask(layer, samples[::-1], seed), whole[::-1], err_msg="another order")
    parts = [mask(layer, part, seed) for part in (samples[:cut], samples[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole, err_msg="in parts, as by several ranks")


@pytest.mark.parametrize("make", KINDS)
def test_what_was_drawn_before_does_not_matter(make):
    samples = np.arange(50)
    layer, x = make(0.5, rng=0), np.ones((50, *SHAPE), np.float32)
    first = mask(layer, samples)
    mask(layer, samples, epoch=3)
    layer.rng.random(3)
    np.testing.assert_array_equal(mask(layer, samples), first)
    np.testing.assert_array_equal(layer(x), first, err_msg="the same batch again is the same masks")
    np.testing.assert_array_equal(mask(make(0.5, rng=9), samples), first, err_msg="nor does the layer's own generator")


@pytest.mark.parametrize("make", KINDS)
def test_seed_epoch_layer_and_sample_matter(make):
    """Two streams agree in half of n = 200 samples, to within 5 standard deviations 0.5 / sqrt(n)."""
    samples, layer, model = np.arange(200), make(0.5), nn.Sequential(nn.GELU(), make(0.5), make(0.5))
    masks = [
        mask(layer, samples),
        mask(layer, samples, seed=2),
        mask(layer, samples, epoch=3),
        mask(layer, samples, seed=2, epoch=1),
        mask(layer, samples + 200),
    ]
    nn.seed_samples(model, 1, 2, samples)
    masks += [random(np.ones((200, *SHAPE), np.float32)) for random in (model[1], model[2])]
    for i, one in enumerate(masks):
        for other in masks[i + 1 :]:
            assert abs((one == other).mean() - 0.5) < 2.5 / 200**0.5


@pytest.mark.parametrize("make", KINDS)
def test_the_share_that_is_dropped(make):
    """Of n independent draws with probability p: p to within 5 standard deviations sqrt(p (1 - p) / n)."""
    p, samples = 0.3, np.arange(4000)
    found = mask(make(p), samples) == 0
    n = found.size if make is nn.Dropout else len(samples)
    assert abs(found.mean() - p) < 5 * (p * (1 - p) / n) ** 0.5
    if make is nn.Dropout:  # neither does the place in a sample matter, nor the sample
        assert abs(found.mean(axis=0) - p).max() < 5 * (p * (1 - p) / len(samples)) ** 0.5
        assert found.mean(axis=(1, 2)).std() < 1.2 * (p * (1 - p) / np.prod(SHAPE)) ** 0.5


def test_backward_goes_through_the_same_mask():
    layer = nn.Dropout(0.5)
    output = mask(layer, [3, 1, 4])
    np.testing.assert_array_equal(layer.backward(np.ones_like(output)), output)
    nn.seed_samples(layer, 0, 0, [3, 1, 4])
    assert nn.check_layer(layer, np.random.default_rng(0).standard_normal((3, 4))).ok


def test_inference_is_unchanged_and_none_turns_back():
    x = np.ones((6, *SHAPE), np.float32)
    layer, other = nn.DropPath(0.5, rng=4), nn.DropPath(0.5, rng=4)
    mask(layer, np.arange(3))
    assert layer.eval()(x) is x, "a batch of any length"
    layer.train()
    nn.seed_samples(layer, 1, 2, None)
    np.testing.assert_array_equal(layer(x), other(x), err_msg="its own generator, which was not used meanwhile")


def test_every_random_layer_of_a_model_is_seeded():
    from dcnlab import InternImage

    model = InternImage(channels=4, depths=[1, 1, 2, 1], groups=[1, 1, 1, 1], num_classes=2, drop_path_rate=0.5, rng=0)
    nn.seed_samples(model, 0, 0, [1, 2])
    layers = [m for m in model.modules() if hasattr(m, "rng")]
    assert len(layers) == 20, "in each of 5 blocks: 2 drop paths, and 2 dropouts in the MLP"
    assert len({m.uniform.layer for m in layers}) == 20


def test_the_caller_may_change_the_array():
    layer, samples, x = nn.DropPath(0.5), np.arange(64), np.ones((64, 1))
    nn.seed_samples(layer, 0, 0, samples)
    before = layer(x)
    samples += 7
    np.testing.assert_array_equal(layer(x), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, [[1, 2]]), r"samples must be \(N,\) integers, got \(1, 2\) of int64"),
        ((0, 0, [1.5]), r"samples must be \(N,\) integers, got \(1,\) of float64"),
        ((0, 0, [True]), "of bool"),
        ((0, 0, [2, -3]), "samples must not be negative, got -3"),
        ((-1, 0, [1]), r"seed must be an integer from 0 to 2\*\*64 - 1, got -1"),
        ((0, 2**64, [1]), "epoch must be an integer from 0 to"),
        ((0, 0.5, [1]), "epoch must be an integer from 0 to .* got 0.5"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        nn.seed_samples(nn.DropPath(0.5), *arguments)


@pytest.mark.parametrize("make", KINDS)
def test_a_batch_of_another_length_is_refused(make):
    layer = make(0.5)
    nn.seed_samples(layer, 0, 0, np.arange(6))
    for shape, came in (((4, 2), "a batch of 4"), ((), "one without rows")):
        with pytest.raises(ValueError, match=f"expected batches of the 6 samples given, got {came}"):
            layer(np.ones(shape))


def test_arrays_that_refuse_numpy(monkeypatch):
    install(monkeypatch)
    layer = nn.Dropout(0.5)
    expected = mask(layer, [4, 2])
    output = layer(wrap(np.ones((2, *SHAPE), np.float32)))
    assert type(output) is StrictArray
    np.testing.assert_array_equal(unwrap(output), expected)
