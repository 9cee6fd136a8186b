"""Random transformations: reproducible whatever the batch, and geometrically what they say."""

import math

import numpy as np
import pytest
from compiler import require_compiler
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import affine_transform

import dcnlab
from dcnlab.train.augment import RandomAffine, prepared, uniform_draws

STILL = RandomAffine(rotate=0.0, scale=(1.0, 1.0))
# Positions are sums of four float32 of at most 200 pixels below (2.5 times the way across and the shift), each rounded
# by 200 * 2^-24; a pixel further on, each way, a value changes by at most 255, which is 2 when normalised.
TOLERANCE = 2 * 2 * 4 * 200 * 2**-24


def pictures(count=5, height=28, width=28, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


# -- draws ---------------------------------------------------------------------------------------------------------


def test_a_sample_looks_the_same_in_any_batch_and_order():
    images, affine = pictures(40), RandomAffine(shift=0.1, flip=True)
    whole = affine.transformed(images, range(40), epoch=2, seed=5, size=32)
    order = np.random.default_rng(1).permutation(40)
    shuffled = affine.transformed(images[order], order, epoch=2, seed=5, size=32)
    np.testing.assert_array_equal(shuffled, whole[order])
    alone = [affine.transformed(images[i : i + 1], [i], epoch=2, seed=5, size=32)[0] for i in range(0, 40, 7)]
    np.testing.assert_array_equal(np.stack(alone), whole[::7])


def test_the_backend_in_use_makes_no_difference():
    require_compiler()
    images = pictures()
    expected = RandomAffine().transformed(images, range(5), 0, 0, 32)
    with dcnlab.use_backend("cpu"):
        np.testing.assert_array_equal(RandomAffine().transformed(images, range(5), 0, 0, 32), expected)


def test_the_global_generator_is_neither_used_nor_changed():
    before = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    first = uniform_draws([3], 1, 0)
    np.testing.assert_equal(np.random.get_state(legacy=False)["state"], before)  # noqa: NPY002
    np.random.random()  # noqa: NPY002
    np.testing.assert_array_equal(uniform_draws([3], 1, 0), first)


def test_samples_epochs_seeds_and_the_test_set_share_no_draw():
    cases = [(seed, epoch) for seed in (0, 1, 2**64 - 1) for epoch in (None, 0, 1, 2**63)]
    draws = np.concatenate([uniform_draws(range(50), epoch, seed) for seed, epoch in cases])
    assert draws.shape == (50 * len(cases), 5)
    assert len(np.unique(draws)) == draws.size


def test_draws_are_uniform_and_independent_of_each_other():
    draws = uniform_draws(range(4000), epoch=0, seed=0)
    # Standard errors: of a mean sqrt(1/12 / 4000) = 0.0046, of a correlation sqrt(1/4000) = 0.016.
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=5 * 0.0046)
    np.testing.assert_allclose(np.corrcoef(draws.T), np.eye(5), atol=5 * 0.016)
    assert 0 <= draws.min() < 0.001
    assert 0.999 < draws.max() < 1


def test_draws_are_the_recorded_ones():
    """A training that is resumed, or repeated with another NumPy, must see the same images."""
    recorded = [0.6225766913127859, 0.5485158993346134, 0.7074129101750432, 0.18941523169588914, 0.6917822235316191]
    assert uniform_draws([7], epoch=3, seed=11)[0].tolist() == recorded


def test_switching_one_part_off_leaves_the_others_alone():
    with_flip, _ = RandomAffine(flip=True).maps(range(30), 0, 0)
    without, _ = RandomAffine().maps(range(30), 0, 0)
    mirrored = np.linalg.det(with_flip) < 0
    assert 5 < mirrored.sum() < 25
    np.testing.assert_array_equal(with_flip[~mirrored], without[~mirrored])
    np.testing.assert_array_equal(with_flip[mirrored] * [[[1], [-1]]], without[mirrored])


# -- geometry ------------------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**64 - 1),
    epoch=st.none() | st.integers(0, 1000),
    size=st.integers(8, 40),
    channels=st.sampled_from([1, 3]),
    shift=st.floats(0, 1),
)
def test_it_agrees_with_scipys_affine_transform(seed, epoch, size, channels, shift):
    """Another implementation of bilinear sampling, image by image, in float64."""
    affine = RandomAffine(rotate=180, scale=(0.4, 3.0), shift=shift, flip=True)
    images = pictures(2, size, size, channels, seed=1)
    actual = affine.transformed(images, [4, 0], epoch, seed, size)
    linear, start = (array.astype(float) for array in affine.maps([4, 0], epoch, seed))
    centre = np.full(2, (size - 1) / 2)
    for index in range(2):
        offset = centre - linear[index] @ centre + size * start[index]
        for channel in range(3):
            image = images[index, :, :, channel % channels].astype(float)
            seen = affine_transform(image, linear[index], offset, order=1, mode="grid-constant")
            np.testing.assert_allclose(actual[index, channel], seen / 127.5 - 1, rtol=0, atol=TOLERANCE)


def test_nothing_drawn_changes_nothing():
    images = pictures(4, 28, 32, 3)
    np.testing.assert_array_equal(STILL.transformed(images, range(4), 0, 0, 32), prepared(images, 32))


def test_neighbours_in_a_batch_do_not_leak_into_each_other():
    """White images, shifted and shrunk, around a black one, which must stay black to the last bit."""
    images = np.full((3, 16, 16, 1), 255, np.uint8)
    images[1] = 0
    affine = RandomAffine(rotate=180, scale=(0.1, 4.0), shift=1.0)
    for epoch in range(50):
        assert (affine.transformed(images, range(3), epoch, 0, 16)[1] == -1).all()


def test_angles_are_counter_clockwise_as_seen_and_scales_enlarge():
    """Found by a point right of the centre: the map takes the place where it is seen back to it."""
    affine, samples = RandomAffine(rotate=90, scale=(0.5, 2.0)), range(20)
    draws = uniform_draws(samples, 0, 0)
    angle, scale = np.radians(180 * draws[:, 0] - 90), 0.5 + 1.5 * draws[:, 1]
    seen_at = scale[:, None] * np.stack([-np.sin(angle), np.cos(angle)], axis=-1)  # (y, x); up is -y
    linear, start = affine.maps(samples, 0, 0)
    np.testing.assert_allclose(np.einsum("nij,nj->ni", linear, seen_at), [[0, 1]] * 20, atol=1e-6)
    assert not start.any()


def test_a_quarter_turn_moves_the_top_to_the_left():
    image = np.zeros((1, 9, 9, 1), np.uint8)
    image[0, 1, 4] = 255  # above the centre
    draws = uniform_draws(range(2000), 0, 0)[:, 0]
    sample = int(np.argmax(draws))  # the angle is nearest to +90 degrees
    turned = RandomAffine(rotate=90, scale=(1, 1)).transformed(image, [sample], 0, 0, 9)[0, 0]
    assert np.unravel_index(turned.argmax(), turned.shape) == (4, 1)


def test_shifts_are_shares_of_the_side_and_move_the_picture_by_them():
    image = np.zeros((1, 31, 31, 1), np.uint8)
    image[0, 15, 15] = 255
    affine = RandomAffine(rotate=0, scale=(1, 1), shift=0.25)
    for sample in range(10):
        moved = affine.transformed(image, [sample], 0, 0, 31)[0, 0] + 1
        centroid = (np.indices(moved.shape) * moved).sum(axis=(1, 2)) / moved.sum() - 15
        shift = 31 * 0.25 * (2 * uniform_draws([sample], 0, 0)[0, 2:4] - 1)
        np.testing.assert_allclose(centroid, shift, atol=1e-4)  # sums of 961 float32


# -- what the model gets -------------------------------------------------------------------------------------------


def test_centred_and_normalised():
    images = np.zeros((2, 28, 26, 1), np.uint8)
    images[0] = 255
    images[1] = 51
    batch = prepared(images, 33)
    assert batch.shape == (2, 3, 33, 33)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    inside = np.zeros((33, 33), bool)
    inside[2:30, 3:29] = True  # 5 and 7 pixels remain: 2 above and 3 below, 3 left and 4 right
    np.testing.assert_array_equal(batch[0], np.broadcast_to(np.where(inside, 1.0, -1.0), (3, 33, 33)))
    np.testing.assert_allclose(batch[1, :, inside], 2 * 0.2 - 1, rtol=1e-6)


def test_colours_stay_in_their_order():
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[..., 2] = 255
    assert prepared(image, 8)[0, :, 4, 4].tolist() == [-1, -1, 1]
    assert STILL.transformed(image, [0], 0, 0, 8)[0, :, 4, 4].tolist() == [-1, -1, 1]


def test_the_images_are_not_changed():
    images = pictures()
    before = images.copy()
    RandomAffine().transformed(images, range(5), 0, 0, 32)
    np.testing.assert_array_equal(images, before)


def test_an_empty_batch():
    assert RandomAffine().transformed(pictures(0), [], 0, 0, 32).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rotate": -1}, r"rotate must be in 0..180 degrees, got -1"),
        ({"rotate": math.nan}, r"got nan"),
        ({"scale": (0.0, 1.0)}, r"scale must be \(smallest, largest\).*got \(0.0, 1.0\)"),
        ({"scale": (1.2, 0.7)}, r"scale must be"),
        ({"scale": (0.7, math.inf)}, r"scale must be"),
        ({"shift": 1.5}, r"shift must be in 0..1 of the image's side, got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RandomAffine(**settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": [0]}, "got 2 images and 1 samples"),
        ({"samples": [0, -1]}, "samples are numbered from 0, got -1"),
        ({"epoch": -1}, "got epoch -1 and seed 0"),
        ({"seed": 2**64}, "epoch and seed must be in"),
        ({"size": 27}, "images of 28x28 pixels do not fit 27x27; load them with size=27"),
        ({"images": np.zeros((2, 28, 28, 1))}, r"images must be \(n, H, W, 1 or 3\) uint8, got .* float64"),
        ({"images": np.zeros((2, 28, 28), np.uint8)}, r"got \(2, 28, 28\) uint8"),
        ({"images": np.zeros((2, 28, 28, 4), np.uint8)}, r"got \(2, 28, 28, 4\)"),
    ],
)
def test_bad_batches_are_refused(change, message):
    arguments = {"images": pictures(2), "samples": [0, 1], "epoch": 0, "seed": 0, "size": 32, **change}
    with pytest.raises(ValueError, match=message):
        RandomAffine().transformed(**arguments)
