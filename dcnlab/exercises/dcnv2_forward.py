"""Exercise 3: DCNv2, forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dcnlab.exercises import faulty_sampling as faulty
from dcnlab.exercises.exercise import Exercise
from dcnlab.exercises.function_check import Arguments, Case, FunctionCheck, Mistake, close
from dcnlab.ops.deformable import deform_conv2d

STATEMENT = r"""
Write DCNv2 (arXiv 1811.11168, eq. 1) for one image, with stride 1, dilation 1 and one offset group:
`dcnv2_forward(input, offset, mask, weight, padding)`.

| array | shape | |
|---|---|---|
| `input` | (C, H, W) | |
| `offset` | (2K, Ho, Wo) | channels 2t and 2t + 1 are the y and x offsets of tap t |
| `mask` | (K, Ho, Wo) | channel t modulates tap t |
| `weight` | (O, C, kh, kw) | K = kh kw |
| output | (O, Ho, Wo) | |

Tap $t = j\, k_w + i$ stands in row $j$ and column $i$ of the kernel: taps count row by row. At output pixel
$(o_y, o_x)$ it samples at, [eq:deform.1] and [eq:deform.2],

$$y = o_y - \mathrm{padding} + j + \Delta y, \qquad x = o_x - \mathrm{padding} + i + \Delta x$$

$$\mathrm{out}_f(o_y, o_x) = \sum_c \sum_t w_{f,c,j,i}\; m_t(o_y, o_x)\; v_c(y, x)$$

for each output channel $f$, where $v_c$ is the bilinear sample of channel $c$ of the input without padding, 0 outside:
your function from exercise 1, which you may copy here. Plain loops are fine, the images are small.
"""

STUB = '''
import numpy as np


def dcnv2_forward(input, offset, mask, weight, padding):
    """Return (O, Ho, Wo), the modulated deformable convolution of an image (C, H, W)."""
    outputs, channels, kernel_height, kernel_width = weight.shape
    output = np.zeros((outputs, *mask.shape[1:]))
    raise NotImplementedError  # replace this line
    return output
'''

HINTS = (
    "Loop over output pixels and taps first. For each find (y, x) once: all channels share it.",
    "for j in range(kernel_height): for i in range(kernel_width): t = j * kernel_width + i. The tap samples at "
    "oy - padding + j + offset[2 * t, oy, ox] and ox - padding + i + offset[2 * t + 1, oy, ox].",
    "samples = np.array([bilinear_sample(input[c], y, x) for c in range(channels)]); then "
    "output[:, oy, ox] += mask[t, oy, ox] * (weight[:, :, j, i] @ samples).",
)

MISTAKES = (
    Mistake(
        "pair_swapped",
        "x and y are swapped in the offsets. Channel 2t of this layout is the vertical offset (y) of tap t, channel "
        "2t + 1 the horizontal one (x).",
    ),
    Mistake(
        "halves",
        "You read the first K channels of the offset as y and the last K as x. y and x alternate: offset[2 * t] and "
        "offset[2 * t + 1] belong to tap t.",
    ),
    Mistake(
        "column_major",
        "You count the taps column by column, as DCNv3 does. Here they count row by row: t = j * kw + i, with row j "
        "and column i.",
    ),
    Mistake(
        "no_taps",
        "Every tap samples at the same place, moved by its offset alone: the regular grid is forgotten. Add j to y and "
        "i to x.",
    ),
    Mistake("no_padding", "The padding is not taken into account: output pixel 0 starts at -padding."),
    Mistake("no_mask", "The mask is not used: every sample is multiplied by mask[t, oy, ox]."),
    Mistake("no_offset", "The offsets are not used: this is a regular convolution, with modulation."),
    Mistake(
        "flipped",
        "The kernel is flipped. Convolution in neural networks is a correlation: weight[:, :, j, i] belongs to row j "
        "and column i.",
    ),
    *faulty.BETWEEN_PIXELS,
    faulty.NEAREST,
)


def cases() -> list[Case]:
    """Return a 1x1 kernel, a regular convolution, one moved tap, and everything at once."""
    rng = np.random.default_rng(3)
    image = rng.uniform(-1, 1, (2, 5, 6)).round(2)
    return [
        _case("a 1x1 kernel without offsets", rng, image, (1, 1), 0, 0.0, False),
        _case("no offsets, mask 1: a regular convolution", rng, image, (2, 3), 0, 0.0, False),
        _case("the same with padding", rng, image, (2, 3), 1, 0.0, False),
        _case("only tap 1 moves, down by half a pixel", rng, image, (2, 3), 0, 0.0, False, moved=(2, 0.5)),
        _case("every tap moves, mask 1", rng, image, (2, 3), 0, 0.8, False),
        _case("no offsets, a mask", rng, image, (2, 3), 0, 0.0, True),
        _case("everything at once", rng, image, (3, 3), 1, 1.2, True),
    ]


def _case(
    title: str,
    rng: np.random.Generator,
    image: np.ndarray,
    kernel: tuple[int, int],
    padding: int,
    reach: float,
    masked: bool,
    moved: tuple[int, float] = (0, 0.0),
) -> Case:
    """Return a case with offsets of about `reach` pixels; `moved` is one more offset, by its channel."""
    height, width = (side + 2 * padding - k + 1 for side, k in zip(image.shape[1:], kernel, strict=True))
    taps = kernel[0] * kernel[1]
    offset = reach * rng.standard_normal((2 * taps, height, width))
    offset[moved[0]] += moved[1]
    arguments = {
        "input": image,
        "offset": offset,
        "mask": rng.uniform(0.2, 1, (taps, height, width)) if masked else np.ones((taps, height, width)),
        "weight": rng.uniform(-1, 1, (2, len(image), *kernel)).round(2),
        "padding": padding,
    }
    return Case(f"{title} (kernel {kernel[0]}x{kernel[1]}, padding {padding})", arguments)


def reference(input: np.ndarray, offset: np.ndarray, mask: np.ndarray, weight: np.ndarray, padding: int) -> np.ndarray:
    """Return (O, Ho, Wo) by `dcnlab.deform_conv2d`."""
    images = deform_conv2d(input[None], offset[None], weight, padding=padding, mask=mask[None], backend="numpy")
    output: np.ndarray = images[0]
    return output


def locate(index: tuple[int, ...], arguments: Arguments) -> str:
    """Return output channel and pixel."""
    return f"output channel {index[0]}, pixel {index[1:]}"


def simulate(mistakes: frozenset[str], **arguments: Any) -> np.ndarray:
    """Return the output with some mistakes made."""
    image, weight = arguments["input"].transpose(1, 2, 0), arguments["weight"]  # (H, W, C), (O, C, kh, kw)
    outputs, _, kh, kw = weight.shape
    if "flipped" in mistakes:
        weight = weight[:, :, ::-1, ::-1]
    output = np.zeros((outputs, *arguments["mask"].shape[1:]))
    for oy, ox, j, i in np.ndindex(*output.shape[1:], kh, kw):
        t = i * kh + j if "column_major" in mistakes else j * kw + i
        y, x = _position(mistakes, (oy, ox), (j, i), t, arguments)
        m = 1.0 if "no_mask" in mistakes else arguments["mask"][t, oy, ox]
        output[:, oy, ox] += m * (weight[:, :, j, i] @ faulty.value(image, y, x, mistakes))
    return output


def _position(
    mistakes: frozenset[str], pixel: tuple[int, int], tap: tuple[int, int], t: int, arguments: Arguments
) -> tuple[float, float]:
    """Return where tap t, in row and column `tap`, samples."""
    offset, padding = arguments["offset"], 0 if "no_padding" in mistakes else arguments["padding"]
    channels = (t, len(offset) // 2 + t) if "halves" in mistakes else (2 * t, 2 * t + 1)
    if "pair_swapped" in mistakes:
        channels = channels[::-1]
    dy, dx = (0.0 if "no_offset" in mistakes else offset[channel][pixel] for channel in channels)
    j, i = (0, 0) if "no_taps" in mistakes else tap
    return pixel[0] - padding + j + dy, pixel[1] - padding + i + dx


def probe(function: Callable[[Arguments], np.ndarray | None], arguments: Arguments) -> str:
    """Return which taps are wrong when all others have weight 0."""
    weight = arguments["weight"]
    kh, kw = weight.shape[2:]
    wrong = []
    for j, i in np.ndindex(kh, kw):
        alone = np.zeros_like(weight)
        alone[:, :, j, i] = weight[:, :, j, i]
        changed = {**arguments, "weight": alone}
        got = function(changed)
        if got is None or not close(got, reference(**changed)).all():
            wrong.append(f"{j * kw + i} (row {j}, column {i})")
    if len(wrong) == kh * kw:
        return "Each tap is wrong when it is alone."
    few = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
    return f"Of {kh * kw} taps, each alone, these are wrong: {few}." if wrong else "Each tap alone is right."


EXERCISE = Exercise(
    number=3,
    name="dcnv2_forward",
    title="DCNv2, forward",
    statement=STATEMENT,
    stub=STUB,
    hints=HINTS,
    checker=FunctionCheck(
        cases=cases,
        reference=reference,
        locate=locate,
        mistakes=MISTAKES,
        simulate=simulate,
        advice={"IndexError": "A corner lies outside the image, or a tap has another number than its channel."},
        probe=probe,
    ),
    go_on="[03 Forward](../03_forward.ipynb) takes one output pixel apart; "
    "[02 Offset layouts](../02_offset_layouts.ipynb) shows how DCNv3 numbers the same taps.",
)
