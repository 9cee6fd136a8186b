"""explain_pixel: the contributions add up to the operator's output, and every number is the one it says."""

import numpy as np
import pytest
from helpers import dcnv3_cases, deform_conv2d_cases
from hypothesis import given, settings
from hypothesis import strategies as st

import dcnlab
from dcnlab import catalogue

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=30)
@given(deform_conv2d_cases(), SEEDS)
def test_contributions_add_up_deform_conv2d(case, seed):
    fixed, shapes = case
    shapes["batch"] = 2
    arrays = catalogue.deform_conv2d_arguments(np.random.default_rng(seed), **fixed, **shapes)
    output = dcnlab.deform_conv2d(**arrays, **fixed)
    n, o, y, x = (size - 1 for size in output.shape)
    found = dcnlab.explain_pixel(dcnlab.deform_conv2d, (y, x), o, image=n, **arrays, **fixed)
    assert found.output == pytest.approx(output[n, o, y, x], rel=1e-11, abs=1e-11)
    check_taps(found, arrays["input"][n])


@settings(max_examples=30)
@given(dcnv3_cases(), SEEDS)
def test_contributions_add_up_dcnv3(case, seed):
    fixed, shapes = case
    shapes["batch"] = 2
    arrays = catalogue.dcnv3_arguments(np.random.default_rng(seed), **fixed, **shapes)
    output = dcnlab.dcnv3(**arrays, **fixed)
    n, y, x, c = (size - 1 for size in output.shape)
    found = dcnlab.explain_pixel(dcnlab.dcnv3, (y, x), c, image=n, **arrays, **fixed)
    assert found.output == pytest.approx(output[n, y, x, c], rel=1e-11, abs=1e-11)
    check_taps(found, arrays["input"][n].transpose(2, 0, 1))
    grid = {k: v for k, v in fixed.items() if k != "groups"}
    positions = dcnlab.sampling_positions(arrays["offset"], layout="dcnv3", **grid)
    for tap in found.taps:
        assert tap.position == pytest.approx(positions[n, y, x, tap.group, tap.tap].tolist(), abs=1e-12)
        assert (
            tap.modulation
            == dcnlab.sampling_modulation(arrays["mask"], len(found.taps), layout="dcnv3")[n, y, x, tap.group, tap.tap]
        )


def check_taps(found, image):
    for tap in found.taps:
        assert tap.contribution == pytest.approx(tap.weight * tap.modulation * tap.value, abs=1e-15)
        assert tap.value == pytest.approx(sum(w * p for *_, w, p in tap.corners), abs=1e-12)
        for y, x, weight, pixel in tap.corners:
            assert pixel == image[tap.channel, y, x]
            assert 0 <= weight <= 1
            assert abs(y - tap.position[0]) <= 1
            assert abs(x - tap.position[1]) <= 1


def test_the_table_for_people(rng):
    arrays = catalogue.dcnv3_arguments(rng, groups=2)
    text = str(dcnlab.explain_pixel(dcnlab.dcnv3, (0, 0), 3, **arrays, groups=2))
    lines = text.splitlines()
    assert lines[0] == "dcnv3, output pixel (0, 0), channel 3"
    assert len(lines) == 1 + 2 + 9 + 1
    assert "contribution" in lines[1]
    assert lines[-1].startswith("bias +0.0000 + contributions = output ")


def test_a_nan_offset_shows_as_nan(rng):
    arrays = catalogue.dcnv3_arguments(rng, groups=2)
    arrays["offset"][0, 1, 1, 0] = np.nan
    found = dcnlab.explain_pixel(dcnlab.dcnv3, (1, 1), 0, **arrays, groups=2)
    assert np.isnan(found.output)
    assert [np.isnan(tap.contribution) for tap in found.taps] == [True] + 8 * [False]


@pytest.mark.parametrize(
    ("pixel", "channel", "image", "message"),
    [
        ((5, 0), 0, 0, r"y must be in 0\.\.4, got 5"),
        ((0, -1), 0, 0, r"x must be in 0\.\.5, got -1"),
        ((0, 0), 4, 0, r"channel must be in 0\.\.3, got 4"),
        ((0, 0), 0, 1, r"image must be in 0\.\.0, got 1"),
    ],
)
def test_places_that_are_not_there(rng, pixel, channel, image, message):
    arrays = catalogue.dcnv3_arguments(rng, groups=2)
    with pytest.raises(ValueError, match=message):
        dcnlab.explain_pixel(dcnlab.dcnv3, pixel, channel, image=image, **arrays, groups=2)


def test_other_operators_are_refused():
    with pytest.raises(ValueError, match=r"explains dcnlab\.deform_conv2d and dcnlab\.dcnv3"):
        dcnlab.explain_pixel(dcnlab.conv2d, (0, 0), 0, None, None)
