"""Exercise 5: the gradient of the offsets, in DCNv3's published layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.exercises import faulty_sampling as faulty
from dcnlab.exercises.exercise import Exercise
from dcnlab.exercises.function_check import Arguments, Case, FunctionCheck, Mistake
from dcnlab.ops.deformable import dcnv3_backward

STATEMENT = r"""
What moves the taps. DCNv3 with a 3x3 kernel, stride 1, padding 1 and dilation 1 samples at, [eq:dcnv3.1],

$$y = o_y + s\,(j - 1 + \Delta y), \qquad x = o_x + s\,(i - 1 + \Delta x)$$

with the offset scale $s$, which stretches the regular grid as well as the offsets. Write
`grad_offset(grad_output, input, offset, mask, groups, offset_scale)`, which returns $\partial L / \partial \Delta$ in
the published layout:

| array | shape | |
|---|---|---|
| `grad_output` | (H, W, C) | |
| `input` | (H, W, C) | |
| `offset`, result | (H, W, 18 G) | channel 2 (9g + t): **x** offset of tap t of group g; the next: its y offset |
| `mask` | (H, W, 9 G) | channel 9g + t |

Taps count column by column here: tap $t = 3i + j$ stands in row $j$ and column $i$. The slopes are those of exercise 2,
with the same rule at kinks; the last case has all offsets at 0. [eq:sample.3] and [eq:dcnv3.3] have the answer.
"""

STUB = '''
import numpy as np


def grad_offset(grad_output, input, offset, mask, groups, offset_scale):
    """Return dL/d(offset), of the shape of the offset (H, W, 18*groups)."""
    height, width, channels = input.shape
    result = np.zeros(offset.shape)
    raise NotImplementedError  # replace this line
    return result
'''

HINTS = (
    "Chain rule, link by link: L depends on out_c, out_c on the sample v_c with the factor m, v_c on y with the slope "
    "of exercise 2, and y on the offset with a factor that stands in front of it in the formula.",
    "dL/d(dy) = s * m * (sum over the channels c of the group of grad_output[oy, ox, c] * dv_c/dy); likewise for x.",
    "for g in range(groups): for i in range(3): for j in range(3): t = 3 * i + j; at = 2 * (9 * g + t). "
    "offset[..., at] moves x, offset[..., at + 1] moves y, and the slopes go back to the same two channels.",
)

MISTAKES = (
    Mistake(
        "no_scale",
        "The factor offset_scale is missing: an offset of 1 moves its tap by s pixels, so the gradient carries s.",
    ),
    Mistake("no_mask", "The modulation is missing: a sample reaches the output times mask[..., 9 * g + t]."),
    Mistake(
        "result_swapped",
        "The two gradients of a tap are swapped: channel 2 (9g + t) holds x, the next one y.",
    ),
    Mistake(
        "pair_swapped",
        "You read the offsets as (y, x). DCNv3's pairs are (x, y): the first channel moves the tap horizontally.",
    ),
    Mistake(
        "row_major",
        "You count the taps row by row, as DCNv2 does. DCNv3 counts column by column: t = 3 * i + j, with row j and "
        "column i.",
    ),
    Mistake(
        "grid_unscaled",
        "The offset scale multiplies the offsets only. It stretches the regular grid as well: s * (j - 1 + dy).",
    ),
    Mistake("no_offset", "The slopes are taken at the regular grid: the offsets move the samples."),
    faulty.LEFT,
    faulty.CENTRAL,
    faulty.UNGATED,
    faulty.ALL_CHANNELS,
    faulty.INTERLEAVED,
    faulty.CLAMPED,
    faulty.DROPPED,
    faulty.FENCED,
    faulty.TRUNCATED,
)


def cases() -> list[Case]:
    """Return one channel, then modulation, groups, scales, and offsets of 0: every sample on a kink."""
    rng = np.random.default_rng(5)
    return [
        _case("one channel, mask 1", rng, 1, 1, 1.0, masked=False),
        _case("with modulation", rng, 1, 1, 1.0),
        _case("two channels that share the taps", rng, 2, 1, 1.0),
        _case("two groups", rng, 4, 2, 1.0),
        _case("an offset scale", rng, 2, 2, 2.0),
        _case("no offsets: every sample on a kink", rng, 2, 1, 1.0, reach=0.0),
    ]


def _case(
    title: str,
    rng: np.random.Generator,
    channels: int,
    groups: int,
    scale: float,
    reach: float = 0.7,
    masked: bool = True,
) -> Case:
    size = (3, 4)
    arguments = {
        "grad_output": rng.uniform(-1, 1, (*size, channels)).round(2),
        "input": rng.uniform(1, 9, (*size, channels)).round(1),
        "offset": reach * rng.standard_normal((*size, 18 * groups)),
        "mask": rng.uniform(0.1, 1, (*size, 9 * groups)) if masked else np.ones((*size, 9 * groups)),
        "groups": groups,
        "offset_scale": scale,
    }
    return Case(f"{title} (C = {channels}, G = {groups}, offset_scale = {scale:g})", arguments)


def reference(grad_output: np.ndarray, input: np.ndarray, offset: np.ndarray, mask: np.ndarray, **settings: Any) -> Any:
    """Return the gradient, of the shape of the offset, by `dcnlab.dcnv3_backward`."""
    images = grad_output[None], input[None], offset[None], mask[None]
    return dcnv3_backward(*images, **settings, backend="numpy").offset[0]


def locate(index: tuple[int, ...], arguments: Arguments) -> str:
    """Return output pixel, group, tap and direction of a channel of the offset."""
    tap, direction = divmod(index[2], 2)
    g, t = divmod(tap, 9)
    where = f"tap {t} (row {t % 3}, column {t // 3})"
    return f"output pixel {index[:2]}, group {g}, {where}, along {'xy'[direction]} (channel {index[2]})"


def simulate(mistakes: frozenset[str], **arguments: Any) -> np.ndarray:
    """Return the gradient with some mistakes made."""
    image, offset, groups = arguments["input"], arguments["offset"], arguments["groups"]
    result = np.zeros(offset.shape)
    for oy, ox, g, j, i in np.ndindex(*offset.shape[:2], groups, 3, 3):
        tap = 9 * g + (3 * j + i if "row_major" in mistakes else 3 * i + j)
        own = faulty.channels_of_group(g, groups, image.shape[2], mistakes)
        y, x = _position(mistakes, (oy, ox), (j - 1, i - 1), offset[oy, ox, 2 * tap : 2 * tap + 2], arguments)
        along = faulty.slopes(image[:, :, own], y, x, mistakes) @ arguments["grad_output"][oy, ox, own]  # (2,): y, x
        factor = 1.0 if "no_scale" in mistakes else arguments["offset_scale"]
        factor *= 1.0 if "no_mask" in mistakes else arguments["mask"][oy, ox, tap]
        pair = along if "result_swapped" in mistakes else along[::-1]
        result[oy, ox, 2 * tap : 2 * tap + 2] = factor * pair
    return result


def _position(
    mistakes: frozenset[str], pixel: tuple[int, int], tap: tuple[int, int], pair: np.ndarray, arguments: Arguments
) -> tuple[float, float]:
    """Return where a tap samples that stands at `tap` from the middle of the kernel."""
    scale = arguments["offset_scale"]
    of_grid = 1.0 if "grid_unscaled" in mistakes else scale
    dy, dx = pair if "pair_swapped" in mistakes else pair[::-1]
    of_offset = 0.0 if "no_offset" in mistakes else scale
    return pixel[0] + of_grid * tap[0] + of_offset * dy, pixel[1] + of_grid * tap[1] + of_offset * dx


EXERCISE = Exercise(
    number=5,
    name="grad_offset",
    title="The gradient of the offsets",
    statement=STATEMENT,
    stub=STUB,
    hints=HINTS,
    checker=FunctionCheck(
        cases=cases,
        reference=reference,
        locate=locate,
        mistakes=MISTAKES,
        simulate=simulate,
        advice={"IndexError": "A corner lies outside the image. It counts as 0: ask before you read it."},
    ),
    go_on="[04 Backward by hand](../04_backward.ipynb) draws this gradient as arrows over a photo; "
    "[08 Offsets that learn](../08_offsets_that_learn.ipynb) follows it.",
)
