"""The figures of the page: sampling points, modulation and offsets through the depth, receptive fields."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dcnlab import viz
from dcnlab.geometry import SamplingGrid
from dcnlab.internimage.prediction import Prediction
from dcnlab.internimage.receptive import Pixel, radius_of_share
from dcnlab.internimage.sampled import LayerSampling, stage_stride
from dcnlab.internimage.variants import LEVELS
from dcnlab.pages import new_figure
from dcnlab.viz.canvas import VALUE_MAP, group_colour, halo

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUERIES = {"A": (0.3, 0.5), "B": (0.6, 0.3), "C": (0.7, 0.75)}  # parts of height and width
MOST_GROUPS = 2  # in a close-up: more cover each other
REACH = 4.5  # pixels of the stage's map from the query to the edge of its close-up
DECADES = 4  # of the logarithmic colour scale of a receptive field
SHARES = (0.5, 0.9)  # of the gradient that the circles hold


class Field(NamedTuple):
    """An effective receptive field (H, W), and the pixel of the photo that it belongs to."""

    values: np.ndarray
    centre: Pixel


class Look(NamedTuple):
    """Everything that the page shows."""

    name: str  # of the photo
    photo: np.ndarray  # (S, S, 3) uint8, as the model sees it
    model: str  # in words
    found: list[Prediction]
    sampled: list[LayerSampling]  # every layer
    fields: list[Field]  # one a stage

    def last_block(self, stage: int) -> LayerSampling:
        """Return the sampling of a stage's last block."""
        return [layer for layer in self.sampled if layer.stage == stage][-1]


def all_figures(look: Look) -> dict[str, tuple[Figure, str]]:
    """Return the figures by file name, each with its caption."""
    figures = {
        f"points-stage{stage + 1}.png": (points(look, stage), points_caption(look, stage)) for stage in range(LEVELS)
    }
    figures["modulation.png"] = (
        modulation(look),
        "Modulation of each tap in the last block of each stage, one small map a tap, placed as the taps stand in the "
        "kernel. Shown is the group whose modulation varies most. Softmax makes the taps of a pixel add up to 1: "
        f"1/{look.sampled[0].grid.tap_count} each if none is preferred.",
    )
    figures["depth.png"] = (
        depth(look),
        "Every DCNv3 layer in the order in which they run; median, and the middle 80 % of all pixels and groups. Left: "
        "how many taps count, 1 / sum of the squared modulations; it is 1 if one tap has all the weight. Right: how "
        "long the offsets are, in pixels of the stage's map; 0 is the regular grid.",
    )
    figures["receptive-fields.png"] = (
        receptive_fields(look),
        "How strongly the pixel of each stage's map that the cross marks depends on each pixel of the photo: the mean "
        "of |gradient| over random signs of the features, on a logarithmic scale. The circles hold 50 % (solid) and "
        "90 % (dashed) of the sum. The fine lattice comes from the stem: of two neighbouring pixels, a convolution of "
        "kernel 3 and stride 2 reads one twice.",
    )
    return figures


# -- sampling points -----------------------------------------------------------------------------------------------


def query_pixels(layer: LayerSampling) -> dict[str, Pixel]:
    """Return pixels of the stage's map by their letters."""
    height, width = layer.grid.output_size
    return {letter: (int(y * height), int(x * width)) for letter, (y, x) in QUERIES.items()}


def shown_groups(groups: int) -> list[int]:
    """Return a few groups, evenly spread.

    >>> shown_groups(8), shown_groups(2)
    ([0, 7], [0, 1])
    """
    return np.linspace(0, groups - 1, min(groups, MOST_GROUPS)).round().astype(int).tolist()


def points_caption(look: Look, stage: int) -> str:
    """Return what the figure of a stage's sampling points shows."""
    layer = look.last_block(stage)
    groups = shown_groups(layer.grid.groups)
    which = "all groups" if len(groups) == layer.grid.groups else f"groups {', '.join(map(str, groups))}"
    return (
        f"Stage {stage + 1}, stride {layer.stride}, block {layer.block + 1} of {layer.block + 1}. Left: the points of "
        f"all {layer.grid.groups} groups for three pixels of the map. Right: close-ups, {which}, told apart by the "
        "colour of the rim; area and filling of a disc are its modulation, hollow circles the regular grid. What lies "
        "beyond the photo reads zeros."
    )


def points(look: Look, stage: int) -> Figure:
    """Draw where the last block of a stage samples for a few pixels: on the whole photo, and close by."""
    layer = look.last_block(stage)
    queries = query_pixels(layer)
    figure = new_figure(13, 3.7)
    whole, *close = figure.subplots(1, 1 + len(queries))
    grid = layer.on_image()
    _all_points(whole, look.photo, layer, grid, queries)
    groups = shown_groups(layer.grid.groups)
    few = dataclasses.replace(grid, offset=grid.offset[:, :, groups])
    weights = layer.modulation[:, :, :, groups]
    limits = _scale(np.stack([weights[0, y, x] for y, x in queries.values()]))
    for ax, (letter, pixel) in zip(close, queries.items(), strict=True):
        style: dict[str, Any] = {"limits": limits, "legend": False, "numbers": False, "margin": None}
        drawn = viz.sampling_points(look.photo, few, weights, [pixel], ax=ax, **style)
        _frame(ax, pixel, layer, len(look.photo))
        ax.set_title(f"{letter}: pixel ({pixel[0]}, {pixel[1]}) of the map", fontsize=10)
    figure.colorbar(drawn.taps[0], ax=close, label="modulation", shrink=0.85, pad=0.01)
    _group_legend(figure, groups)
    return figure


def _scale(weights: np.ndarray) -> tuple[float, float]:
    """Return the ends of a colour scale for modulations (..., K): taps that count equally are never at its end."""
    return 0.0, float(np.max(weights[np.isfinite(weights)], initial=2 / weights.shape[-1]))


def _all_points(ax: Axes, photo: np.ndarray, layer: LayerSampling, grid: SamplingGrid, queries: Any) -> None:
    """Draw the points of all groups on the photo in grey, a colour and a frame for each query."""
    from matplotlib.patches import Rectangle

    ax.imshow(_faded(photo), cmap="gray", vmin=0, vmax=255)
    positions, reach = grid.positions()[0], REACH * layer.stride
    for number, (letter, (y, x)) in enumerate(queries.items()):
        colour, centre = group_colour(number + 3), (x * layer.stride, y * layer.stride)
        taps = positions[y, x].reshape(-1, 2)
        ax.scatter(taps[:, 1], taps[:, 0], s=9, color=colour, edgecolors="black", linewidths=0.3, zorder=3)
        corner = (centre[0] - reach, centre[1] - reach)
        if 2 * reach < len(photo):  # else the close-up shows all of it
            ax.add_patch(Rectangle(corner, 2 * reach, 2 * reach, fill=False, color=colour, linewidth=1.5, zorder=4))
        # In the middle of a small frame a letter would cover the points.
        place = corner if min(corner) > 0 and max(corner) + 2 * reach < len(photo) else centre
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 11, "fontweight": "bold", "zorder": 5}
        ax.text(*place, letter, color="white", path_effects=halo(3), clip_on=True, **style)
    _whole(ax, len(photo))
    ax.set_title(f"stage {layer.stage + 1}, all {grid.groups} groups", fontsize=10)


def _faded(photo: np.ndarray) -> np.ndarray:
    """Return the photo in light grey, so that points stand out."""
    return 110 + 0.57 * (photo @ np.array([0.299, 0.587, 0.114]))


def _frame(ax: Axes, pixel: Pixel, layer: LayerSampling, size: int) -> None:
    y, x = (p * layer.stride for p in pixel)
    reach = REACH * layer.stride
    ax.set(xlim=(x - reach, x + reach), ylim=(y + reach, y - reach))
    ax.set_facecolor("0.85")  # beyond the photo
    ax.tick_params(labelsize=8)


def _group_legend(figure: Figure, groups: list[int]) -> None:
    from matplotlib.lines import Line2D

    def sign(label: str, marker: str, colour: str, size: float) -> Line2D:
        look: dict[str, Any] = {"markeredgecolor": colour, "markerfacecolor": "none", "markeredgewidth": 2}
        return Line2D([], [], linestyle="none", marker=marker, markersize=size, label=label, **look)

    signs = [sign("pixel of the map", "+", "black", 9), sign("regular grid", "o", "0.6", 6)]
    signs += [sign(f"taps of group {g}", "o", group_colour(number), 9) for number, g in enumerate(groups)]
    figure.legend(handles=signs, loc="outside lower center", ncols=len(signs), frameon=False, fontsize=9)


def _whole(ax: Axes, size: int) -> None:
    ax.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
    ax.tick_params(labelsize=8)


# -- modulation and depth ------------------------------------------------------------------------------------------


def modulation(look: Look) -> Figure:
    """Draw the maps of the modulation in the last block of each stage."""
    figure = new_figure(13, 11.5)
    for stage, ax in enumerate(figure.subplots(2, 2).flat):
        layer = look.last_block(stage)
        group = int(np.nan_to_num(layer.modulation[0].std(axis=(0, 1)).mean(axis=-1)).argmax())
        limits = _scale(layer.modulation[0, :, :, group])
        viz.modulation_maps(layer.grid, layer.modulation, group=group, limits=limits, ax=ax)
        height, width = layer.grid.output_size
        title = f"stage {stage + 1}, block {layer.block + 1}, group {group}: {height}x{width} pixels"
        ax.set_title(title, fontsize=11)
    return figure


def effective_taps(layer: LayerSampling) -> np.ndarray:
    """Return how many taps count at each pixel, 1 / sum of the squared modulations: (H, W, G), 1 to K."""
    weights = layer.modulation[0].astype(np.float64)
    return 1 / (weights**2).sum(axis=-1)


def offset_lengths(layer: LayerSampling) -> np.ndarray:
    """Return the lengths of the offsets in pixels of the map, offset_scale included: (H*W, G, K)."""
    return layer.grid.offset_scale * np.linalg.norm(layer.grid.offset[0].astype(np.float64), axis=-1)


def depth(look: Look) -> Figure:
    """Draw how many taps count, and how long the offsets are, against the number of the layer."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(13, 4.2)
    left, right = figure.subplots(1, 2)
    taps = look.sampled[0].grid.tap_count
    for ax, numbers in ((left, effective_taps), (right, offset_lengths)):
        low, median, high = np.array(
            [np.percentile(numbers(layer), (10, 50, 90), method="nearest") for layer in look.sampled]
        ).T
        layers = np.arange(1, len(median) + 1)
        ax.fill_between(layers, low, high, color=group_colour(1), alpha=0.45, label="middle 80 %", zorder=2)
        ax.plot(layers, median, "o-", color=group_colour(5), markersize=4, label="median", zorder=3)
        _stages(ax, look.sampled)
        ax.grid(alpha=0.3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="DCNv3 layer", xlim=(0.5, len(median) + 0.5))
    left.axhline(taps, color="0.3", linewidth=1, linestyle="--", label=f"all {taps} taps equal", zorder=1)
    left.set(ylabel="taps that count", ylim=(0, taps * 1.1))
    right.set(ylabel="length of the offsets (pixels of the map)")
    right.set_ylim(0, max(1.0, right.get_ylim()[1]))
    for ax in (left, right):
        ax.legend(frameon=False, loc="best")
    return figure


def _stages(ax: Axes, sampled: list[LayerSampling]) -> None:
    """Shade every other stage, and name all."""
    for stage in range(LEVELS):
        layers = [number for number, layer in enumerate(sampled, start=1) if layer.stage == stage]
        if stage % 2 == 0:
            ax.axvspan(layers[0] - 0.5, layers[-1] + 0.5, color="0.94", zorder=0)
        middle = (layers[0] + layers[-1]) / 2
        ax.text(
            middle, 1.02, f"stage {stage + 1}", ha="center", fontsize=9, color="0.3", transform=ax.get_xaxis_transform()
        )


# -- receptive fields ----------------------------------------------------------------------------------------------


def receptive_fields(look: Look) -> Figure:
    """Draw the effective receptive field of each stage, and what share of it lies within which radius."""
    figure = new_figure(13, 3.3)
    axes = figure.subplots(1, 1 + LEVELS)
    size = len(look.photo)
    axes[0].imshow(look.photo)
    _whole(axes[0], size)
    axes[0].set_title("what the model sees", fontsize=10)
    for stage, (ax, field) in enumerate(zip(axes[1:], look.fields, strict=True)):
        shown = ax.imshow(_logarithm(field.values), cmap=VALUE_MAP, vmin=-DECADES, vmax=0)
        _whole(ax, size)
        ax.set_yticklabels([])
        y, x = field.centre
        ax.scatter(x, y, s=60, marker="+", c="white", linewidths=1.6, path_effects=halo(3.2))
        radii = [radius_of_share(field.values, field.centre, share) for share in SHARES]
        _circles(ax, field.centre, radii)
        within = f"90 % within {radii[1]:.0f} px" if np.isfinite(radii[1]) else "no gradient"
        ax.set_title(f"stage {stage + 1}, stride {stage_stride(stage)}\n{within}", fontsize=10)
    ticks = range(-DECADES, 1)
    bar = figure.colorbar(shown, ax=axes[1:], label="gradient / largest", shrink=0.75, pad=0.01, extend="min")
    bar.set_ticks(list(ticks), labels=["1" if t == 0 else f"$10^{{{t}}}$" for t in ticks])
    return figure


def _logarithm(values: np.ndarray) -> np.ndarray:
    """Return log10 of values over their largest, at least that of the lowest colour."""
    largest = float(np.max(values[np.isfinite(values)], initial=0.0)) or 1.0
    return np.log10(np.maximum(np.nan_to_num(values) / largest, 10.0 ** (-DECADES - 1)))


def _circles(ax: Axes, centre: Pixel, radii: list[float]) -> None:
    from matplotlib.patches import Circle

    for radius, line in zip(radii, ("-", "--"), strict=True):
        if np.isfinite(radius):
            around: dict[str, Any] = {"fill": False, "color": "white", "linewidth": 1.3, "linestyle": line}
            ax.add_patch(Circle(centre[::-1], radius, path_effects=halo(2.6), **around))
