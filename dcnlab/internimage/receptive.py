"""The effective receptive field: which pixels of the image one pixel of a stage's map depends on, and how much."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dcnlab.arrays import Array, array_module
from dcnlab.internimage.model import InternImage
from dcnlab.internimage.sampled import stage_stride
from dcnlab.internimage.variants import LEVELS
from dcnlab.nn.module import Rng

Pixel = tuple[int, int]


def effective_receptive_field(
    model: InternImage,
    images: Array,
    stage: int,
    pixel: Pixel | None = None,
    directions: int = 4,
    rng: Rng = 0,
) -> Array:
    r"""Return how strongly one pixel of a stage's map depends on each pixel of the images.

    With F the C features of the map at `pixel`, and r a vector of C random signs,

    .. math:: E_{yx} = \left\langle \sum_{\text{colours } c} \left|\frac{\partial\, (r \cdot F)}{\partial x_{cyx}}
        \right| \right\rangle_r

    Parameters
    ----------
    model : InternImage
        In eval mode, or what drop path leaves out by chance is left out here too.
    images : (N, 3, H, W)
        Preprocessed, of the model's dtype.
    stage : int
        0 to 3.
    pixel : (y, x), optional
        Of the map, (H/4/2^stage, W/4/2^stage), rounded up; its middle by default, see `middle`.
    directions : int
        How many r the mean goes over. Each takes a backward pass.
    rng : numpy.random.Generator, int or None
        Draws them.

    Returns
    -------
    (N, H, W)
        One for each image; the mean over many images is what papers show.

    Raises
    ------
    ValueError
        For a stage or a pixel that does not exist.

    Notes
    -----
    Luo et al. (arXiv 1701.04128) take the gradient of one feature, others that of their sum. The sum says nothing
    here: where a stage ends in a layer norm, as in variants T and H, its features add up to the same number whatever
    the image (exactly so in a new model), and the gradient is rounding. Random signs see every feature: the mean
    square of :math:`\partial (r \cdot F)` over r is the sum of the squares of the C gradients. Figure 7 of the
    InternImage paper (arXiv 2211.05778) shows such maps.

    The parameters' gradients are overwritten.

    Examples
    --------
    In a new model nothing is learned yet, and the field is small and square:

    >>> from dcnlab.internimage import InternImage, effective_receptive_field
    >>> model = InternImage(channels=16, depths=[1, 1, 1, 1], groups=[1, 2, 4, 8], num_classes=10, rng=0).eval()
    >>> x = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    >>> field = effective_receptive_field(model, x, stage=0)
    >>> rows, columns = np.nonzero(field[0])
    >>> (rows.min(), rows.max()), (columns.min(), columns.max())  # 32 - 7, 32 + 7
    ((np.int64(25), np.int64(39)), (np.int64(25), np.int64(39)))
    """
    return fields_of_maps(model, model.features(images), stage, pixel, directions, rng)


def fields_of_maps(
    model: InternImage,
    maps: Sequence[Array],
    stage: int,
    pixel: Pixel | None = None,
    directions: int = 4,
    rng: Rng = 0,
) -> Array:
    """Return the same from the maps that ``model.features(images)`` has just returned: one forward for all stages."""
    if isinstance(stage, bool) or not isinstance(stage, (int, np.integer)) or not 0 <= stage < LEVELS:
        raise ValueError(f"stage must be in 0..{LEVELS - 1}, got {stage!r}")
    if isinstance(directions, bool) or not isinstance(directions, (int, np.integer)) or directions < 1:
        raise ValueError(f"directions must be an int of at least 1, got {directions!r}")
    features = maps[stage]
    y, x = middle(features.shape[1:3]) if pixel is None else _require_pixel(pixel, features.shape[1:3])
    xp, generator = array_module(features), np.random.default_rng(rng)
    total: Array = 0
    for _ in range(directions):
        grads: list[Array | None] = [None] * LEVELS
        grad = grads[stage] = xp.zeros_like(features)
        grad[:, y, x] = xp.asarray(generator.choice((-1.0, 1.0), features.shape[-1]))
        total = total + abs(model.backward_features(grads)).sum(axis=1)  # (N, H, W)
    return total / directions


def middle(size: Sequence[int]) -> Pixel:
    """Return the pixel in the middle of a map, the lower right one of the four where its sides are even.

    >>> middle((7, 4))
    (3, 2)
    """
    return int(size[0]) // 2, int(size[1]) // 2


def centre_on_image(pixel: Pixel, stage: int) -> Pixel:
    """Return the pixel of the image on which a pixel of a stage's map is centred.

    See `LayerSampling.on_image` for why there are no half pixels.

    >>> centre_on_image((3, 2), stage=3)
    (96, 64)
    """
    return pixel[0] * stage_stride(stage), pixel[1] * stage_stride(stage)


def share_within(field: Array, centre: Pixel, radii: Sequence[float]) -> list[float]:
    """Return which share of an effective receptive field lies within circles around a pixel.

    Parameters
    ----------
    field : (H, W)
    centre : (y, x)
    radii : list of float
        In pixels; a pixel counts where its centre is inside or on the circle.

    Returns
    -------
    list of float
        In 0..1; NaN for a field that is 0 or not finite.

    Examples
    --------
    >>> share_within(np.ones((5, 5)), (2, 2), [0, 1, 9])
    [0.04, 0.2, 1.0]
    """
    distances = _distances(field, centre)
    whole = float(field.sum())
    if not (np.isfinite(whole) and whole > 0):
        return [float("nan")] * len(radii)
    return [float(field[distances <= radius].sum()) / whole for radius in radii]


def radius_of_share(field: Array, centre: Pixel, share: float) -> float:
    """Return the radius of the smallest circle around a pixel that holds a share of the field, in pixels.

    NaN for a field that is 0 or not finite.

    >>> radius_of_share(np.ones((5, 5)), (2, 2), 0.2)
    1.0
    """
    distances = _distances(field, centre).ravel()
    order = np.argsort(distances, kind="stable")
    cumulated = np.cumsum(field.ravel()[order], dtype=np.float64)
    if not (np.isfinite(cumulated[-1]) and cumulated[-1] > 0):
        return float("nan")
    # Sums are rounded: what is short of the share by that much has reached it.
    reached = int(np.searchsorted(cumulated, share * cumulated[-1] * (1 - 1e-12)))
    return float(distances[order[min(reached, len(order) - 1)]])


def _distances(field: Array, centre: Pixel) -> np.ndarray:
    if field.ndim != 2:
        raise ValueError(f"a field has shape (H, W), got {tuple(field.shape)}")
    rows, columns = np.ogrid[: field.shape[0], : field.shape[1]]
    return np.hypot(rows - centre[0], columns - centre[1])


def _require_pixel(pixel: Pixel, size: Sequence[int]) -> Pixel:
    whole = np.shape(pixel) == (2,) and all(isinstance(p, (int, np.integer)) for p in pixel)
    if not whole or not all(0 <= p < side for p, side in zip(pixel, size, strict=True)):
        raise ValueError(f"pixel must be (y, x) in a map of {size[0]}x{size[1]} pixels, got {pixel!r}")
    return int(pixel[0]), int(pixel[1])
