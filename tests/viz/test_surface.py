import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

from dcnlab import viz

PATCH = np.random.default_rng(0).random((4, 5))


def test_surface_is_the_bilinear_interpolant():
    drawn = viz.bilinear_surface(PATCH, points=4)
    assert drawn.values.shape == (13, 17)
    np.testing.assert_allclose(drawn.values[::4, ::4], PATCH)
    cell = PATCH[1:3, 2:4]
    weights = np.outer([0.75, 0.25], [0.5, 0.5])
    np.testing.assert_allclose(drawn.values[4 + 1, 8 + 2], (weights * cell).sum())
    assert len(drawn.kinks) == 4 + 5


def test_section_has_a_constant_slope_between_pixels():
    y = 1.3
    drawn = viz.bilinear_section(PATCH, y)
    line = 0.7 * PATCH[1] + 0.3 * PATCH[2]
    np.testing.assert_allclose(drawn.pixels.get_ydata(), line)
    slopes = drawn.slope.get_ydata().reshape(4, 3)
    np.testing.assert_allclose(slopes, np.broadcast_to(np.diff(line)[:, None], (4, 3)))


def test_axes_of_the_wrong_kind_are_refused():
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match="projection '3d', got 'rectilinear'"):
        viz.bilinear_surface(PATCH, ax=ax)
    with pytest.raises(ValueError, match="projection 'rectilinear'"):
        viz.bilinear_section(PATCH, ax=3)


@pytest.mark.parametrize("image", [np.zeros((1, 5)), np.zeros((40, 5)), np.zeros(4), np.full((3, 3), np.nan)])
def test_bad_images_get_one_line(image):
    for draw in (viz.bilinear_surface, viz.bilinear_section):
        with pytest.raises(ValueError, match="image must"):
            draw(image)


def test_bad_numbers_get_one_line():
    with pytest.raises(ValueError, match=r"points must be in 1\.\.24, got 0"):
        viz.bilinear_surface(PATCH, points=0)
    with pytest.raises(ValueError, match=r"y must be in 0\.\.3, got 4"):
        viz.bilinear_section(PATCH, 4)


def test_importing_viz_does_not_import_matplotlib():
    code = "import sys, dcnlab.viz; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
