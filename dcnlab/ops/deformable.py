"""The public deformable operators: check the arguments once, choose the backend, call it."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.arrays import Array, require_arrays, require_shape
from dcnlab.backends import choose, implementation
from dcnlab.dlpack import speaks_dlpack
from dcnlab.geometry import IntOrPair, output_size, pair, scaled_taps
from dcnlab.reference.deformable import DCNv3Grads, DeformConv2dGrads


@speaks_dlpack
def deform_conv2d(
    input: Array,
    offset: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    mask: Array | None = None,
    *,
    backend: str | None = None,
) -> Array:
    r"""Deformable convolution: DCNv1 without a mask, DCNv2 with one.

    .. math::

        y_o(p) = b_o + \sum_{k} \sum_{c} w_{o,c,k}\, m_{g(c),k}(p)\, x_c(p_0 + p_k + \Delta p_{g(c),k}(p)),
        \quad p_0 = s\,p - \mathrm{pad}

    with bilinear x, zero outside the image. Eq. 2 of arXiv 1703.06211 and eq. 1 of arXiv 1811.11168. Argument order,
    layouts and inferred groups are those of torchvision.ops.deform_conv2d.

    Parameters
    ----------
    input : (N, C, H, W)
    offset : (N, G*K*2, Ho, Wo)
        In pixels. Channel ``(g*K + t)*2`` is the vertical (y) shift of tap t of offset group g, the next the
        horizontal (x) one; taps count row by row, t = row*kw + column. G divides C.
    weight : (O, C/groups, kh, kw)
        The number of groups follows from C.
    bias : (O,), optional
    stride, padding, dilation : int or (vertical, horizontal)
    mask : (N, G*K, Ho, Wo), optional
        Modulation, multiplied as it is: apply the sigmoid before.
    backend : {"numpy", "cpu", "cuda"}, optional

    Returns
    -------
    (N, O, Ho, Wo)
        ``Ho = (H + 2*padding - dilation*(kh - 1) - 1) // stride + 1``; the dtype of the input.

    Raises
    ------
    TypeError
        Arrays that are not float32 or float64 (float16 too on "cpu" and "cuda") of one dtype and one library.
    ValueError
        Shapes that do not fit, with the formula and this call's numbers.
    BackendUnavailable
        A backend that cannot run here.

    Notes
    -----
    CPU and CUDA tensors of other libraries (PyTorch, JAX) are taken through DLPack and answered in kind.

    A NaN offset or mask gives NaN at its output pixel; an infinite or huge offset samples nothing. torchvision
    crashes on the former. At a sample exactly on y = -1 or x = -1 the offset's gradient is 0, as in mmcv and the
    original CUDA code; torchvision has the right-hand slope there.

    Examples
    --------
    Zero offsets are a regular convolution:

    >>> import numpy as np, dcnlab
    >>> x, w = np.arange(16.0).reshape(1, 1, 4, 4), np.ones((1, 1, 3, 3))
    >>> dcnlab.deform_conv2d(x, np.zeros((1, 18, 2, 2)), w)[0, 0].tolist()
    [[45.0, 54.0], [81.0, 90.0]]
    """
    chosen = choose(backend, input)
    arrays = (input, offset, weight, bias, stride, padding, dilation, mask)
    _check_deform_conv2d("deform_conv2d", chosen.dtypes, *arrays)
    module = implementation(chosen, "deformable", input)
    with np.errstate(all="ignore"):  # NaN and inf are data here; what they do is promised above
        result: Array = module.deform_conv2d(*arrays)
    return result


@speaks_dlpack
def deform_conv2d_backward(
    grad_output: Array,
    input: Array,
    offset: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    mask: Array | None = None,
    *,
    backend: str | None = None,
) -> DeformConv2dGrads:
    """Gradients of ``sum(deform_conv2d(...) * grad_output)``.

    Parameters
    ----------
    grad_output : (N, O, Ho, Wo)
    input, offset, weight, bias, stride, padding, dilation, mask, backend
        As in `deform_conv2d`.

    Returns
    -------
    DeformConv2dGrads(input, offset, weight, bias, mask)
        Each in the shape of its argument; None where bias or mask is absent.

    Raises
    ------
    TypeError, ValueError, BackendUnavailable
        As `deform_conv2d`.

    Notes
    -----
    The bilinear surface has kinks on the lattice lines. A sample on one gets the slope of the cell below and to the
    right of it, and 0 on or outside the border of (-1, H) x (-1, W): the rule of the published CUDA kernels.
    """
    operator, chosen = "deform_conv2d_backward", choose(backend, input)
    arrays = (input, offset, weight, bias, stride, padding, dilation, mask)
    shape = _check_deform_conv2d(operator, chosen.dtypes, *arrays)
    require_arrays(operator, chosen.dtypes, input=input, grad_output=grad_output)
    require_shape(operator, "grad_output", grad_output, "(N, O, Ho, Wo)", shape)
    module = implementation(chosen, "deformable", input)
    with np.errstate(all="ignore"):
        grads: DeformConv2dGrads = module.deform_conv2d_backward(grad_output, *arrays)
    return grads


@speaks_dlpack
def dcnv3(
    input: Array,
    offset: Array,
    mask: Array,
    kernel_size: IntOrPair = 3,
    stride: IntOrPair = 1,
    padding: IntOrPair = 1,
    dilation: IntOrPair = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    *,
    backend: str | None = None,
) -> Array:
    r"""DCNv3, the operator of InternImage: a modulated sum of samples, with no weights of its own.

    .. math:: y_c(p) = \sum_{k} m_{g,k}(p)\, x_c(p_0 + s\,(p_k + \Delta p_{g,k}(p))), \quad c \in \text{group } g

    where :math:`p_0` is the centre of the regular grid and :math:`p_k` runs over the grid around it. Eq. 2 of arXiv
    2211.05778; agrees with the CUDA kernels of OpenGVLab/InternImage (ops_dcnv3), layouts included.

    Parameters
    ----------
    input : (N, H, W, C)
        Channels last; channel c belongs to group ``c // (C/groups)``.
    offset : (N, Ho, Wo, G*K*2)
        In pixels. Entry ``(g*K + t)*2`` is the HORIZONTAL (x) shift of tap t, the next the vertical (y) one; taps
        count COLUMN by column, t = column*kh + row. K = kh*kw, less one with `remove_center`.
    mask : (N, Ho, Wo, G*K)
        Modulation, already normalised: see `normalise_modulation`.
    kernel_size, stride, padding, dilation : int or (vertical, horizontal)
    groups : int
    offset_scale : float
        Stretches the regular grid around its centre, and the offsets.
    remove_center : bool
        Leave out the centre tap (square odd kernels only).
    backend : {"numpy", "cpu", "cuda"}, optional

    Returns
    -------
    (N, Ho, Wo, C)

    Raises
    ------
    TypeError, ValueError, BackendUnavailable
        As `deform_conv2d`. The published CUDA op does not check the shapes of offset and mask; this does.

    Examples
    --------
    Modulation 1/8 on the regular grid is an (unnormalised) box filter:

    >>> import numpy as np, dcnlab
    >>> x = np.arange(9.0).reshape(1, 3, 3, 1)
    >>> float(dcnlab.dcnv3(x, np.zeros((1, 3, 3, 18)), np.full((1, 3, 3, 9), 1 / 8))[0, 1, 1, 0])
    4.5
    """
    geometry = (kernel_size, stride, padding, dilation, groups, offset_scale, remove_center)
    chosen = choose(backend, input)
    _check_dcnv3("dcnv3", chosen.dtypes, input, offset, mask, *geometry)
    module = implementation(chosen, "deformable", input)
    with np.errstate(all="ignore"):
        result: Array = module.dcnv3(input, offset, mask, *geometry)
    return result


@speaks_dlpack
def dcnv3_backward(
    grad_output: Array,
    input: Array,
    offset: Array,
    mask: Array,
    kernel_size: IntOrPair = 3,
    stride: IntOrPair = 1,
    padding: IntOrPair = 1,
    dilation: IntOrPair = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    *,
    backend: str | None = None,
) -> DCNv3Grads:
    """Gradients of ``sum(dcnv3(...) * grad_output)``; the mask is a free argument (no softmax here).

    Parameters
    ----------
    grad_output : (N, Ho, Wo, C)
    input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, backend
        As in `dcnv3`.

    Returns
    -------
    DCNv3Grads(input, offset, mask)
        Each in the shape of its argument. Lattice lines as in `deform_conv2d_backward`.

    Raises
    ------
    TypeError, ValueError, BackendUnavailable
        As `dcnv3`.
    """
    operator, chosen = "dcnv3_backward", choose(backend, input)
    geometry = (kernel_size, stride, padding, dilation, groups, offset_scale, remove_center)
    shape = _check_dcnv3(operator, chosen.dtypes, input, offset, mask, *geometry)
    require_arrays(operator, chosen.dtypes, input=input, grad_output=grad_output)
    require_shape(operator, "grad_output", grad_output, "(N, Ho, Wo, C)", shape)
    module = implementation(chosen, "deformable", input)
    with np.errstate(all="ignore"):
        grads: DCNv3Grads = module.dcnv3_backward(grad_output, input, offset, mask, *geometry)
    return grads


def _check_deform_conv2d(
    operator: str,
    dtypes: tuple[str, ...],
    input: Array,
    offset: Array,
    weight: Array,
    bias: Array | None,
    stride: IntOrPair,
    padding: IntOrPair,
    dilation: IntOrPair,
    mask: Array | None,
) -> tuple[int, int, int, int]:
    """Refuse arguments that do not fit together; return the shape of the output."""
    require_arrays(operator, dtypes, input=input, offset=offset, weight=weight, bias=bias, mask=mask)
    n, channels, size = require_image(operator, input, "(N, C, H, W)")
    out, kernel = require_weight(operator, weight, channels)
    if bias is not None:
        require_shape(operator, "bias", bias, "(O,)", (out,))
    ho, wo = output_size(size, kernel, stride, padding, dilation)
    taps = kernel[0] * kernel[1]
    # The number of offset groups is whatever the offset's channels say.
    groups, rest = divmod(offset.shape[1], 2 * taps) if offset.ndim == 4 else (0, 0)
    shown: tuple[Any, ...] = (n, f"G*{taps}*2", ho, wo)
    require_shape(operator, "offset", offset, "(N, G*K*2, Ho, Wo)", shown)
    if groups == 0 or rest:
        raise ValueError(f"{operator}: offset must have G*K*2 = G*{taps}*2 channels, got {offset.shape[1]}")
    if channels % groups:
        raise ValueError(f"{operator}: the offset has G = {groups} groups, which must divide the {channels} channels")
    if mask is not None:
        require_shape(operator, "mask", mask, "(N, G*K, Ho, Wo)", (n, groups * taps, ho, wo))
    return n, out, ho, wo


def _check_dcnv3(
    operator: str,
    dtypes: tuple[str, ...],
    input: Array,
    offset: Array,
    mask: Array,
    kernel_size: IntOrPair,
    stride: IntOrPair,
    padding: IntOrPair,
    dilation: IntOrPair,
    groups: int,
    offset_scale: float,
    remove_center: bool,
) -> tuple[int, int, int, int]:
    """Refuse arguments that do not fit together; return the shape of the output."""
    require_arrays(operator, dtypes, input=input, offset=offset, mask=mask)
    n, channels, size = require_image(operator, input, "(N, H, W, C)")
    if not isinstance(groups, (int, np.integer)) or groups < 1 or channels % groups:
        raise ValueError(f"{operator}: groups must be a positive integer that divides C = {channels}, got {groups!r}")
    if not np.isfinite(offset_scale):
        raise ValueError(f"{operator}: offset_scale must be finite, got {offset_scale!r}")
    kernel, dilated = pair(kernel_size, "kernel_size", 1), pair(dilation, "dilation", 1)
    taps = len(scaled_taps(kernel, dilated, "dcnv3", 1.0, bool(remove_center))[0])
    ho, wo = output_size(size, kernel, stride, padding, dilation)
    require_shape(operator, "offset", offset, "(N, Ho, Wo, G*K*2)", (n, ho, wo, groups * taps * 2))
    require_shape(operator, "mask", mask, "(N, Ho, Wo, G*K)", (n, ho, wo, groups * taps))
    return n, ho, wo, channels


def require_image(operator: str, input: Array, formula: str) -> tuple[int, int, tuple[int, int]]:
    """Return N, C and (H, W) of an input in the layout of `formula`; only the batch may be empty."""
    names = formula.strip("()").split(", ")
    require_shape(operator, "input", input, formula, tuple(names))
    sizes: dict[str, Any] = dict(zip(names, input.shape, strict=True))
    if min(sizes["C"], sizes["H"], sizes["W"]) < 1:
        raise ValueError(f"{operator}: input must have at least one channel and one pixel, got {tuple(input.shape)}")
    return sizes["N"], sizes["C"], (sizes["H"], sizes["W"])


def require_weight(operator: str, weight: Array, channels: int) -> tuple[int, tuple[int, int]]:
    """Return O and (kh, kw) of a convolution's weights whose groups divide the channels."""
    require_shape(operator, "weight", weight, "(O, C/groups, kh, kw)", ("O", "C/groups", "kh", "kw"))
    out, per_group, kh, kw = weight.shape
    if min(weight.shape) < 1:
        raise ValueError(f"{operator}: weight must not be empty, got {tuple(weight.shape)}")
    if channels % per_group or out % (channels // per_group):
        raise ValueError(
            f"{operator}: weight (O, C/groups, kh, kw) = {tuple(weight.shape)} with C = {channels} means "
            f"groups = {channels}/{per_group}, which must be an integer that divides O = {out}"
        )
    return out, (kh, kw)
