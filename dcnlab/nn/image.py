"""Layers on images in NCHW, and the way there from channels-last and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dcnlab.arrays import Array, array_module
from dcnlab.geometry import IntOrPair, Pair, pair
from dcnlab.nn.basic import value_of
from dcnlab.nn.initialise import by_fan_in, ones, zeros
from dcnlab.nn.module import Buffer, Module, Parameter, Rng, require_grad_output, require_input
from dcnlab.ops import dense, layers
from dcnlab.reference.normalisation import BatchNormGrads, batch_statistics


class Conv2d(Module):
    """Regular convolution of NCHW images: `dcnlab.conv2d`.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, padding, dilation : int or (vertical, horizontal)
    groups : int
        Divides both numbers of channels.
    bias : bool
    dtype : dtype
    rng : numpy.random.Generator, int or None

    Attributes
    ----------
    weight : Parameter (O, C/groups, kh, kw)
    bias : Parameter (O,), or None
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        dtype: Any = np.float32,
        rng: Rng = None,
    ) -> None:
        rng = np.random.default_rng(rng)
        self.stride, self.padding, self.dilation = window(stride, padding, dilation)
        shape = conv_weight_shape(type(self).__name__, in_channels, out_channels, kernel_size, groups)
        start = by_fan_in(shape[1] * shape[2] * shape[3])
        self.weight = Parameter(shape, start, dtype, rng)
        self.bias = Parameter((out_channels,), start, dtype, rng) if bias else None

    def forward(self, input: Array) -> Array:
        """Return (N, O, Ho, Wo) of (N, C, H, W)."""
        output = dense.conv2d(input, self.weight.value, value_of(self.bias), self.stride, self.padding, self.dilation)
        self.keep(input=input)
        return output

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input."""
        arrays = (self.kept().input, self.weight.value, value_of(self.bias))
        grads = dense.conv2d_backward(grad_output, *arrays, self.stride, self.padding, self.dilation)
        self.weight.grad = grads.weight
        if self.bias is not None:
            self.bias.grad = grads.bias
        return grads.input


class DepthwiseConv2d(Conv2d):
    """A convolution with one kernel for each channel: `dcnlab.depthwise_conv2d`.

    An NCHW view of an NHWC array is worked on as it lies in memory, and so are its output and gradient: nothing is
    copied between the layouts.

    Attributes
    ----------
    weight : Parameter (C, 1, kh, kw)
    bias : Parameter (C,), or None
    """

    def __init__(
        self,
        channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        dilation: IntOrPair = 1,
        bias: bool = True,
        dtype: Any = np.float32,
        rng: Rng = None,
    ) -> None:
        super().__init__(channels, channels, kernel_size, stride, padding, dilation, channels, bias, dtype, rng)

    def forward(self, input: Array) -> Array:
        """Return (N, C, Ho, Wo) of (N, C, H, W)."""
        arrays = (input, self.weight.value, value_of(self.bias))
        output = layers.depthwise_conv2d(*arrays, self.stride, self.padding, self.dilation)
        self.keep(input=input)
        return output

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input."""
        arrays = (self.kept().input, self.weight.value, value_of(self.bias))
        grads = layers.depthwise_conv2d_backward(grad_output, *arrays, self.stride, self.padding, self.dilation)
        self.weight.grad = grads.weight
        if self.bias is not None:
            self.bias.grad = grads.bias
        return grads.input


class BatchNorm2d(Module):
    r"""Normalisation of each channel of NCHW images: `dcnlab.batch_norm`.

    In training mode with the statistics of the batch, which also move the running ones; in inference with the running
    ones.

    Parameters
    ----------
    channels : int
    eps : float
    momentum : float
        The part of the running statistics that a batch replaces. The running variance is the unbiased one.
    dtype : dtype
    rng : numpy.random.Generator, int or None

    Attributes
    ----------
    weight, bias : Parameter (channels,)
    running_mean, running_var : Buffer (channels,)
    num_batches_tracked : Buffer (), int64
    total : callable or None
        ``total(array)`` returns the sum of an array over all processes that train together, the same bits on each; it
        is called equally often on all of them, also on one whose batch is empty. Training then normalises by the
        statistics of the joined batch, and goes back through them; the gradients of weight and bias remain the sums
        over this process's pixels. None, as in a new layer: the batch of this process is all there is.

    Notes
    -----
    Of all n values :math:`x_j` of a channel in the joined batch,

    .. math:: m = \frac1n \sum_j x_j, \quad v = \frac1n \sum_j (x_j - m)^2, \quad
        y_i = w\,(x_i - m) / \sqrt{v + \epsilon} + b.

    With gradients :math:`g_j` of the outputs, `dcnlab.batch_norm_backward` with the statistics given returns the part
    of this process in the gradients of m and v. Summed over the processes they are

    .. math:: M = -\sum_j \frac{g_j w}{\sqrt{v + \epsilon}}, \quad
        V = -\frac12 \sum_j \frac{g_j w\,(x_j - m)}{(v + \epsilon)^{3/2}},

    and since :math:`\partial m / \partial x_i = 1/n` and :math:`\partial v / \partial x_i = 2 (x_i - m) / n`
    (m moves too, but :math:`\sum_j (x_j - m) = 0`), the gradient of the input is

    .. math:: g_i w / \sqrt{v + \epsilon} + \bigl(M + 2 V (x_i - m)\bigr) / n.
    """

    total: Callable[[Array], Array] | None = None

    def __init__(
        self, channels: int, eps: float = 1e-5, momentum: float = 0.1, dtype: Any = np.float32, rng: Rng = None
    ) -> None:
        self.weight = Parameter((channels,), ones, dtype, rng)
        self.bias = Parameter((channels,), zeros, dtype, rng)
        self.running_mean = Buffer((channels,), zeros, dtype, rng)
        self.running_var = Buffer((channels,), ones, dtype, rng)
        self.num_batches_tracked = Buffer((), zeros, np.int64, rng)
        self.eps, self.momentum = eps, momentum

    @np.errstate(all="ignore")
    def forward(self, input: Array) -> Array:
        """Return the normalised (N, C, H, W)."""
        arrays = (input, self.weight.value, self.bias.value)
        if not self.training:
            statistics = (self.running_mean.value, self.running_var.value)
            self.keep(input=input, statistics=statistics, joint=None)
            return layers.batch_norm(*arrays, *statistics, self.eps)
        if self.total is None:
            output = layers.batch_norm(*arrays, eps=self.eps)
            self._track(input, input.size // input.shape[1], *batch_statistics(input))
            self.keep(input=input, statistics=(None, None), joint=None)
            return output
        require_input(self, input, "N", self.weight.size, "H", "W")
        count, mean, variance = _joint_statistics(input, self.total)
        self._track(input, count, mean, variance)
        self.keep(input=input, statistics=(mean, variance), joint=(count, self.total))
        return layers.batch_norm(*arrays, mean, variance, self.eps)

    @np.errstate(all="ignore")
    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input; in training mode, through the statistics too."""
        input, (mean, variance), joint = self.kept().input, self.kept().statistics, self.kept().joint
        arrays = (input, self.weight.value, self.bias.value)
        grads = layers.batch_norm_backward(grad_output, *arrays, mean, variance, self.eps)
        self.weight.grad, self.bias.grad = grads.weight, grads.bias
        return grads.input if joint is None else grads.input + _through_statistics(input, mean, grads, *joint)

    def _track(self, input: Array, count: int, mean: Array, variance: Array) -> None:
        """Move the running statistics towards those of `count` values per channel."""
        if count == 0:
            return  # an empty batch has no statistics
        if count == 1:
            raise ValueError(
                f"BatchNorm2d: training needs more than one value per channel, got {tuple(input.shape)}: one value has "
                "no variance; call .eval() for inference"
            )
        for running, new in ((self.running_mean, mean), (self.running_var, variance * (count / (count - 1)))):
            running.value = running.value * (1 - self.momentum) + new * self.momentum
        self.num_batches_tracked.value = self.num_batches_tracked.value + 1


def _joint_statistics(input: Array, total: Callable[[Array], Array]) -> tuple[int, Array, Array]:
    """Return the number of values per channel, their mean and their variance, (C,) each, of the joined batch.

    The mean comes first and the squares are those of what it leaves: E[x^2] - E[x]^2 would cancel.
    """
    n, _, height, width = input.shape
    count = int(total(np.array([n * height * width], np.int64))[0])  # exact, and known on the host
    mean = total(input.sum(axis=(0, 2, 3))) / max(count, 1)
    centred = input - mean[:, None, None]
    squares = array_module(input).einsum("nchw,nchw->c", centred, centred)
    return count, mean, total(squares) / max(count, 1)


def _through_statistics(
    input: Array, mean: Array, grads: BatchNormGrads, count: int, total: Callable[[Array], Array]
) -> Array:
    """Return what the statistics of the joined batch add to the gradient of the input: (M + 2 V (x - m)) / n."""
    both = array_module(input).concatenate([grads.mean, grads.variance])  # one message
    by_mean, by_variance = total(both).reshape(2, -1, 1, 1) / max(count, 1)
    return by_mean + 2 * by_variance * (input - mean[:, None, None])


class PixelShuffle(Module):
    """Turn groups of r*r channels into r times as many rows and columns: (N, C r r, H, W) -> (N, C, r H, r W).

    Channel c r r + i r + j goes to row offset i and column offset j (arXiv 1609.05158), as in PyTorch.
    """

    def __init__(self, factor: int) -> None:
        self.factor = pair(factor, "factor", 1)[0]

    def forward(self, input: Array) -> Array:
        """Return (N, C, r H, r W)."""
        r = self.factor
        require_input(self, input, "N", f"C*{r}*{r}", "H", "W")
        n, channels, height, width = input.shape
        if channels % (r * r):
            raise ValueError(f"PixelShuffle: expected (N, C*{r}*{r}, H, W), got {tuple(input.shape)}")
        cells = input.reshape(n, channels // (r * r), r, r, height, width)
        self.keep(shape=tuple(input.shape))
        return cells.transpose(0, 1, 4, 2, 5, 3).reshape(n, channels // (r * r), height * r, width * r)

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input: the same entries, back in their places."""
        r, (n, channels, height, width) = self.factor, self.kept().shape
        require_grad_output(self, grad_output, (n, channels // (r * r), height * r, width * r))
        cells = grad_output.reshape(n, channels // (r * r), height, r, width, r)
        return cells.transpose(0, 1, 3, 5, 2, 4).reshape(n, channels, height, width)


class GlobalAveragePool(Module):
    """The mean over all pixels: (N, C, H, W) -> (N, C)."""

    @np.errstate(all="ignore")
    def forward(self, input: Array) -> Array:
        """Return (N, C)."""
        require_input(self, input, "N", "C", "H", "W")
        if 0 in input.shape[2:]:
            raise ValueError(f"GlobalAveragePool: expected (N, C, H, W), got {tuple(input.shape)}")
        self.keep(shape=tuple(input.shape))
        return input.mean(axis=(2, 3))

    @np.errstate(all="ignore")
    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input: every pixel gets the same share."""
        xp, shape = array_module(grad_output), self.kept().shape
        require_grad_output(self, grad_output, shape[:2])
        share = grad_output / (shape[2] * shape[3])
        return xp.ascontiguousarray(xp.broadcast_to(share[:, :, None, None], shape))


class ToChannelsLast(Module):
    """NCHW -> NHWC, as a view."""

    def forward(self, input: Array) -> Array:
        """Return the same entries, channels last."""
        require_input(self, input, "N", "C", "H", "W")
        output = input.transpose(0, 2, 3, 1)
        self.keep(shape=output.shape)
        return output

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient, channels first."""
        require_grad_output(self, grad_output, self.kept().shape)
        return grad_output.transpose(0, 3, 1, 2)


class ToChannelsFirst(Module):
    """NHWC -> NCHW, as a view."""

    def forward(self, input: Array) -> Array:
        """Return the same entries, channels first."""
        require_input(self, input, "N", "H", "W", "C")
        output = input.transpose(0, 3, 1, 2)
        self.keep(shape=output.shape)
        return output

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient, channels last."""
        require_grad_output(self, grad_output, self.kept().shape)
        return grad_output.transpose(0, 2, 3, 1)


def window(stride: IntOrPair, padding: IntOrPair, dilation: IntOrPair) -> tuple[Pair, Pair, Pair]:
    """Return stride, padding and dilation as pairs."""
    return pair(stride, "stride", 1), pair(padding, "padding", 0), pair(dilation, "dilation", 1)


def conv_weight_shape(
    layer: str, in_channels: int, out_channels: int, kernel_size: IntOrPair, groups: int
) -> tuple[int, int, int, int]:
    """Return (O, C/groups, kh, kw), refusing groups that do not divide the channels."""
    if groups < 1 or in_channels % groups or out_channels % groups or min(in_channels, out_channels) < 1:
        raise ValueError(
            f"{layer}: groups must divide in_channels and out_channels, got {groups}, {in_channels} and {out_channels}"
        )
    return (out_channels, in_channels // groups, *pair(kernel_size, "kernel_size", 1))
