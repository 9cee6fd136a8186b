"""DCNv3 without its shared weights: a dense projection for every tap, for the ablation of the paper's Table 6."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from dcnlab.arrays import Array, array_module
from dcnlab.geometry import IntOrPair, sampling_positions
from dcnlab.layouts import dcnv2_from_dcnv3, dcnv3_from_dcnv2
from dcnlab.modulation import normalise_modulation, normalise_modulation_backward
from dcnlab.nn.deformable import DCNv3
from dcnlab.nn.initialise import Initialise, zeros
from dcnlab.nn.module import Module, Parameter, Rng, require_grad_output, require_input
from dcnlab.ops import deformable


class UnsharedDCNv3(Module):
    r"""DCNv3 whose taps have projections of their own: eq. 2 of arXiv 2211.05778 with w_gk in place of w_g.

    .. math::
        y(p) = b + \sum_g \sum_k W_{gk}\, m_{gk}(p)\, x_g(p + p_k + \Delta p_{gk}),
        \quad W_{gk} \in R^{C \times C/G}

    Side by side over the groups, the weights of a tap are one C x C matrix: `DCNv3` has one such matrix, its
    ``output_proj``, for all taps; this layer has K of them, and is a DCNv2 with G groups of offsets.

    Parameters
    ----------
    channels, kernel_size, dw_kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, modulation
        As in `DCNv3`.
    center_feature_scale : bool
        Must be False: it mixes into the sum over the taps what is projected afterwards, and here nothing is.
    dtype : dtype
    rng : numpy.random.Generator, int or None

    Attributes
    ----------
    dw_conv, offset, mask, input_proj
        As in `DCNv3`, under the same names.
    weight : Parameter (C, C, kh, kw), bias : Parameter (C,)
        Every tap starts with the matrix that ``output_proj`` of a `DCNv3` with the same `rng` has: the two layers
        start as the same function. With `remove_center` the weight of the centre tap has no effect.

    Examples
    --------
    >>> from dcnlab import nn
    >>> shared, unshared = nn.DCNv3(8, groups=2, rng=0), nn.UnsharedDCNv3(8, groups=2, rng=0)
    >>> x = np.random.default_rng(0).standard_normal((1, 5, 6, 8)).astype(np.float32)
    >>> bool(np.allclose(shared(x), unshared(x), atol=1e-5))
    True
    >>> shared.parameter_count(), unshared.parameter_count()  # 8 more matrices of 8 x 8
    (726, 1238)
    """

    def __init__(
        self,
        channels: int,
        kernel_size: IntOrPair = 3,
        dw_kernel_size: IntOrPair | None = None,
        stride: IntOrPair = 1,
        padding: IntOrPair = 1,
        dilation: IntOrPair = 1,
        groups: int = 4,
        offset_scale: float = 1.0,
        center_feature_scale: bool = False,
        remove_center: bool = False,
        modulation: str = "softmax",
        dtype: Any = np.float32,
        rng: Rng = None,
    ) -> None:
        if center_feature_scale:
            raise ValueError(
                "UnsharedDCNv3: center_feature_scale must be False, got True: it needs the output projection that "
                "all taps share"
            )
        shared = DCNv3(
            channels,
            kernel_size,
            dw_kernel_size,
            stride,
            padding,
            dilation,
            groups,
            offset_scale,
            remove_center=remove_center,
            modulation=modulation,
            dtype=dtype,
            rng=rng,
        )
        self.channels, self.groups, self.taps = shared.channels, shared.groups, shared.taps
        self.kernel_size, self.stride, self.padding = shared.kernel_size, shared.stride, shared.padding
        self.dilation, self.offset_scale = shared.dilation, shared.offset_scale
        self.remove_center, self.modulation = shared.remove_center, shared.modulation
        self.dw_conv, self.offset, self.mask = shared.dw_conv, shared.offset, shared.mask
        self.input_proj = shared.input_proj
        # Neither draws anything, so `rng` is left as DCNv3 leaves it: what a model makes next starts the same, too.
        start = _for_every_tap(shared.output_proj.weight)
        self.weight = Parameter((channels, channels, *self.kernel_size), start, dtype, rng=0)
        self.bias = Parameter((channels,), zeros, dtype, rng=0)

    def forward(self, input: Array) -> Array:
        """Return (N, Ho, Wo, C) of (N, H, W, C), Ho = (H - 1) // stride + 1."""
        require_input(self, input, "N", "H", "W", self.channels, hint=": channels last")
        features = self.dw_conv(input.transpose(0, 3, 1, 2))  # (N, Ho, Wo, C)
        offset, logits = self.offset(features), self.mask(features)
        mask = normalise_modulation(logits, self.modulation, self.groups)
        projected = self.input_proj(input)  # (N, H, W, C)
        output = deformable.deform_conv2d(*self._arguments(projected, offset, mask))  # (N, C, Ho, Wo)
        self.keep(offset=offset, logits=logits, mask=mask, projected=projected)
        return _channels_last(output)

    @np.errstate(all="ignore")
    def backward(self, grad_output: Array) -> Array:
        r"""Return the gradient of the input: through the samples, and through where and how much was sampled.

        The operator sees converted offsets, ``d2 = (s - 1) p + s P d3``: P reorders taps and coordinates, p are the
        regular taps, s is `offset_scale`. So the gradient of d3 is s P^T that of d2. The inverse of a permutation is
        its transpose, and for s = 1 the inverse conversion is P^T and nothing else. The mask is permuted only.
        """
        kept = self.kept()
        require_grad_output(self, grad_output, (*kept.offset.shape[:3], self.channels))
        arguments = self._arguments(kept.projected, kept.offset, kept.mask)
        grads = deformable.deform_conv2d_backward(grad_output.transpose(0, 3, 1, 2), *arguments)
        self.weight.grad, self.bias.grad = grads.weight, grads.bias
        assert grads.mask is not None  # as there is a mask
        by_tap = grads.mask.reshape(len(grads.mask), self.groups, prod(self.kernel_size), *grads.mask.shape[2:])
        if self.remove_center:
            by_tap[:, :, self.taps // 2] = 0  # of a tap that DCNv3 does not have
        grad_offset, grad_mask = dcnv3_from_dcnv2(
            grads.offset, by_tap.reshape(grads.mask.shape), self.kernel_size, self.dilation, 1.0, self.remove_center
        )
        grad_logits = normalise_modulation_backward(grad_mask, kept.logits, self.modulation, self.groups)
        grad_features = self.offset.backward(self.offset_scale * grad_offset)
        grad_features += self.mask.backward(grad_logits)
        grad_input = self.input_proj.backward(_channels_last(grads.input))
        grad_input += self.dw_conv.backward(grad_features).transpose(0, 2, 3, 1)
        return grad_input

    def sampling_positions(self) -> Array:
        """Return where the last forward pass sampled, (N, Ho, Wo, G, K, 2), last axis (y, x), in pixels."""
        return sampling_positions(
            self.kept().offset,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            layout="dcnv3",
            offset_scale=self.offset_scale,
            remove_center=self.remove_center,
        )

    def _arguments(self, projected: Array, offset: Array, mask: Array) -> tuple[Any, ...]:
        """Return the arguments of `dcnlab.deform_conv2d` for those that `dcnlab.dcnv3` would take."""
        offset2, mask2 = dcnv2_from_dcnv3(
            offset, mask, self.kernel_size, self.dilation, self.offset_scale, self.remove_center
        )
        image, weight, bias = projected.transpose(0, 3, 1, 2), self.weight.value, self.bias.value
        return image, offset2, weight, bias, self.stride, self.padding, self.dilation, mask2


def _for_every_tap(projection: Parameter) -> Initialise:
    """Return an initialiser of (C, C, kh, kw) weights that gives every tap the start of one projection (C, C)."""

    def start(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(projection.value[:, :, None, None], shape).copy()

    return start


def _channels_last(image: Array) -> Array:
    """Return (N, C, H, W) as (N, H, W, C), its entries in order in memory."""
    return array_module(image).ascontiguousarray(image.transpose(0, 2, 3, 1))
