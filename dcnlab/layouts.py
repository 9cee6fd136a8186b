"""Offsets and masks carried over between DCNv2's and DCNv3's published layouts.

DCNv3 is DCNv2 with groups = C, one all-ones weight a channel and no bias (FACTS checked to 2e-15), so the same
sampling points can be written either way: only the tap order, the order within the pair, the axes and the grid that
the offsets are counted from differ.
"""

from __future__ import annotations

import numpy as np

from dcnlab import geometry
from dcnlab.arrays import Array, array_module, require_arrays
from dcnlab.geometry import IntOrPair, pair


def dcnv2_from_dcnv3(
    offset: Array,
    mask: Array,
    kernel_size: IntOrPair = 3,
    dilation: IntOrPair = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> tuple[Array, Array]:
    """Return (offset, mask) for `deform_conv2d` that sample where these of `dcnv3` do.

    Parameters
    ----------
    offset : (N, Ho, Wo, G*P*2)
        DCNv3 offsets; P = kh*kw, less one with `remove_center`.
    mask : (N, Ho, Wo, G*P)
    kernel_size, dilation, offset_scale, remove_center
        Those of the `dcnv3` call.

    Returns
    -------
    offset : (N, G*K*2, Ho, Wo), K = kh*kw
        ``dy2 = (s - 1)*(j*dilation - r) + s*dy``: DCNv2 has no scale, so it moves into the offset.
    mask : (N, G*K, Ho, Wo)
        With `remove_center` the centre tap comes back with modulation 0.

    Examples
    --------
    >>> import numpy as np
    >>> offset2, mask2 = dcnv2_from_dcnv3(np.zeros((1, 4, 4, 36)), np.ones((1, 4, 4, 18)))
    >>> offset2.shape, mask2.shape
    ((1, 36, 4, 4), (1, 18, 4, 4))
    """
    _check(offset, mask)
    grid = geometry.sampling_grid(
        offset,
        kernel_size,
        dilation=dilation,
        layout="dcnv3",
        offset_scale=offset_scale,
        remove_center=remove_center,
    )
    order = _column_major(kernel_size)
    if remove_center:
        order = np.delete(order, len(order) // 2)
    n, _, groups, _, _ = grid.offset.shape
    count = np.prod(pair(kernel_size, "kernel_size", 1))
    shape = (n, *grid.output_size, groups, int(count))
    # One step of the scaled grid, less the unscaled tap that DCNv2 counts from.
    unscaled = geometry.tap_positions(kernel_size, dilation, layout="dcnv3", remove_center=remove_center)
    xp = array_module(offset)
    step = (grid.taps - xp.asarray(unscaled)) + grid.residual
    moved = step.astype(offset.dtype) + grid.offset_scale * grid.offset

    offset2, mask2 = xp.zeros((*shape, 2), offset.dtype), xp.zeros(shape, mask.dtype)
    offset2[..., order, :] = moved.reshape(*shape[:4], -1, 2)
    mask2[..., order] = geometry.sampling_modulation(mask, len(order), layout="dcnv3")
    layout = "deform_conv2d"
    return geometry.packed_offset(offset2, layout=layout), geometry.packed_modulation(mask2, layout=layout)


def dcnv3_from_dcnv2(
    offset: Array,
    mask: Array,
    kernel_size: IntOrPair = 3,
    dilation: IntOrPair = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> tuple[Array, Array]:
    """Return (offset, mask) for `dcnv3` that sample where these of `deform_conv2d` do.

    The inverse of `dcnv2_from_dcnv3`; the arguments are those of the coming `dcnv3` call.

    Raises
    ------
    ValueError
        With `remove_center` where the modulation of the centre tap is not 0 (it would be lost), and for
        ``offset_scale=0`` (no offset reaches the sampling points then).
    """
    _check(offset, mask)
    if offset_scale == 0:
        raise ValueError("dcnv3_from_dcnv2: offset_scale must not be 0")
    order = _column_major(kernel_size)
    mask2 = geometry.sampling_modulation(mask, len(order), layout="deform_conv2d")
    if remove_center:
        lost = mask2[..., order[len(order) // 2]]
        if bool((lost != 0).any()):
            raise ValueError(
                "dcnv3_from_dcnv2: remove_center=True drops the centre tap, so its modulation must be 0 everywhere, "
                f"got up to {float(abs(lost).max()):g}"
            )
        order = np.delete(order, len(order) // 2)
    grid = geometry.sampling_grid(offset, kernel_size, dilation=dilation, layout="deform_conv2d")
    moved = grid.offset[:, :, :, order]
    taps = geometry.tap_positions(kernel_size, dilation, layout="dcnv3", remove_center=remove_center)
    (kh, kw), (dil_h, dil_w) = pair(kernel_size, "kernel_size", 1), pair(dilation, "dilation", 1)
    centre = np.array([dil_h * (kh - 1) // 2, dil_w * (kw - 1) // 2])
    xp = array_module(offset)
    step = xp.asarray((offset_scale - 1.0) * (taps - centre)).astype(offset.dtype)
    moved = (moved - step) / offset_scale
    n, _, groups, count, _ = moved.shape
    moved = moved.reshape(n, *grid.output_size, groups, count, 2)
    layout = "dcnv3"
    return geometry.packed_offset(moved, layout=layout), geometry.packed_modulation(mask2[..., order], layout=layout)


def _column_major(kernel_size: IntOrPair) -> np.ndarray:
    """Return the row-by-row number of every tap of the column-by-column order."""
    kh, kw = pair(kernel_size, "kernel_size", 1)
    return np.arange(kh * kw).reshape(kh, kw).T.ravel()


def _check(offset: Array, mask: Array) -> None:
    require_arrays("layout converter", offset=offset, mask=mask)
    two = 2 * np.prod(mask.shape)
    if offset.ndim != 4 or mask.ndim != 4 or np.prod(offset.shape) != two:
        raise ValueError(
            f"layout converter: the offset has two channels for each of the mask's, got {offset.shape} and {mask.shape}"
        )
