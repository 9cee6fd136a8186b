"""Depthwise convolution with a very large kernel, trained with a small one beside it: RepLKNet."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.arrays import Array, array_module
from dcnlab.geometry import IntOrPair, Pair, pair
from dcnlab.nn.image import BatchNorm2d, DepthwiseConv2d
from dcnlab.nn.module import Module, Rng, Sequential


class LargeKernelConv2d(Module):
    r"""A large and a small depthwise convolution of the same NCHW image, each with batch norm, added.

    The small kernel is there for training, which it makes easier (RepLKNet, arXiv 2203.06717, sec. 3, guideline 3).
    In inference it costs nothing: `merged` returns one convolution that computes the same.

    Parameters
    ----------
    channels : int
    kernel_size, small_kernel_size : int or (vertical, horizontal)
        Odd, and the small one at most as large. The stride is 1, and the padding keeps the size.
    dtype : dtype
    rng : numpy.random.Generator, int or None

    Attributes
    ----------
    lkb_origin, small_conv : Sequential
        ``conv``, a DepthwiseConv2d without bias, and ``bn``, a BatchNorm2d; named as in the published code
        (ReparamLargeKernelConv of DingXiaoH/RepLKNet-pytorch).

    Notes
    -----
    In inference, batch norm is a factor and a summand for each channel: with its weight :math:`\gamma`, bias
    :math:`\beta`, running mean :math:`\mu` and running variance :math:`\sigma^2`,

    .. math:: \gamma\,\frac{w * x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta = (f w) * x + (\beta - f \mu),
        \qquad f = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}

    Convolution is linear in its kernel, and a small kernel with zeros around it, k x k with its middle where it was,
    is a large one. Hence, with P the padding by zeros, both branches are the convolution with kernel and bias

    .. math:: f_1 w_1 + P(f_2 w_2), \qquad \beta_1 - f_1 \mu_1 + \beta_2 - f_2 \mu_2

    Examples
    --------
    >>> layer = LargeKernelConv2d(4, 7, 3, dtype=np.float64, rng=0).eval()
    >>> x = np.random.default_rng(0).standard_normal((1, 4, 9, 9))
    >>> bool(abs(layer(x) - layer.merged()(x)).max() < 1e-12)
    True
    >>> [tuple(p.shape) for p in layer.merged().parameters()]
    [(4, 1, 7, 7), (4,)]
    """

    def __init__(
        self,
        channels: int,
        kernel_size: IntOrPair = 31,
        small_kernel_size: IntOrPair = 5,
        dtype: Any = np.float32,
        rng: Rng = None,
    ) -> None:
        rng = np.random.default_rng(rng)
        self.channels = channels
        self.kernel_size = _odd(kernel_size, "kernel_size")
        self.small_kernel_size = _odd(small_kernel_size, "small_kernel_size")
        if any(small > large for small, large in zip(self.small_kernel_size, self.kernel_size, strict=True)):
            raise ValueError(
                f"LargeKernelConv2d: small_kernel_size must be at most kernel_size = {self.kernel_size}, got "
                f"{self.small_kernel_size}"
            )
        self.lkb_origin = _Branch(channels, self.kernel_size, dtype, rng)
        self.small_conv = _Branch(channels, self.small_kernel_size, dtype, rng)

    @np.errstate(all="ignore")
    def forward(self, input: Array) -> Array:
        """Return (N, C, H, W) of (N, C, H, W)."""
        output = self.lkb_origin(input)
        output += self.small_conv(input)
        return output

    @np.errstate(all="ignore")
    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input: the sum of those of the branches."""
        grad_input = self.lkb_origin.backward(grad_output)
        grad_input += self.small_conv.backward(grad_output)
        return grad_input

    def merged(self) -> DepthwiseConv2d:
        """Return the one depthwise convolution, with bias, that computes what this layer does in inference.

        A new layer, in eval mode; it does not follow later changes of this one.
        """
        weight, bias = self.lkb_origin.folded()
        small_weight, small_bias = self.small_conv.folded()
        weight[self._middle()] += small_weight
        bias += small_bias
        padding = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        merged = DepthwiseConv2d(self.channels, self.kernel_size, padding=padding, dtype=weight.dtype)
        merged.load_state_dict({"weight": weight, "bias": bias})
        merged.eval()
        return merged

    def _middle(self) -> tuple[Any, ...]:
        """Return where the small kernel stands in the large one."""
        starts = [(k - s) // 2 for k, s in zip(self.kernel_size, self.small_kernel_size, strict=True)]
        return (..., *(slice(a, a + s) for a, s in zip(starts, self.small_kernel_size, strict=True)))


class _Branch(Sequential):
    """A depthwise convolution and its batch norm, by the names of the published code."""

    def __init__(self, channels: int, kernel_size: Pair, dtype: Any, rng: Rng) -> None:
        same = (kernel_size[0] // 2, kernel_size[1] // 2)
        self.conv = DepthwiseConv2d(channels, kernel_size, padding=same, bias=False, dtype=dtype, rng=rng)
        self.bn = BatchNorm2d(channels, dtype=dtype, rng=rng)

    @np.errstate(all="ignore")
    def folded(self) -> tuple[Array, Array]:
        """Return the kernels (C, 1, kh, kw) and the bias (C,) of the same convolution without batch norm."""
        bn, xp = self.bn, array_module(self.bn.running_var.value)
        factor = bn.weight.value / xp.sqrt(bn.running_var.value + bn.eps)  # (C,)
        weight = self.conv.weight.value * factor[:, None, None, None]
        return weight, bn.bias.value - factor * bn.running_mean.value


def _odd(size: IntOrPair, name: str) -> Pair:
    """Return a kernel size as a pair, refusing one that has no middle."""
    found = pair(size, name, 1)
    if found[0] % 2 == 0 or found[1] % 2 == 0:
        raise ValueError(f"LargeKernelConv2d: {name} must be odd, to have a centre, got {found}")
    return found
