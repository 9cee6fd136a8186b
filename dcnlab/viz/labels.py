"""Labels beside points, placed so that they cover neither each other nor the points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dcnlab.viz.canvas import halo

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

DISTANCE = 14.0  # from the point to the middle of its label, in points (1/72 inch)
CLEARANCE = 13.0  # closer than this, two things begin to touch


def place_labels(ax: Axes, points: np.ndarray, names: list[str], away_from: np.ndarray) -> list[Annotation]:
    """Write `names` beside `points`, each in the freest of sixteen directions.

    One label after the other: a direction costs the more, the closer it comes to points and earlier labels;
    the one that leads away from `away_from` is preferred among equals.

    Parameters
    ----------
    points, away_from : (labels, 2), in data coordinates (x, y)
        Points that are not finite or outside the view get no label.
    """
    ax.apply_aspect()  # only then does transData hold for an image
    to_points = 72.0 / ax.figure.dpi
    place = ax.transData.transform(points) * to_points
    outward = place - ax.transData.transform(away_from) * to_points
    seen = _in_view(ax, points)
    obstacles = place[seen]
    turn = np.arange(16) * (2 * np.pi / 16)
    steps = DISTANCE * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    labels = []
    for index in np.flatnonzero(seen):
        away = outward[index] / (np.linalg.norm(outward[index]) + 1e-9)
        candidates = place[index] + steps
        gap = np.linalg.norm(candidates[:, None] - obstacles, axis=-1)
        cost = (np.maximum(0.0, CLEARANCE - gap) ** 2).sum(axis=1) - 0.5 * steps @ away
        best = int(cost.argmin())
        obstacles = np.vstack([obstacles, candidates[best]])
        labels.append(
            ax.annotate(
                names[index],
                points[index],
                xytext=steps[best],
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=9,
                color="white",
                path_effects=halo(2.2),
                zorder=5,
            )
        )
    return labels


def _in_view(ax: Axes, points: np.ndarray) -> np.ndarray:
    (left, right), (bottom, top) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    x, y = points.T
    return (x >= left) & (x <= right) & (y >= bottom) & (y <= top)
