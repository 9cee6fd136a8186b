"""Where every tap samples: output sizes, tap order, positions, and the two published layouts.

Everything in the library that needs a position takes it from a `SamplingGrid`, in the canonical form::

    positions   (N, Ho, Wo, G, K, 2)   last axis (y, x), pixels of the unpadded input, +y down, +x right
    modulation  (N, Ho, Wo, G, K)

Only this module knows how the published operators store offsets and masks:

==================  =======================================  =========================================
layout              offset                                   mask
==================  =======================================  =========================================
``deform_conv2d``   (N, G*K*2, Ho, Wo), pairs (y, x)         (N, G*K, Ho, Wo)
``dcnv3``           (N, Ho, Wo, G*K*2), pairs (x, y)         (N, Ho, Wo, G*K)
==================  =======================================  =========================================

and that ``deform_conv2d`` numbers its taps row by row (tap t = row*kw + column) while ``dcnv3`` numbers them column
by column (t = column*kh + row). Sources: torchvision.ops.deform_conv2d; OpenGVLab/InternImage, ops_dcnv3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dcnlab.arrays import Array, array_module

Pair = tuple[int, int]
IntOrPair = int | tuple[int, int]

LAYOUTS = ("deform_conv2d", "dcnv3")


def pair(value: IntOrPair, name: str, minimum: int) -> Pair:
    """Return `value` as (vertical, horizontal), refusing anything but integers of at least `minimum`.

    >>> pair(2, "stride", 1)
    (2, 2)
    """
    if type(value) is int and value >= minimum:
        return value, value
    values = tuple(value) if isinstance(value, (tuple, list, np.ndarray)) else (value, value)
    whole = all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in values)
    if len(values) != 2 or not whole:
        raise TypeError(f"{name} must be an int or a pair of ints (vertical, horizontal), got {value!r}")
    if min(values) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return int(values[0]), int(values[1])


def output_size(
    input_size: Pair,
    kernel_size: IntOrPair,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> Pair:
    """Return the output's (height, width) of a convolution over an image of `input_size`.

    ``Ho = (H + 2*padding - dilation*(kernel - 1) - 1) // stride + 1``, and likewise for the width.

    Raises
    ------
    ValueError
        When the kernel does not fit into the padded image, with this call's numbers in the formula.

    Examples
    --------
    >>> output_size((7, 9), 3, stride=2, padding=1)
    (4, 5)
    """
    size = pair(input_size, "input size (height, width)", 1)
    k, s = pair(kernel_size, "kernel_size", 1), pair(stride, "stride", 1)
    p, d = pair(padding, "padding", 0), pair(dilation, "dilation", 1)
    result = []
    for axis, side in enumerate(("height", "width")):
        span = size[axis] + 2 * p[axis] - d[axis] * (k[axis] - 1) - 1
        if span < 0:
            raise ValueError(
                f"the kernel is larger than the padded image: output {side} = ({size[axis]} + 2*{p[axis]} "
                f"- {d[axis]}*({k[axis]} - 1) - 1) // {s[axis]} + 1 = {span // s[axis] + 1} must be at least 1"
            )
        result.append(span // s[axis] + 1)
    return result[0], result[1]


def tap_positions(
    kernel_size: IntOrPair,
    dilation: IntOrPair = 1,
    *,
    layout: str = "deform_conv2d",
    remove_center: bool = False,
) -> np.ndarray:
    """Return the (y, x) of every tap relative to the kernel's first corner, in the layout's order, as (K, 2) int.

    Parameters
    ----------
    kernel_size, dilation : int or (vertical, horizontal)
    layout : {"deform_conv2d", "dcnv3"}
        deform_conv2d counts row by row, dcnv3 column by column.
    remove_center : bool
        Leave out the centre tap (dcnv3, square odd kernels only); later taps move up by one.

    Examples
    --------
    >>> tap_positions((2, 3))[:4].tolist()
    [[0, 0], [0, 1], [0, 2], [1, 0]]
    >>> tap_positions((2, 3), layout="dcnv3")[:4].tolist()
    [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    kh, kw = pair(kernel_size, "kernel_size", 1)
    dil_h, dil_w = pair(dilation, "dilation", 1)
    row, column = np.divmod(np.arange(kh * kw), kw)
    if _known(layout) == "dcnv3":
        column, row = np.divmod(np.arange(kh * kw), kh)
    taps = np.stack([row * dil_h, column * dil_w], axis=-1)
    if not remove_center:
        return taps
    if layout != "dcnv3":
        raise ValueError("remove_center is an option of the dcnv3 layout; deform_conv2d keeps all its taps")
    if kh != kw or kh % 2 == 0 or kh == 1:
        raise ValueError(f"remove_center needs a square odd kernel of at least 3x3, got {kh}x{kw}")
    return np.delete(taps, kh * kw // 2, axis=0)


@dataclass(frozen=True)
class SamplingGrid:
    """Where every tap of every output pixel samples, the integer and the fractional part kept apart.

    The position of tap k of group g at output pixel p is ``origins[:, p] + taps[k]`` (integers) plus the displacement
    ``residual[k] + offset_scale * offset[n, p, g, k]`` (floats, small). Adding them in float32 would lose accuracy on
    large images: at y = 1000 a float32 resolves only 6e-5 of a pixel. Operators never add them; `positions` does, for
    those who want to look.

    Attributes
    ----------
    output_size : (Ho, Wo)
    origins : (2, Ho*Wo) int32, y and x of the point of the input that the taps of each output pixel count from
    taps : (K, 2) int32
    residual : (K, 2) float64, what rounding the scaled taps to integers left over; zeros for offset_scale 1
    offset : (N, Ho*Wo, G, K, 2), a view of the caller's offsets in canonical order
    offset_scale : float
    """

    output_size: Pair
    origins: Array
    taps: Array
    residual: Array
    offset: Array
    offset_scale: float

    @property
    def groups(self) -> int:
        """The number of offset groups G."""
        return int(self.offset.shape[2])

    @property
    def pixel_count(self) -> int:
        """The number of output pixels, Ho*Wo."""
        return int(self.offset.shape[1])

    @property
    def tap_count(self) -> int:
        """The number of taps K."""
        return int(self.offset.shape[3])

    def block(self, image: int, pixels: slice) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Return the positions of some output pixels of one image in two parts that are never added.

        Returns
        -------
        base : (y, x), each (pixels, 1, K) int32
        displacement : (y, x), each (pixels, G, K) float
        """
        y, x = ((self.origins[axis, pixels, None] + self.taps[:, axis])[:, None] for axis in (0, 1))
        offset = self.offset[image, pixels]
        dy, dx = offset[..., 0], offset[..., 1]
        if self.offset_scale != 1.0:
            residual = self.residual.astype(offset.dtype)
            dy, dx = residual[:, 0] + self.offset_scale * dy, residual[:, 1] + self.offset_scale * dx
        return (y, x), (dy, dx)

    def regular(self) -> Array:
        """Return the positions of the undeformed grid (offset 0), (Ho, Wo, K, 2) float64."""
        base = (self.origins.T[:, None, :] + self.taps) + self.residual
        return base.reshape(*self.output_size, -1, 2)

    def positions(self) -> Array:
        """Return all sampling positions, (N, Ho, Wo, G, K, 2), last axis (y, x), in the dtype of the offsets."""
        n, _, g, k, _ = self.offset.shape
        moved = self.offset_scale * self.offset + self.residual.astype(self.offset.dtype)
        moved = moved + (self.origins.T[:, None, None, :] + self.taps).astype(self.offset.dtype)
        return moved.reshape(n, *self.output_size, g, k, 2)


def sampling_grid(
    offset: Array,
    kernel_size: IntOrPair = 3,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    *,
    layout: str,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> SamplingGrid:
    r"""Return the `SamplingGrid` of published offsets; the number of groups follows from their shape.

    For ``layout="deform_conv2d"`` tap (j, i) of the output pixel (oy, ox) samples at
    [eq:deform.1]

    .. math:: y = oy\,s_h - p_h + j\,d_h + \Delta y

    and for ``layout="dcnv3"``, with :math:`r_h = \lfloor d_h (k_h - 1) / 2 \rfloor` and the offset scale :math:`s`, at
    [eq:dcnv3.1]

    .. math:: y = oy\,s_h - p_h + r_h + s\,(j\,d_h - r_h + \Delta y)

    and x likewise: the scale stretches the regular grid around its centre as well as the offsets.

    Raises
    ------
    ValueError
        When the channels of `offset` are not a multiple of 2*K.
    """
    xp = array_module(offset)
    kernel, dilated = pair(kernel_size, "kernel_size", 1), pair(dilation, "dilation", 1)
    taps, residual = scaled_taps(kernel, dilated, _known(layout), offset_scale, remove_center)
    count = len(taps)
    if offset.ndim != 4:
        raise ValueError(f"{layout} offsets have 4 dimensions, got shape {tuple(offset.shape)}")
    channels = offset.shape[1] if layout == "deform_conv2d" else offset.shape[3]
    if channels == 0 or channels % (2 * count):
        raise ValueError(f"{layout} offsets have G*K*2 = G*{count}*2 channels, got {channels}")
    groups, n = channels // (2 * count), offset.shape[0]
    if layout == "deform_conv2d":
        if offset_scale != 1.0:
            raise ValueError("offset_scale is an option of the dcnv3 layout")
        size = offset.shape[2:]
        view = offset.reshape(n, groups, count, 2, size[0] * size[1]).transpose(0, 4, 1, 2, 3)
    else:
        size = offset.shape[1:3]
        view = offset.reshape(n, size[0] * size[1], groups, count, 2)[..., ::-1]  # published (x, y) -> (y, x)
    return SamplingGrid(
        output_size=(size[0], size[1]),
        origins=xp.asarray(_origins(tuple(size), pair(stride, "stride", 1), pair(padding, "padding", 0))),
        taps=xp.asarray(taps),
        residual=xp.asarray(residual),
        offset=view,
        offset_scale=float(offset_scale),
    )


# A network calls an operator on the same geometry over and over: what depends on nothing else is kept.


@lru_cache(maxsize=32)
def scaled_taps(
    kernel_size: Pair, dilation: Pair, layout: str, offset_scale: float, remove_center: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return where the regular taps stand, r + s*(tap - r), as whole pixels (K, 2) int32 and what is left over."""
    taps = tap_positions(kernel_size, dilation, layout=layout, remove_center=remove_center)
    centre = np.array([d * (k - 1) // 2 for k, d in zip(kernel_size, dilation, strict=True)])
    scaled = centre + offset_scale * (taps - centre)
    whole = np.round(scaled)
    return _read_only(whole.astype(np.int32)), _read_only(scaled - whole)


@lru_cache(maxsize=32)
def _origins(size: Pair, stride: Pair, padding: Pair) -> np.ndarray:
    """Return o*stride - padding for every output pixel, (2, Ho*Wo) int32."""
    rows, columns = (np.arange(size[axis], dtype=np.int32) * stride[axis] - padding[axis] for axis in (0, 1))
    return _read_only(np.stack([np.repeat(rows, size[1]), np.tile(columns, size[0])]))


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def sampling_positions(offset: Array, *args: Any, layout: str, **kwargs: Any) -> Array:
    """Return where every tap samples, (N, Ho, Wo, G, K, 2), last axis (y, x): `sampling_grid(...).positions()`.

    Examples
    --------
    The first tap of a 3x3 kernel with padding 1 stands up and to the left of its output pixel:

    >>> import numpy as np
    >>> offset = np.zeros((1, 18, 4, 4))
    >>> sampling_positions(offset, 3, padding=1, layout="deform_conv2d")[0, 2, 2, 0, 0].tolist()
    [1.0, 1.0]
    """
    return sampling_grid(offset, *args, layout=layout, **kwargs).positions()


def sampling_modulation(mask: Array, taps: int, *, layout: str) -> Array:
    """Return a published mask in canonical order, (N, Ho, Wo, G, K), as a view.

    >>> import numpy as np
    >>> sampling_modulation(np.zeros((1, 18, 5, 6)), 9, layout="deform_conv2d").shape
    (1, 5, 6, 2, 9)
    """
    if mask.ndim != 4:
        raise ValueError(f"{layout} masks have 4 dimensions, got shape {tuple(mask.shape)}")
    if _known(layout) == "deform_conv2d":
        mask = mask.transpose(0, 2, 3, 1)
    n, height, width, channels = mask.shape
    if channels % taps:
        raise ValueError(f"{layout} masks have G*K = G*{taps} channels, got {channels}")
    return mask.reshape(n, height, width, channels // taps, taps)


def packed_offset(offset: Array, *, layout: str) -> Array:
    """Pack canonical offsets (N, Ho, Wo, G, K, 2), last axis (y, x), into the published layout: a new array."""
    n, height, width, groups, taps, _ = offset.shape
    if _known(layout) == "dcnv3":
        packed = offset[..., ::-1].reshape(n, height, width, groups * taps * 2)
    else:
        packed = offset.transpose(0, 3, 4, 5, 1, 2).reshape(n, groups * taps * 2, height, width)
    return array_module(offset).ascontiguousarray(packed)


def packed_modulation(modulation: Array, *, layout: str) -> Array:
    """Pack canonical modulation (N, Ho, Wo, G, K) into the published layout of the mask: a new array."""
    n, height, width, groups, taps = modulation.shape
    packed = modulation.reshape(n, height, width, groups * taps)
    if _known(layout) == "deform_conv2d":
        packed = packed.transpose(0, 3, 1, 2)
    return array_module(modulation).ascontiguousarray(packed)


def _known(layout: str) -> str:
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    return layout
