"""Pictures of fields before and after training."""

import numpy as np
import pytest
from PIL import Image

from dcnlab.internimage.receptive import radius_of_share
from dcnlab.study.receptive_figures import DECADES, before_and_after, logarithm, mark, show_field

SIDE = 40


def spot(width, side=SIDE):
    y, x = np.ogrid[:side, :side]
    return np.exp(-((y - side // 2) ** 2 + (x - side // 2) ** 2) / (2 * width**2))


@pytest.fixture
def fields():
    return {"DCNv3": (spot(2.0), spot(8.0)), "convolution": (spot(2.0), 7 * spot(3.0))}


def test_each_model_before_and_after(fields, tmp_path):
    path = tmp_path / "fields.png"
    figure = before_and_after(fields, path)
    assert list(tmp_path.iterdir()) == [path]
    with Image.open(path) as picture:
        assert picture.width > 1000
    panels = [ax for ax in figure.axes if ax.get_title()]
    names = [f"{name}, {when} training" for name in fields for when in ("before", "after")]
    assert [ax.get_title().splitlines()[0] for ax in panels] == names
    each = [field for pair in fields.values() for field in pair]
    for ax, field in zip(panels, each, strict=True):
        radii = [radius_of_share(field, (20, 20), share) for share in (0.5, 0.9)]
        assert [circle.radius for circle in ax.patches] == radii
        assert [circle.center for circle in ax.patches] == [(20, 20)] * 2
        assert ax.get_title().splitlines()[1] == f"50 % within {radii[0]:.3g} px, 90 % within {radii[1]:.3g} px"
        np.testing.assert_allclose(ax.images[0].get_array(), np.maximum(np.log10(field / field.max()), -DECADES))


def test_another_pixel(fields):
    figure = before_and_after({"model": (np.roll(spot(2.0), 5, axis=0), spot(2.0))}, centre=(25, 20))
    assert figure.axes[0].patches[0].center == (20, 25)
    assert figure.axes[0].patches[0].radius == radius_of_share(spot(2.0), (20, 20), 0.5)


def test_where_there_is_no_gradient_nothing_is_drawn():
    from dcnlab.pages import new_figure

    field = np.zeros((4, 4))
    field[1, 2] = 3.0
    image = show_field(new_figure(2, 2).subplots(), field, pixel_size=4)
    assert image.get_array().mask.sum() == 15
    assert list(image.get_extent()) == [-0.5, 15.5, 15.5, -0.5]


def test_a_field_without_gradient():
    figure = before_and_after({"model": (np.zeros((8, 8)), spot(1.0, 8))})
    assert figure.axes[0].get_title() == "model, before training\nno gradient"
    assert not figure.axes[0].patches
    assert (logarithm(np.zeros((2, 2))) == -DECADES).all()


def test_circles_in_larger_units():
    """A field of features on a photo of four times their size: pixel p covers 4 p to 4 p + 3."""
    from dcnlab.pages import new_figure

    ax = new_figure(2, 2).subplots()
    radii = mark(ax, spot(2.0), (20, 20), pixel_size=4)
    assert [circle.radius for circle in ax.patches] == [4 * radius for radius in radii]
    assert ax.patches[0].center == (81.5, 81.5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "got none"),
        ({"a": (np.ones((3, 3)), np.ones((3, 4)))}, r"of one size, got a: \[\(3, 3\), \(3, 4\)\]"),
        ({"a": (np.ones(3), np.ones(3))}, r"arrays \(H, W\)"),
        ({"a": (np.ones((3, 3)),)}, r"\(before, after\)"),
        ({"a": (np.ones((3, 3)), np.full((3, 3), np.nan))}, "must be finite, those of a are not"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        before_and_after(wrong, tmp_path / "fields.png")
    assert not list(tmp_path.iterdir())
