import numpy as np
import pytest

from dcnlab.demo.balance import compare_modulations
from dcnlab.demo.learning import Adam
from dcnlab.demo.samplers import NineTapDCNv3, OneTapDCNv2
from dcnlab.demo.warp import PEAK, Warp, spline_basis
from dcnlab.viz import mean_positions

SHAPE = (40, 50)
RNG = np.random.default_rng(0)


def randomised(kind):
    sampler, rng = kind(SHAPE), np.random.default_rng(3)
    for parameter in sampler.parameters:
        parameter += rng.normal(0, 0.4, parameter.shape)
    return sampler


@pytest.mark.parametrize("seed", range(5))
def test_the_true_offsets_undo_the_bend(seed):
    warp = Warp((160, 137), np.random.default_rng(seed))
    bend, undone = warp.field(), warp.undone()
    np.testing.assert_allclose(np.linalg.norm(bend, axis=-1).max(), PEAK * 160)
    for edge in (bend[0], bend[-1], bend[:, 0], bend[:, -1]):
        np.testing.assert_allclose(edge, 0, atol=1e-12)
    # A linear image is bent and sampled exactly: what comes out is the image.
    y, x = np.mgrid[:160, :137].astype(float)
    from scipy.ndimage import map_coordinates

    at = np.stack([y, x]) + np.moveaxis(undone, -1, 0)
    for axis, plane in enumerate((y, x)):
        back = at[axis] + map_coordinates(bend[..., axis], at, order=3, mode="nearest")
        np.testing.assert_allclose(back, plane, atol=1e-6)
    # It never folds: the determinant of its slope stays positive.
    dy, dx = np.gradient(bend, axis=(0, 1))
    assert ((1 + dy[..., 0]) * (1 + dx[..., 1]) - dy[..., 1] * dx[..., 0]).min() > 0.3


def test_splines_are_a_partition_of_unity():
    basis = spline_basis(30, 9)
    np.testing.assert_allclose(basis.sum(axis=1), 1.0)
    assert basis[0, 0] == basis[-1, -1] == 1.0


@pytest.mark.parametrize("kind", [OneTapDCNv2, NineTapDCNv3])
def test_mean_offset_is_that_of_the_grid(kind):
    sampler = randomised(kind)
    pixels = np.stack(np.mgrid[: SHAPE[0], : SHAPE[1]], axis=-1)
    mean = mean_positions(sampler.grid(), sampler.modulation())[0, :, :, 0]
    np.testing.assert_allclose(sampler.mean_offset(), mean - pixels, atol=1e-12)


@pytest.mark.parametrize("kind", [OneTapDCNv2, NineTapDCNv3])
def test_gradients_of_the_parameters(kind):
    sampler = randomised(kind)
    image, target = RNG.random((*SHAPE, 1)), RNG.random((*SHAPE, 1))
    _, grads = sampler.loss_gradients(image, target)
    for parameter, grad in zip(sampler.parameters, grads, strict=True):
        direction = np.random.default_rng(1).standard_normal(parameter.shape)
        # Kinks of the bilinear surface within the step cost O(step): 1e-7 leaves about 1e-4 of error and noise.
        step, losses = 1e-7, []
        start = parameter.copy()
        for sign in (1, -1):
            parameter[...] = start + sign * step * direction
            losses.append(sampler.loss_gradients(image, target)[0])
        parameter[...] = start
        np.testing.assert_allclose((losses[0] - losses[1]) / (2 * step), (grad * direction).sum(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", [OneTapDCNv2, NineTapDCNv3])
def test_a_larger_image_is_sampled_at_the_same_places(kind):
    sampler = randomised(kind)
    large = sampler.grid(3).positions()[0, ..., 0, :, :]
    small = sampler.grid().positions()[0, ..., 0, :, :]
    # Corners are where both sizes have a control point, so there the positions agree exactly.
    last = np.array(SHAPE) - 1
    np.testing.assert_allclose(large[0, 0], 3 * small[0, 0], atol=1e-9)
    np.testing.assert_allclose(large[-1, -1] - 3 * np.array(SHAPE) + 1, 3 * (small[-1, -1] - last), atol=1e-9)


def test_adam_takes_its_first_step_by_the_rate():
    parameter = np.array([1.0, -2.0])
    Adam([parameter]).step([np.array([3.0, -0.5])], rate=0.1)
    np.testing.assert_allclose(parameter, [0.9, -1.9], rtol=1e-9)


def test_sums_of_the_modulation_are_the_scales_of_the_layers():
    balances = compare_modulations(np.ones((40, 40)), np.random.default_rng(0), layers=3)
    sigmoid, softmax = balances["sigmoid"], balances["softmax"]
    np.testing.assert_allclose(softmax.modulation.sum(axis=-1), 1.0)
    # Taps that leave the image read zeros: at 40x40 that takes a few per cent a layer, never adds.
    assert all(0.85 < scale <= 1 for scale in softmax.output_scale + softmax.gradient_scale)
    for scales, others in (
        (sigmoid.output_scale, softmax.output_scale),
        (sigmoid.gradient_scale, softmax.gradient_scale),
    ):
        # Sigmoids of standard normal logits average 1/2: K/2 = 4.5 a layer.
        growth = np.array(scales) / np.array(others)
        np.testing.assert_allclose(growth, 4.5 ** np.arange(4), rtol=0.05)
    # The logits of a softmax cannot change the sum: their gradients cancel.
    common = np.abs(softmax.logit_gradient.sum(axis=-1)).max()
    assert common < 1e-12 * np.abs(softmax.logit_gradient).max() * 9
