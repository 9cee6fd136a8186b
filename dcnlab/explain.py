"""One output pixel taken apart: where each tap looked, what it found, and what it added."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dcnlab.arrays import Array
from dcnlab.ops.deformable import dcnv3, deform_conv2d
from dcnlab.reference import loops
from dcnlab.tables import format_table


@dataclass(frozen=True)
class TapExplanation:
    """One tap of one output value.

    Attributes
    ----------
    group, tap : int
        Offset group and number of the tap in the operator's own order.
    row, column : int
        Of the tap in the kernel.
    channel : int
        Input channel that was sampled.
    position : (y, x)
        In pixels of the input.
    corners : tuple of (y, x, weight, pixel)
        The corners of the bilinear cell that lie in the image: four, fewer at the border, none outside.
    modulation : float
    value : float
        The bilinear sample: the sum of weight * pixel over the corners.
    weight : float
        Of the convolution; 1 for `dcnv3`, which has none.
    contribution : float
        weight * modulation * value.
    """

    group: int
    tap: int
    row: int
    column: int
    channel: int
    position: tuple[float, float]
    corners: tuple[tuple[int, int, float, float], ...]
    modulation: float
    value: float
    weight: float
    contribution: float


@dataclass(frozen=True)
class PixelExplanation:
    """All taps of one output value; prints as a table."""

    operator: str
    pixel: tuple[int, int]
    channel: int
    bias: float
    taps: list[TapExplanation]

    @property
    def output(self) -> float:
        """The output value: the bias and all contributions added up."""
        return self.bias + sum(tap.contribution for tap in self.taps)

    def __str__(self) -> str:
        header = [
            "group",
            "tap",
            "row,col",
            "channel",
            "y",
            "x",
            "corner (y,x) weight",
            "modulation",
            "value",
            "weight",
        ]
        lines = []
        for t in self.taps:
            corners = "  ".join(f"({y},{x}) {w:.2f}" for y, x, w, _ in t.corners) or "outside"
            numbers = [f"{t.modulation:.4f}", f"{t.value:.4f}", f"{t.weight:.4f}", f"{t.contribution:+.4f}"]
            y, x = (f"{p:.2f}" for p in t.position)
            lines.append([str(t.group), str(t.tap), f"{t.row},{t.column}", str(t.channel), y, x, corners, *numbers])
        title = f"{self.operator}, output pixel {self.pixel}, channel {self.channel}"
        total = f"bias {self.bias:+.4f} + contributions = output {self.output:.6f}"
        return "\n".join([title, format_table([*header, "contribution"], lines), total])


def explain_pixel(
    operator: Callable[..., Array], pixel: tuple[int, int], channel: int, *args: Any, image: int = 0, **kwargs: Any
) -> PixelExplanation:
    """Explain one output value of `deform_conv2d` or `dcnv3`, tap by tap.

    Parameters
    ----------
    operator : dcnlab.deform_conv2d or dcnlab.dcnv3
    pixel : (y, x)
        The output pixel.
    channel : int
        The output channel.
    *args, **kwargs
        What the operator would be called with.
    image : int
        Which image of the batch.

    Returns
    -------
    PixelExplanation
        Whose ``.output`` equals the operator's, and whose ``str`` is a table.

    Raises
    ------
    ValueError
        For another operator, or a pixel, channel or image outside the output; and whatever the operator raises.

    Examples
    --------
    >>> import numpy as np, dcnlab
    >>> x = np.arange(9.0).reshape(1, 3, 3, 1)
    >>> offset, mask = np.zeros((1, 3, 3, 18)), np.full((1, 3, 3, 9), 1 / 9)
    >>> found = dcnlab.explain_pixel(dcnlab.dcnv3, (1, 1), 0, x, offset, mask)
    >>> found.taps[1].row, found.taps[1].column, found.taps[1].position
    (1, 0, (1.0, 0.0))
    >>> round(found.output, 6)
    4.0
    """
    if operator not in (deform_conv2d, dcnv3):
        raise ValueError("explain_pixel explains dcnlab.deform_conv2d and dcnlab.dcnv3")
    call = inspect.signature(operator).bind(*args, **kwargs)
    call.apply_defaults()
    arguments = call.arguments
    arguments["backend"] = "numpy"
    output = operator(**arguments)  # checks the arguments, and says how large the output is
    shape = output.shape if operator is deform_conv2d else tuple(output.shape[i] for i in (0, 3, 1, 2))
    for name, at, size in zip(("image", "channel", "y", "x"), (image, channel, *pixel), shape, strict=True):
        if not 0 <= at < size:
            raise ValueError(f"explain_pixel: {name} must be in 0..{size - 1}, got {at}")
    arguments.pop("backend")
    explain = _explain_deform_conv2d if operator is deform_conv2d else _explain_dcnv3
    return explain(image, pixel, channel, **arguments)


def _explain_deform_conv2d(
    n: int,
    pixel: tuple[int, int],
    o: int,
    input: Array,
    offset: Array,
    weight: Array,
    bias: Array | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    mask: Array | None,
) -> PixelExplanation:
    oy, ox = pixel
    out, per_group, kh, kw = weight.shape
    sh, sw, ph, pw, dh, dw = loops.integers(stride, padding, dilation)
    channels, count = input.shape[1], kh * kw
    per_offset_group = channels // (offset.shape[1] // (2 * count))
    first = o // (out * per_group // channels) * per_group  # the first channel of this output's conv group
    taps = []
    for c in range(first, first + per_group):
        g = c // per_offset_group
        for t, j, i in loops.deform_conv2d_taps((kh, kw)):
            dy, dx = (float(offset[n, (g * count + t) * 2 + axis, oy, ox]) for axis in (0, 1))
            y = loops.deform_conv2d_position(oy, j, dy, sh, ph, dh)
            x = loops.deform_conv2d_position(ox, i, dx, sw, pw, dw)
            m = 1.0 if mask is None else float(mask[n, g * count + t, oy, ox])
            taps.append(_tap(input[n, c], y, x, m, float(weight[o, c - first, j, i]), (g, t, j, i, c)))
    return PixelExplanation("deform_conv2d", pixel, o, 0.0 if bias is None else float(bias[o]), taps)


def _explain_dcnv3(
    n: int,
    pixel: tuple[int, int],
    c: int,
    input: Array,
    offset: Array,
    mask: Array,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    offset_scale: float,
    remove_center: bool,
) -> PixelExplanation:
    oy, ox = pixel
    kh, kw = loops.pair(kernel_size, "kernel_size", 1)
    sh, sw, ph, pw, dh, dw = loops.integers(stride, padding, dilation)
    g, count = c // (input.shape[3] // groups), kh * kw - int(remove_center)
    taps = []
    for t, j, i in loops.dcnv3_taps((kh, kw), remove_center):
        dx, dy = (float(offset[n, oy, ox, (g * count + t) * 2 + axis]) for axis in (0, 1))
        y = loops.dcnv3_position(oy, j, dy, kh, sh, ph, dh, offset_scale)
        x = loops.dcnv3_position(ox, i, dx, kw, sw, pw, dw, offset_scale)
        m = float(mask[n, oy, ox, g * count + t])
        taps.append(_tap(input[n, :, :, c], y, x, m, 1.0, (g, t, j, i, c)))
    return PixelExplanation("dcnv3", pixel, c, 0.0, taps)


def _tap(
    plane: Array,
    y: tuple[int, float],
    x: tuple[int, float],
    modulation: float,
    weight: float,
    names: tuple[int, int, int, int, int],
) -> TapExplanation:
    """Sample one channel (H, W) at one position, keeping every number on the way."""
    height, width = plane.shape
    found = tuple(
        (row, column, w, float(plane[row, column])) for row, column, w, _, _ in loops.corners(y, x, height, width)
    )
    value = float("nan") if loops.is_nan(y, x, modulation) else sum((w * p for *_, w, p in found), start=0.0)
    group, tap, row, column, channel = names
    return TapExplanation(
        group=group,
        tap=tap,
        row=row,
        column=column,
        channel=channel,
        position=(y[0] + y[1], x[0] + x[1]),
        corners=found,
        modulation=modulation,
        value=value,
        weight=weight,
        contribution=weight * modulation * value,
    )
