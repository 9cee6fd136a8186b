"""Pictures of effective receptive fields: on a photo, and before and after training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dcnlab.internimage.receptive import Pixel, middle, radius_of_share
from dcnlab.pages import DPI, new_figure
from dcnlab.viz.canvas import VALUE_MAP, halo

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

DECADES = 4  # of the logarithmic colour scale
SHARES: dict[float, Any] = {0.5: "-", 0.9: "--"}  # of the field that a circle holds, and how the circle is drawn
PANEL = 3.1  # inches


def before_and_after(
    fields: Mapping[str, tuple[np.ndarray, np.ndarray]],
    path: str | os.PathLike[str] | None = None,
    centre: Pixel | None = None,
    pixel_size: int = 1,
) -> Figure:
    """Draw effective receptive fields of models before and after training, side by side.

    Parameters
    ----------
    fields : name of each model -> (before, after)
        Each (H, W), as one image of `dcnlab.internimage.effective_receptive_field` or a mean over images; all of one
        size.
    path : path, optional
        PNG file to write.
    centre : (y, x), optional
        The pixel of the fields that they belong to; their middle by default.
    pixel_size : int
        Pixels of the image, each way, that a pixel of the fields stands for; axes and radii count those of the image.

    Returns
    -------
    Figure
        The colours are logarithmic, each field relative to its largest value; circles around the pixel hold 50 %
        (solid) and 90 % (dashed) of a field.

    Raises
    ------
    ValueError
        For fields that are not finite, not (H, W), or of different sizes.
    """
    pairs = _checked(fields)
    size = pairs[0][1][0].shape
    centre = middle(size) if centre is None else centre
    figure = new_figure(2 * PANEL * len(pairs) + 0.6, 0.88 * PANEL * size[0] / size[1] + 0.9)
    axes = figure.subplots(1, 2 * len(pairs))
    for number, (name, pair) in enumerate(pairs):
        for ax, when, field in zip(axes[2 * number :], ("before training", "after training"), pair, strict=False):
            shown = show_field(ax, field, pixel_size=pixel_size)
            ax.tick_params(labelsize=8)
            radii = [pixel_size * radius for radius in mark(ax, field, centre, pixel_size)]
            ax.set_title(f"{name}, {when}\n{radii_in_words(radii)}", fontsize=9)
    field_colourbar(figure, shown, axes)
    circle_legend(figure)
    if path is not None:
        figure.savefig(path, dpi=DPI)
    return figure


def _checked(fields: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[tuple[str, list[np.ndarray]]]:
    """Return the fields as arrays, having checked that they go together."""
    pairs = [(name, [np.asarray(field, np.float64) for field in pair]) for name, pair in fields.items()]
    shapes = {field.shape for _, pair in pairs for field in pair}
    if not pairs or any(len(pair) != 2 for _, pair in pairs) or len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            "fields must be {name: (before, after)}, arrays (H, W) of one size, got "
            + (", ".join(f"{name}: {[field.shape for field in pair]}" for name, pair in pairs) or "none")
        )
    for name, pair in pairs:
        if not all(np.isfinite(field).all() for field in pair):
            raise ValueError(f"fields must be finite, those of {name} are not")
    return pairs


# -- parts of a picture --------------------------------------------------------------------------------------------


def show_field(ax: Axes, field: np.ndarray, opacity: float = 1.0, pixel_size: int = 1) -> AxesImage:
    """Draw a field (H, W) on a logarithmic scale, relative to its largest value; nothing where it is 0.

    Each of its pixels covers `pixel_size` x `pixel_size` units, from (-0.5, -0.5) on.
    """
    height, width = (pixel_size * side for side in field.shape)
    colours: dict[str, Any] = {"cmap": VALUE_MAP, "vmin": -DECADES, "vmax": 0, "interpolation": "nearest"}
    return ax.imshow(
        np.ma.masked_where(field <= 0, logarithm(field)),
        alpha=opacity,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        **colours,
    )


def logarithm(field: np.ndarray) -> np.ndarray:
    """Return log10 of a field over its largest value, at least -DECADES.

    >>> logarithm(np.array([[2.0, 0.02], [0.0, 1e-9]])).tolist()
    [[0.0, -2.0], [-4.0, -4.0]]
    """
    largest = float(field.max(initial=0.0)) or 1.0
    return np.log10(np.maximum(field / largest, 10.0**-DECADES))


def mark(ax: Axes, field: np.ndarray, pixel: Pixel, pixel_size: int = 1, size: float = 60) -> list[float]:
    """Draw circles that hold shares of a field, and a cross of `size` at its pixel; return the radii in pixels."""
    from matplotlib.patches import Circle

    x, y = (pixel_size * (p + 0.5) - 0.5 for p in pixel[::-1])
    radii = [radius_of_share(field, pixel, share) for share in SHARES]
    for radius, line in zip(radii, SHARES.values(), strict=True):
        if np.isfinite(radius) and radius > 0:
            style: dict[str, Any] = {"fill": False, "color": "white", "linewidth": 1.3, "linestyle": line}
            ax.add_patch(Circle((x, y), pixel_size * radius, path_effects=halo(2.6), **style))
    if size:
        ax.scatter(x, y, s=size, marker="+", c="white", linewidths=1.4, path_effects=halo(3))
    return radii


def radii_in_words(radii: list[float]) -> str:
    """Return which circles hold the shares.

    >>> radii_in_words([1.0, 12.649])
    '50 % within 1 px, 90 % within 12.6 px'
    """
    if not np.isfinite(radii).all():
        return "no gradient"
    return ", ".join(f"{100 * share:.0f} % within {r:.3g} px" for share, r in zip(SHARES, radii, strict=True))


def field_colourbar(figure: Figure, shown: AxesImage, axes: Any, shrink: float = 0.85) -> Colorbar:
    """Draw the colour scale of `show_field`."""
    bar = figure.colorbar(shown, ax=axes, label="gradient / largest", shrink=shrink, pad=0.01, extend="min")
    ticks = range(-DECADES, 1)
    bar.set_ticks(list(ticks), labels=["1" if t == 0 else f"$10^{{{t}}}$" for t in ticks])
    return bar


def circle_legend(figure: Figure) -> None:
    """Say below the figure which circle holds which share."""
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color="black", linestyle=line, linewidth=1.3, label=f"{100 * share:.0f} % of the field")
        for share, line in SHARES.items()
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False, fontsize=9)
