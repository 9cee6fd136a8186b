"""The figures of the demo, drawn with `dcnlab.viz`, without pyplot: a script's own figures stay its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dcnlab import viz
from dcnlab.demo.balance import Balance
from dcnlab.demo.learning import Learning
from dcnlab.demo.photo import DETAIL, Photo
from dcnlab.demo.warp import Warp
from dcnlab.geometry import packed_offset, sampling_grid
from dcnlab.pages import new_figure
from dcnlab.viz.canvas import group_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"DCNv2": group_colour(0), "DCNv3": group_colour(1), "true": "white"}
MESH_EVERY = 10  # output pixels between two lines of a sampling mesh


class Scene(NamedTuple):
    """Everything that the figures show."""

    photo: Photo
    warp: Warp
    bent: np.ndarray  # (H, W)
    bent_large: np.ndarray  # (DETAIL*H, DETAIL*W, 3)
    truth: np.ndarray  # (H, W, 2)
    steps: tuple[int, int]  # of the two stages of learning
    learnings: tuple[Learning, ...]
    balances: dict[str, Balance]


def all_figures(scene: Scene) -> dict[str, tuple[Figure, str]]:
    """Return the figures of the report by file name, each with its caption."""
    return {
        "photos.png": (photos(scene), "The photo, the bent photo, and what each operator makes of the bent one."),
        "fields.png": (
            fields(scene),
            "Above: offsets as colours; the wheel gives direction and length. Below: how far the learned offsets are "
            "from the true ones. What remains sits where the photo is flat: nothing there shows a shift.",
        ),
        "learning.png": (
            learning_curves(scene),
            "The learner sees only the squared error (right), never the distance to the true offsets (left). The "
            "error jumps when the blur ends, because sharp images differ more.",
        ),
        "taps.png": (
            taps(scene),
            "The nine taps of DCNv3 at one output pixel (white cross). They start as a blur and gather where the "
            "dotted lines meet: the true position. Hollow circles are the regular grid.",
        ),
        "modulation.png": (
            modulation(scene),
            "The same logits, two normalisations, a stack of layers with random offsets. Softmax stays a little "
            "below 1, because taps that leave the photo read zeros.",
        ),
    }


def photos(scene: Scene) -> Figure:
    """Draw the photo, the bent photo, and the bent photo sampled by each learner."""
    height, width = scene.bent.shape
    figure = new_figure(12, 3 * height / width + 0.35)
    pictures = [("photo", scene.photo.large), ("bent", scene.bent_large)]
    for learning in scene.learnings:
        undone = learning.sampler.sample(scene.bent_large, DETAIL)
        pictures.append((f"undone by {learning.sampler.name}", undone))
    for ax, (title, picture) in zip(_row(figure, len(pictures)), pictures, strict=True):
        _picture(ax, picture, title)
    return figure


def fields(scene: Scene) -> Figure:
    """Draw the true offsets beside the learned ones, and the distances between them."""
    height, width = scene.bent.shape
    figure = new_figure(11, 6 * height / width + 0.8)
    axes = figure.subplots(2, 3)
    longest = float(np.linalg.norm(scene.truth, axis=-1).max())
    shown = [("true offsets", scene.truth)]
    shown += [(f"learned by {r.sampler.name}", r.sampler.mean_offset()) for r in scene.learnings]
    for ax, (title, field) in zip(axes[0], shown, strict=True):
        drawn = viz.offset_wheel(_field_grid(field), longest=longest, ax=ax)
        _plain(ax, title)
        if ax is not axes[0, -1]:  # one legend is enough for three maps of one scale
            drawn.legend.axes.remove()
    _mesh(
        axes[1, 0],
        scene.bent_large,
        _field_grid(DETAIL * _enlarged(scene.truth)),
        "white",
        "true sampling grid",
    )
    # One bad corner must not turn the rest of the map dark: the scale ends where 99 % of the pixels do.
    most = max(float(np.quantile(np.linalg.norm(f - scene.truth, axis=-1), 0.99)) for _, f in shown)
    for ax, (_, field), learning in zip(axes[1, 1:], shown[1:], scene.learnings, strict=True):
        error = np.linalg.norm(field - scene.truth, axis=-1)
        image = ax.imshow(error, cmap="cividis", vmin=0, vmax=most)
        _plain(ax, f"{learning.sampler.name}: distance, mean {error.mean():.2f} px")
    figure.colorbar(image, ax=axes[1, 1:], label="px", shrink=0.9, extend="max")
    return figure


def learning_curves(scene: Scene) -> Figure:
    """Draw distance and loss against the step, on logarithmic scales."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = new_figure(10, 3.8)
    left, right = _row(figure, 2)
    for learning in scene.learnings:
        style: dict[str, Any] = {"color": COLOURS[learning.sampler.name], "linewidth": 2}
        style["linestyle"] = "-" if learning.sampler.name == "DCNv2" else "--"
        name = f"{learning.sampler.name}: {learning.before:.2f} to {learning.after:.2f} px"
        left.semilogy(learning.distances, label=name, **style)
        right.semilogy(learning.losses, label=learning.sampler.name, **style)
    for ax in (left, right):
        _stages(ax, scene.steps)
    left.set(xlabel="step", ylabel="mean distance to the true offsets (px)")
    right.set(xlabel="step", ylabel="squared error / variance")
    for ax in (left, right):
        ax.legend(frameon=False)
        ax.grid(alpha=0.3, which="both")
        ax.set_xlim(0, sum(scene.steps))
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    return figure


def taps(scene: Scene) -> Figure:
    """Draw DCNv3's taps at one output pixel: at the start, while they gather, at the end."""
    learning, pixel = scene.learnings[-1], steepest_pixel(scene)
    figure = new_figure(12, 4.2)
    goal, centre = pixel + scene.truth[pixel], pixel + scene.truth[pixel] / 2
    reach = 3.0 + np.abs(scene.truth[pixel]).max() / 2
    limits = (0.0, max(float(s.modulation().max()) for s in learning.frames))
    axes = _row(figure, 3)
    for ax, frame in zip(axes, (0, len(learning.frames) // 8, -1), strict=True):
        sampler = learning.frames[frame]
        style: dict[str, Any] = {"limits": limits, "legend": False, "numbers": frame == 0}
        drawn = viz.sampling_points(scene.bent, sampler.grid(), sampler.modulation(), [pixel], ax=ax, **style)
        ax.axhline(goal[0], color=group_colour(4), linewidth=1.2, linestyle=":")
        ax.axvline(goal[1], color=group_colour(4), linewidth=1.2, linestyle=":")
        ax.set(xlim=(centre[1] - reach, centre[1] + reach), ylim=(centre[0] + reach, centre[0] - reach))
        ax.set_title(f"after {learning.frame_steps[frame]} steps", fontsize=11)
    figure.colorbar(drawn.taps[0], ax=axes, label="modulation", shrink=0.9)
    return figure


def modulation(scene: Scene) -> Figure:
    """Draw the sums over the taps, and the scales of output and gradient through a stack of layers."""
    figure = new_figure(12, 3.9)
    left, *others = _row(figure, 3)
    viz.modulation_sums({kind: b.modulation for kind, b in scene.balances.items()}, ax=left)
    titles = ("mean of the output / mean of the photo", "gradient that arrives / gradient sent")
    labels = ("layers passed on the way up", "layers passed on the way down")
    for ax, title, label, name in zip(others, titles, labels, ("output_scale", "gradient_scale"), strict=True):
        for index, (kind, balance) in enumerate(scene.balances.items()):
            scale = getattr(balance, name)
            ax.semilogy(scale, "os"[index] + "-", color=group_colour(index), label=f"{kind}: × {short(scale[-1])}")
        ax.axhline(1, color="0.6", linewidth=0.8, zorder=0)
        ax.set(xlabel=label, title=title)
        ax.title.set_fontsize(11)
        ax.legend(frameon=False)
    return figure


def hero(scene: Scene) -> Figure:
    """Draw the picture of the README: the bent photo with the sampling grids over it."""
    height, width = scene.bent_large.shape[:2]
    figure = new_figure(12, 3 * height / width + 0.35)
    axes = _row(figure, 4)
    start = type(scene.learnings[0].sampler)(scene.truth.shape[:2])
    _mesh(axes[0], scene.bent_large, start.grid(DETAIL), "white", "a bent photo, sampled regularly")
    for ax, learning in zip(axes[1:], scene.learnings, strict=False):
        sampler = learning.sampler
        title = f"{sampler.name}: off by {learning.before:.2f} → {learning.after:.2f} px"
        _mesh(
            ax,
            scene.bent_large,
            sampler.grid(DETAIL),
            COLOURS[sampler.name],
            title,
            sampler.modulation(DETAIL),
        )
    last = scene.learnings[-1].sampler
    _picture(axes[3], last.sample(scene.bent_large, DETAIL), f"what {last.name} samples")
    return figure


def short(value: float) -> str:
    """Return a number with three figures, without an exponent as long as it can be read."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e7 else f"{value:.3g}"


def steepest_pixel(scene: Scene) -> tuple[int, int]:
    """Return the output pixel with the longest true offset."""
    lengths = np.linalg.norm(scene.truth, axis=-1)
    y, x = np.unravel_index(int(lengths.argmax()), lengths.shape)
    return int(y), int(x)


def _row(figure: Figure, count: int) -> list[Axes]:
    return list(np.atleast_1d(figure.subplots(1, count)))


def _stages(ax: Axes, steps: tuple[int, int]) -> None:
    """Shade the first stage, and name both."""
    ax.axvspan(0, steps[0], color="0.93", zorder=0)
    for middle, name in ((steps[0] / 2, "blurred images"), (steps[0] + steps[1] / 2, "sharp images")):
        ax.text(middle, 1.02, name, ha="center", fontsize=9, color="0.3", transform=ax.get_xaxis_transform())


def _picture(ax: Axes, picture: np.ndarray, title: str) -> None:
    ax.imshow(np.clip(picture, 0, 1))
    _plain(ax, title)


def _plain(ax: Axes, title: str) -> None:
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=11)


def _mesh(ax: Axes, image: np.ndarray, grid: Any, colour: str, title: str, modulation: Any = None) -> None:
    viz.sampling_mesh(grid, modulation, image=image, every=DETAIL * MESH_EVERY, colour=colour, ax=ax)
    _plain(ax, title)


def _field_grid(field: np.ndarray) -> Any:
    """Return the grid of one tap that moves by `field` (H, W, 2)."""
    return sampling_grid(packed_offset(field[None, :, :, None, None], layout="dcnv3"), 1, layout="dcnv3")


def _enlarged(field: np.ndarray) -> np.ndarray:
    return field.repeat(DETAIL, axis=0).repeat(DETAIL, axis=1)
