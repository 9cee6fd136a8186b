"""Modulations: ranges, sums, extremes, and what the gradients sum to."""

import numpy as np
import pytest

import dcnlab
from dcnlab.modulation import KINDS


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logits_neither_overflow_nor_warn(kind, dtype):
    logits = np.array([-1e30, -1e4, -1.0, 0.0, 1.0, 1e4, 1e30, 0.5, 2.0], dtype).reshape(1, 9)
    modulation = dcnlab.normalise_modulation(logits, kind, groups=1)
    assert modulation.dtype == dtype
    assert np.isfinite(modulation).all()
    grad = dcnlab.normalise_modulation_backward(np.ones_like(logits), logits, kind, groups=1)
    assert np.isfinite(grad).all()


def test_sums_over_the_taps(rng):
    logits = rng.standard_normal((3, 5, 2 * 9))
    for kind, low, high in (("softmax", 1, 1), ("sigmoid", 0, 9), ("twice_sigmoid", 0, 18)):
        sums = dcnlab.normalise_modulation(logits, kind, 2).reshape(3, 5, 2, 9).sum(axis=-1)
        assert (sums >= low - 1e-12).all()
        assert (sums <= high + 1e-12).all()
    softmax_sums = dcnlab.normalise_modulation(logits, "softmax", 2).reshape(3, 5, 2, 9).sum(axis=-1)
    np.testing.assert_allclose(softmax_sums, 1, rtol=1e-14)
    np.testing.assert_array_equal(dcnlab.normalise_modulation(logits, "none", 2), logits)


def test_initial_modulation_of_each_kind():
    start = np.zeros((1, 9))
    for kind, value in (("softmax", 1 / 9), ("sigmoid", 0.5), ("twice_sigmoid", 1.0), ("none", 0.0)):
        np.testing.assert_allclose(dcnlab.normalise_modulation(start, kind, 1), value, rtol=1e-15)


def test_softmax_gradients_sum_to_zero(rng):
    logits, grad = rng.standard_normal((2, 4, 9))
    np.testing.assert_allclose(dcnlab.softmax_backward(grad, logits).sum(axis=-1), 0, atol=1e-15)


def test_nan_stays_in_its_own_softmax():
    logits = np.zeros((2, 9))
    logits[0, 3] = np.nan
    modulation = dcnlab.softmax(logits)
    assert np.isnan(modulation[0]).all()
    np.testing.assert_allclose(modulation[1], 1 / 9)


def test_messages():
    with pytest.raises(ValueError, match="modulation must be one of softmax, sigmoid, twice_sigmoid, none, got 'tanh'"):
        dcnlab.normalise_modulation(np.zeros((1, 9)), "tanh", 1)
    with pytest.raises(ValueError, match=r"G\*K = 2\*K channels on the last axis, got \(1, 9\)"):
        dcnlab.normalise_modulation(np.zeros((1, 9)), "softmax", 2)
    with pytest.raises(ValueError, match=r"G\*K = 0\*K channels"):
        dcnlab.normalise_modulation(np.zeros((1, 9)), "softmax", 0)
