"""Deformable layers: an operator together with the branch that predicts its offsets and its modulation."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.arrays import Array, array_module
from dcnlab.geometry import IntOrPair, Pair, pair, sampling_positions, tap_positions
from dcnlab.modulation import KINDS, normalise_modulation, normalise_modulation_backward, sigmoid, sigmoid_backward
from dcnlab.nn.basic import GELU, LayerNorm, Linear, value_of
from dcnlab.nn.image import Conv2d, DepthwiseConv2d, ToChannelsLast, conv_weight_shape, window
from dcnlab.nn.initialise import by_fan_in, constant, xavier_uniform, zeros
from dcnlab.nn.module import Module, Parameter, Rng, Sequential, require_input
from dcnlab.ops import deformable, dense


class DCNv3(Module):
    """The DCNv3 layer of InternImage, channels last (arXiv 2211.05778, sec. 3.1).

    Offsets and modulation are linear functions of a depthwise convolution of the input (followed by layer norm and
    GELU); what is sampled is a linear projection of the input; and the result is projected once more.

    Parameters
    ----------
    channels : int
    kernel_size, stride, padding, dilation : int or (vertical, horizontal)
        padding must be ``dilation*(kernel_size - 1)/2``: every output pixel, one for each `stride` input pixels, needs
        offsets of its own. The published layer works for stride 1 only.
    dw_kernel_size : int, optional
        Of the depthwise convolution, odd; kernel_size by default. It takes the stride.
    groups : int
        G, must divide `channels`.
    offset_scale : float
    center_feature_scale : bool
        Mix the output with the projected input (every `stride`-th pixel), by a share predicted for each group.
    remove_center : bool
        Leave out the centre tap.
    modulation : {"softmax", "sigmoid", "twice_sigmoid", "none"}
        How the predicted logits become modulation; see `dcnlab.normalise_modulation`. With "none" they are used as
        they are, and start at 1/K.
    dtype : dtype
    rng : numpy.random.Generator, int or None

    Attributes
    ----------
    center_feature_scale_proj_weight : Parameter (G, C), center_feature_scale_proj_bias : Parameter (G,)
        Only with `center_feature_scale`.
    dw_conv : Sequential
        DepthwiseConv2d, Sequential(ToChannelsLast, LayerNorm), GELU.
    offset, mask, input_proj, output_proj : Linear

    Notes
    -----
    Offsets start at 0 and the modulation at that of logits 0, as published: a new layer samples the regular grid. The
    operator is `dcnlab.dcnv3`, on the backend that is in force. Names, shapes and results agree with class DCNv3 of
    OpenGVLab/InternImage.
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
        rng = np.random.default_rng(rng)
        self.channels, self.groups, self.offset_scale = channels, groups, float(offset_scale)
        self.kernel_size, self.remove_center = pair(kernel_size, "kernel_size", 1), bool(remove_center)
        self.stride, self.padding, self.dilation = window(stride, padding, dilation)
        self.modulation = modulation
        dw_kernel = pair(self.kernel_size if dw_kernel_size is None else dw_kernel_size, "dw_kernel_size", 1)
        self._check(dw_kernel)
        self.taps = len(tap_positions(self.kernel_size, layout="dcnv3", remove_center=self.remove_center))
        self.center_feature_scale = bool(center_feature_scale)
        if center_feature_scale:
            self.center_feature_scale_proj_weight = Parameter((groups, channels), zeros, dtype, rng)
            self.center_feature_scale_proj_bias = Parameter((groups,), zeros, dtype, rng)
        same = ((dw_kernel[0] - 1) // 2, (dw_kernel[1] - 1) // 2)
        self.dw_conv = Sequential(
            DepthwiseConv2d(channels, dw_kernel, self.stride, same, dtype=dtype, rng=rng),
            Sequential(ToChannelsLast(), LayerNorm(channels, dtype=dtype, rng=rng)),
            GELU(),
        )
        self.offset = Linear(channels, groups * self.taps * 2, dtype=dtype, rng=rng)
        self.mask = Linear(channels, groups * self.taps, dtype=dtype, rng=rng)
        self.input_proj = Linear(channels, channels, dtype=dtype, rng=rng)
        self.output_proj = Linear(channels, channels, dtype=dtype, rng=rng)
        self.reset_parameters()

    def _check(self, dw_kernel: Pair) -> None:
        if self.groups < 1 or self.channels < 1 or self.channels % self.groups:
            raise ValueError(f"DCNv3: groups must divide channels = {self.channels}, got {self.groups}")
        if self.modulation not in KINDS:
            raise ValueError(f"DCNv3: modulation must be one of {', '.join(KINDS)}, got {self.modulation!r}")
        if dw_kernel[0] % 2 == 0 or dw_kernel[1] % 2 == 0:
            raise ValueError(f"DCNv3: dw_kernel_size must be odd, to have a centre, got {dw_kernel}")
        wanted = tuple(d * (k - 1) / 2 for d, k in zip(self.dilation, self.kernel_size, strict=True))
        if self.padding != wanted:
            raise ValueError(
                "DCNv3: padding must be dilation*(kernel_size - 1)/2, so that each output pixel has its offsets: "
                f"expected {wanted[0]:g}, {wanted[1]:g}, got {self.padding[0]}, {self.padding[1]}"
            )

    def reset_parameters(self) -> None:
        """Start as published: no offset, equal modulation, Xavier projections."""
        logit = 1 / self.taps if self.modulation == "none" else 0.0
        for parameter in (self.offset.weight, self.offset.bias, self.mask.weight):
            _start(parameter, zeros)
        _start(self.mask.bias, constant(logit))
        for projection in (self.input_proj, self.output_proj):
            _start(projection.weight, xavier_uniform)
            _start(projection.bias, zeros)

    def forward(self, input: Array) -> Array:
        """Return (N, Ho, Wo, C) of (N, H, W, C), Ho = (H - 1) // stride + 1."""
        require_input(self, input, "N", "H", "W", self.channels, hint=": channels last")
        features = self.dw_conv(input.transpose(0, 3, 1, 2))  # (N, Ho, Wo, C)
        offset, logits = self.offset(features), self.mask(features)
        mask = normalise_modulation(logits, self.modulation, self.groups)
        projected = self.input_proj(input)  # (N, H, W, C)
        sampled = deformable.dcnv3(projected, offset, mask, *self._geometry)  # (N, Ho, Wo, C)
        self.keep(features=features, offset=offset, logits=logits, mask=mask, projected=projected, sampled=sampled)
        if self.center_feature_scale:
            sampled = self._scale_centre(features, projected, sampled)
        return self.output_proj(sampled)

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input: through the samples, and through where and how much was sampled."""
        kept = self.kept()
        grad_sampled = self.output_proj.backward(grad_output)
        if self.center_feature_scale:
            grad_sampled, grad_centre, grad_scaling = self._scale_centre_backward(grad_sampled)
        grads = deformable.dcnv3_backward(grad_sampled, kept.projected, kept.offset, kept.mask, *self._geometry)
        grad_logits = normalise_modulation_backward(grads.mask, kept.logits, self.modulation, self.groups)
        grad_features = self.offset.backward(grads.offset)
        grad_features += self.mask.backward(grad_logits)
        grad_projected = grads.input
        if self.center_feature_scale:
            grad_features += grad_scaling
            self._centres(grad_projected)[...] += grad_centre
        grad_input = self.input_proj.backward(grad_projected)
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

    @property
    def _geometry(self) -> tuple[Any, ...]:
        return (
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.offset_scale,
            self.remove_center,
        )

    # -- center feature scaling: y + a (x - y), a = sigmoid(linear(features)), one a for each group ----------------

    def _centres(self, projected: Array) -> Array:
        """Return the pixels that the output pixels stand on, a view."""
        return projected[:, :: self.stride[0], :: self.stride[1]]

    @np.errstate(all="ignore")
    def _scale_centre(self, features: Array, projected: Array, sampled: Array) -> Array:
        mixed = self._centres(projected) - sampled
        by_group = self._by_group(mixed)
        by_group *= sigmoid(self._scaling(features))[..., None]
        mixed += sampled
        return mixed

    @np.errstate(all="ignore")
    def _scale_centre_backward(self, grad: Array) -> tuple[Array, Array, Array]:
        """Return the gradients of sampled, of the centres and of the features."""
        kept, xp = self.kept(), array_module(grad)
        scaling = self._scaling(kept.features)
        difference = self._by_group(self._centres(kept.projected) - kept.sampled)
        grad_share = xp.einsum("...gc,...gc->...g", self._by_group(grad), difference)
        weight, bias = self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias
        grads = dense.linear_backward(sigmoid_backward(grad_share, scaling), kept.features, weight.value, bias.value)
        weight.grad, bias.grad = grads.weight, grads.bias
        grad_centre = (self._by_group(grad) * sigmoid(scaling)[..., None]).reshape(grad.shape)
        return grad - grad_centre, grad_centre, grads.input

    def _scaling(self, features: Array) -> Array:
        weight, bias = self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias
        return dense.linear(features, weight.value, bias.value)  # (N, Ho, Wo, G)

    def _by_group(self, array: Array) -> Array:
        return array.reshape(*array.shape[:-1], self.groups, self.channels // self.groups)


class DeformConv2d(Module):
    """Deformable convolution with the convolution that predicts its offsets, NCHW: DCNv1 and DCNv2.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, padding, dilation : int or (vertical, horizontal)
    groups, offset_groups : int
        Divide the channels.
    bias : bool
    modulation : {"sigmoid", "twice_sigmoid", "none"}
        DCNv2 (arXiv 1811.11168) with a mask of sigmoids, or of twice that, which starts at 1; "none" is DCNv1 (arXiv
        1703.06211).
    dtype : dtype
    rng : numpy.random.Generator, int or None

    Attributes
    ----------
    weight : Parameter (O, C/groups, kh, kw)
    bias : Parameter (O,), or None
    conv_offset : Conv2d
        Starts at 0. Its first 2 G K output channels are the offsets in the layout of `dcnlab.deform_conv2d`, the G K
        after them the logits of the mask: name and order of mmcv's ModulatedDeformConv2dPack.
    """

    KINDS = ("sigmoid", "twice_sigmoid", "none")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        offset_groups: int = 1,
        bias: bool = True,
        modulation: str = "sigmoid",
        dtype: Any = np.float32,
        rng: Rng = None,
    ) -> None:
        rng = np.random.default_rng(rng)
        if modulation not in self.KINDS:
            raise ValueError(f"DeformConv2d: modulation must be one of {', '.join(self.KINDS)}, got {modulation!r}")
        if offset_groups < 1 or in_channels % offset_groups:
            raise ValueError(f"DeformConv2d: offset_groups must divide {in_channels} channels, got {offset_groups}")
        self.stride, self.padding, self.dilation = window(stride, padding, dilation)
        self.modulation, self.offset_groups = modulation, offset_groups
        shape = conv_weight_shape("DeformConv2d", in_channels, out_channels, kernel_size, groups)
        self.kernel_size = shape[2:]
        start = by_fan_in(shape[1] * shape[2] * shape[3])
        self.weight = Parameter(shape, start, dtype, rng)
        self.bias = Parameter((out_channels,), start, dtype, rng) if bias else None
        self.offset_channels = 2 * offset_groups * shape[2] * shape[3]
        predicted = self.offset_channels * 3 // 2 if self._modulated else self.offset_channels
        self.conv_offset = Conv2d(
            in_channels, predicted, self.kernel_size, stride, padding, dilation, dtype=dtype, rng=rng
        )
        _start(self.conv_offset.weight, zeros)
        _start(self.conv_offset.bias, zeros)

    @property
    def _modulated(self) -> bool:
        return self.modulation != "none"

    def forward(self, input: Array) -> Array:
        """Return (N, O, Ho, Wo) of (N, C, H, W)."""
        predicted = self.conv_offset(input)
        offset, logits, mask = predicted, None, None
        if self._modulated:
            offset, logits = predicted[:, : self.offset_channels], predicted[:, self.offset_channels :]
            mask = KINDS[self.modulation][0](logits)
        output = deformable.deform_conv2d(input, offset, *self._rest(mask))
        self.keep(input=input, offset=offset, logits=logits, mask=mask)
        return output

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input: through the samples, and through where and how much was sampled."""
        kept = self.kept()
        grads = deformable.deform_conv2d_backward(grad_output, kept.input, kept.offset, *self._rest(kept.mask))
        self.weight.grad = grads.weight
        if self.bias is not None:
            self.bias.grad = grads.bias
        grad_predicted = grads.offset
        if self._modulated:
            grad_logits = KINDS[self.modulation][1](grads.mask, kept.logits)
            grad_predicted = array_module(grad_output).concatenate([grads.offset, grad_logits], axis=1)
        grad_input = self.conv_offset.backward(grad_predicted)
        grad_input += grads.input
        return grad_input

    def sampling_positions(self) -> Array:
        """Return where the last forward pass sampled, (N, Ho, Wo, G, K, 2), last axis (y, x), in pixels."""
        window_ = (self.kernel_size, self.stride, self.padding, self.dilation)
        return sampling_positions(self.kept().offset, *window_, layout="deform_conv2d")

    def _rest(self, mask: Array | None) -> tuple[Any, ...]:
        """Return the arguments of `deform_conv2d` after the offset."""
        return self.weight.value, value_of(self.bias), self.stride, self.padding, self.dilation, mask


def _start(parameter: Parameter | None, initialise: Any) -> None:
    if parameter is not None:
        parameter.start_from(initialise)
