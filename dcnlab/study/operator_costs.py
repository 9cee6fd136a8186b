"""What an operator costs as the image grows: multiply-adds by formula, memory and time by measurement."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from dcnlab import nn
from dcnlab.arrays import Array
from dcnlab.bench.timing import interleaved, milliseconds
from dcnlab.geometry import Pair, output_size
from dcnlab.internimage.summary import DCNV3_OPERATIONS

MOST_BYTES, MOST_SECONDS = 2e9, 2.0  # what a point may need; a larger image is left out
ROUNDS = 5
FITTED = 3  # points, the largest ones, that an exponent is fitted to


class MultiplyAdds(NamedTuple):
    """The multiply-adds of one image.

    Attributes
    ----------
    mixing : int
        Between pixels: the operator itself, with what predicts its weights and offsets.
    projections : int
        Within each pixel: the linear layers before and after.
    """

    mixing: int
    projections: int

    @property
    def total(self) -> int:
        """Both."""
        return self.mixing + self.projections


def multiply_adds(layer: nn.Module, height: int, width: int) -> MultiplyAdds:
    r"""Return the multiply-adds of a layer for one image, by formula.

    Counted as published figures are: products of weights, values and pixels; not biases, softmax, norms and
    activations; the zeros around an image count as pixels. With n pixels and C channels:

    ================== =================================== =======================
    layer              mixing                              projections
    ================== =================================== =======================
    global attention   2 C n^2 (scores, weighted sum)      4 C^2 n
    window attention   2 C (sum of the windows' sizes^2)   4 C^2 n
    depthwise k x k    k^2 C n                             0
    DCNv3, K taps      5 K C n + (k^2 C + 3 G K C) n       2 C^2 n
    ================== =================================== =======================

    DCNv3 reads four corners for each tap and channel, and modulates: 5. In brackets, its depthwise convolution, and
    the linear layers that make 2 G K offsets and G K logits of its output.

    Raises
    ------
    TypeError
        For a layer that is none of these; a `LargeKernelConv2d` is counted when merged.
    ValueError
        For a convolution whose output has another size than its input.
    """
    pixels = height * width
    if isinstance(layer, nn.MultiHeadSelfAttention):
        regions = _regions(layer, height, width)
        return MultiplyAdds(2 * layer.dim * sum(n * n for n in regions), 4 * layer.dim**2 * pixels)
    if isinstance(layer, (nn.DepthwiseConv2d, nn.DCNv3)):
        _require_same_size(layer, (height, width))
    if isinstance(layer, nn.DepthwiseConv2d):
        return MultiplyAdds(layer.weight.size * pixels, 0)
    if isinstance(layer, nn.DCNv3):
        taps, channels = layer.taps, layer.channels
        predicted = layer.dw_conv[0].weight.size + channels * 3 * layer.groups * taps
        sampled = DCNV3_OPERATIONS * taps * channels
        return MultiplyAdds((sampled + predicted) * pixels, 2 * channels**2 * pixels)
    if isinstance(layer, nn.Sequential):
        each = [multiply_adds(part, height, width) for part in layer]
        return MultiplyAdds(sum(m.mixing for m in each), sum(m.projections for m in each))
    if isinstance(layer, (nn.ToChannelsFirst, nn.ToChannelsLast)):
        return MultiplyAdds(0, 0)
    raise TypeError(f"multiply_adds: no formula for {type(layer).__name__}")


def _require_same_size(layer: nn.DepthwiseConv2d | nn.DCNv3, size: Pair) -> None:
    kernel = layer.kernel_size if isinstance(layer, nn.DCNv3) else layer.weight.shape[2:]
    output = output_size(size, (kernel[0], kernel[1]), layer.stride, layer.padding, layer.dilation)
    if output != size:
        raise ValueError(f"multiply_adds: {type(layer).__name__} must keep the size, it makes {output} of {size}")


def _regions(layer: nn.MultiHeadSelfAttention, height: int, width: int) -> list[int]:
    """Return the number of pixels of each window; one window without."""
    if not isinstance(layer, nn.WindowAttention):
        return [height * width]
    rows, columns = (
        [min(step, side - start) for start in range(0, side, step)]
        for side, step in zip((height, width), layer.window, strict=True)
    )
    return [h * w for h in rows for w in columns]


# -- memory and time -----------------------------------------------------------------------------------------------


def kept_bytes(layer: nn.Module) -> int:
    """Return the bytes of the arrays that a layer and those in it keep for backward; parameters do not count.

    Views of one array count once, with all that it holds.

    >>> layer = nn.GELU()
    >>> _ = layer(np.zeros((2, 3), np.float32))
    >>> kept_bytes(layer)
    24
    """
    found: dict[int, int] = {}
    for module in layer.modules():
        for value in _kept(module):
            if isinstance(value, np.ndarray):
                owner = _owner(value)
                found[id(owner)] = owner.nbytes
    return sum(found.values())


def _kept(module: nn.Module) -> list[Any]:
    try:
        return list(vars(module.kept()).values())
    except RuntimeError:  # a container keeps nothing itself
        return []


def _owner(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the most bytes that NumPy's arrays, and Python, held at once during a call beyond those before it.

    NumPy reports its arrays to tracemalloc; buffers inside BLAS are not seen.
    """
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


class Point(NamedTuple):
    """What a layer needs for one image, float32, one thread.

    Attributes
    ----------
    kept, peak : int
        Bytes that it keeps for backward, and the most that forward and backward hold at once, arguments excepted.
    forward_ms : float
        Median over some rounds.
    """

    kept: int
    peak: int
    forward_ms: float


def measure(layers: Mapping[str, nn.Module], input: Array, rounds: int = ROUNDS) -> dict[str, Point]:
    """Measure the layers side by side on one image (1, H, W, C)."""
    found = {}
    with threadpool_limits(1):
        seconds = interleaved({name: partial(layer, input) for name, layer in layers.items()}, rounds)
        for name, layer in layers.items():
            _forget(layer)
            peak = peak_bytes(partial(_forward_and_backward, layer, input))
            found[name] = Point(kept_bytes(layer), peak, milliseconds(seconds[name]))
            _forget(layer)
    return found


def _forward_and_backward(layer: nn.Module, input: Array) -> None:
    layer.backward(layer(input))


def _forget(layer: nn.Module) -> None:
    """Let a layer forget its last forward pass, and free what that kept."""
    with nn.no_grad():
        for module in layer.modules():
            module.keep()


def affordable(points: Sequence[Point]) -> bool:
    """Return whether an image of twice the side can be measured, if costs go on growing as they did last.

    >>> affordable([Point(0, 20_000_000, 12.0), Point(0, 320_000_000, 170.0)])  # 5 GB would come next
    False
    >>> affordable([Point(0, 5_000_000, 5.0), Point(0, 20_000_000, 20.0)])
    True
    """
    if len(points) < 2:
        return True
    last, before = points[-1], points[-2]
    bytes_next = last.peak * (last.peak / before.peak)
    seconds_next = last.forward_ms / 1e3 * max(1.0, last.forward_ms / before.forward_ms)
    return bytes_next <= MOST_BYTES and seconds_next <= MOST_SECONDS


# -- growth --------------------------------------------------------------------------------------------------------


def exponent(sides: Sequence[int], values: Sequence[float]) -> float:
    """Return e where values grow as the e-th power of the number of pixels, fitted to the `FITTED` largest sides.

    The slope of the least-squares line through log(value) over log(side^2).

    >>> round(exponent([7, 14, 28], [49**2, 196**2, 784**2]), 6)
    2.0
    """
    pixels = np.log(np.square(np.array(sides[-FITTED:], np.float64)))
    return float(np.polyfit(pixels, np.log(np.array(values[-FITTED:], np.float64)), 1)[0])


def crossover(layer: nn.Module, other: nn.Module, largest: int = 1024) -> int | None:
    """Return the smallest side of a square image from which on `layer` needs more multiply-adds than `other`.

    None when it does not up to the largest side.
    """

    def more(side: int) -> bool:
        return multiply_adds(layer, side, side).total > multiply_adds(other, side, side).total

    if not more(largest):
        return None
    return next(side for side in range(largest, 0, -1) if side == 1 or not more(side - 1))
