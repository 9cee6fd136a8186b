r"""The two operators as learners: parameters -> offsets -> operator, and the way back.

Free offsets for every pixel do not converge: most pixels see no edge, and nothing ties them to the ones that do.
So all taps share one smooth field, a cubic spline on a 9x9 grid of control points:

.. math:: \Delta p_k(p) = \sum_{ij} B_i(y)\, P_{ij}\, B_j(x) + c_k

DCNv2 has one tap (a 1x1 kernel with weight 1). DCNv3 has nine, each with a constant c_k and a logit, the same
at every pixel; softmax makes the logits into modulation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from dcnlab.demo.warp import spline_basis
from dcnlab.geometry import Pair, SamplingGrid, packed_modulation, packed_offset, sampling_grid, tap_positions
from dcnlab.modulation import softmax, softmax_backward
from dcnlab.ops.deformable import dcnv3, dcnv3_backward, deform_conv2d, deform_conv2d_backward

CONTROLS = 9


class Sampler(ABC):
    """What both learners share: the field of offsets and its gradient.

    Attributes
    ----------
    controls : (2, 9, 9), the control points P of the field, as (y, x), in pixels
    taps : (K, 2), the regular kernel around its middle
    shifts : (K, 2), the constants c_k
    logits : (K,)
    """

    name = ""
    layout = ""
    kernel_size = 1

    def __init__(self, shape: Pair) -> None:
        self.shape = shape
        taps = tap_positions(self.kernel_size, layout=self.layout)
        self.taps = taps - taps.mean(axis=0)
        self.controls = np.zeros((2, CONTROLS, CONTROLS))
        self.shifts = np.zeros(self.taps.shape)
        self.logits = np.zeros(len(self.taps))

    @property
    def parameters(self) -> list[np.ndarray]:
        """The arrays that are learned, in the order of the gradients."""
        return [self.controls]

    def field(self, detail: int = 1) -> np.ndarray:
        """Return the offsets that all taps share, (H, W, 2), in pixels of the working image."""
        rows, columns = (spline_basis(detail * length, CONTROLS) for length in self.shape)
        return np.moveaxis(rows @ self.controls @ columns.T, 0, -1)

    def mean_offset(self) -> np.ndarray:
        """Return how far the modulation-weighted mean tap is from the output pixel, (H, W, 2)."""
        mean: np.ndarray = self.field() + softmax(self.logits) @ (self.shifts + self.taps)
        return mean

    def offsets(self, detail: int = 1) -> np.ndarray:
        """Return the offsets (1, H, W, 1, K, 2) for an image `detail` times as large."""
        from_regular = detail * (self.shifts + self.taps) - self.taps  # (K, 2)
        return (detail * self.field(detail)[:, :, None] + from_regular)[None, :, :, None]

    def modulation(self, detail: int = 1) -> np.ndarray:
        """Return the modulation (1, H, W, 1, K), the same at every pixel."""
        size = (1, detail * self.shape[0], detail * self.shape[1], 1, len(self.logits))
        return np.broadcast_to(softmax(self.logits), size)

    def grid(self, detail: int = 1) -> SamplingGrid:
        """Return where all taps sample."""
        offset = packed_offset(self.offsets(detail), layout=self.layout)
        return sampling_grid(offset, self.kernel_size, padding=self.kernel_size // 2, layout=self.layout)

    @abstractmethod
    def sample(self, image: np.ndarray, detail: int = 1) -> np.ndarray:
        """Return the operator's output (H, W, C) for an image (H, W, C)."""

    @abstractmethod
    def loss_gradients(self, image: np.ndarray, target: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """Return the mean squared error over the target's variance, and the gradients of `parameters`.

        Parameters
        ----------
        image, target : (H, W, C)
            What is sampled, and what should come out.
        """

    def _arguments(self, detail: int, dtype: np.dtype) -> dict[str, Any]:
        """Return the offsets, as the operator takes them."""
        return {"offset": packed_offset(self.offsets(detail).astype(dtype), layout=self.layout)}

    def _grad_controls(self, grad_field: np.ndarray) -> np.ndarray:
        """Return the gradient of the control points from that of the field (H, W, 2)."""
        rows, columns = (spline_basis(length, CONTROLS) for length in self.shape)
        grad: np.ndarray = rows.T @ np.moveaxis(grad_field, -1, 0) @ columns
        return grad


class OneTapDCNv2(Sampler):
    """DCNv2 with a 1x1 kernel of weight 1: it moves every pixel, and does nothing else."""

    name = "DCNv2"
    layout = "deform_conv2d"

    def sample(self, image: np.ndarray, detail: int = 1) -> np.ndarray:
        """Return the operator's output (H, W, C) for an image (H, W, C)."""
        offset = self._arguments(detail, image.dtype)["offset"]
        return _channels_last(deform_conv2d(_channels_first(image), offset, _identity(image)))

    def loss_gradients(self, image: np.ndarray, target: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """Return the loss and the gradient of the control points."""
        offset = self._arguments(1, image.dtype)["offset"]
        arguments = _channels_first(image), offset, _identity(image)
        loss, grad = _loss(_channels_last(deform_conv2d(*arguments)), target)
        grads = deform_conv2d_backward(_channels_first(grad), *arguments)
        return loss, [self._grad_controls(_channels_last(grads.offset))]  # the two channels are (y, x)


class NineTapDCNv3(Sampler):
    """DCNv3 with a 3x3 kernel: nine softmaxed taps, which start as a blur and have to gather first."""

    name = "DCNv3"
    layout = "dcnv3"
    kernel_size = 3

    @property
    def parameters(self) -> list[np.ndarray]:
        """The control points, the constants of the taps, and their logits."""
        return [self.controls, self.shifts, self.logits]

    def sample(self, image: np.ndarray, detail: int = 1) -> np.ndarray:
        """Return the operator's output (H, W, C) for an image (H, W, C)."""
        output: np.ndarray = dcnv3(image[None], **self._arguments(detail, image.dtype))
        return output[0]

    def loss_gradients(self, image: np.ndarray, target: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """Return the loss and the gradients of the control points, the constants and the logits."""
        arguments = self._arguments(1, image.dtype)
        loss, grad = _loss(dcnv3(image[None], **arguments)[0], target)
        grads = dcnv3_backward(grad[None], image[None], **arguments)
        by_tap = grads.offset.reshape(*self.shape, len(self.taps), 2)[..., ::-1]  # published (x, y) -> (y, x)
        of_modulation = grads.mask.sum(axis=(0, 1, 2)).astype(np.float64)
        return loss, [
            self._grad_controls(by_tap.sum(axis=2)),
            by_tap.sum(axis=(0, 1)),
            softmax_backward(of_modulation, self.logits),
        ]

    def _arguments(self, detail: int, dtype: np.dtype) -> dict[str, Any]:
        """Return the offsets and the mask, as the operator takes them."""
        mask = packed_modulation(self.modulation(detail).astype(dtype), layout=self.layout)
        return {**super()._arguments(detail, dtype), "mask": mask}


def _loss(output: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean squared error over the target's variance, and its gradient."""
    error = output - target
    unit = target.size * target.var()
    return float((error**2).sum() / unit), 2 * error / unit


def _channels_first(image: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (1, C, H, W)."""
    return np.ascontiguousarray(image.transpose(2, 0, 1))[None]


def _channels_last(image: np.ndarray) -> np.ndarray:
    """(1, C, H, W) -> (H, W, C)."""
    return image[0].transpose(1, 2, 0)


def _identity(image: np.ndarray) -> np.ndarray:
    """Return the 1x1 weight that hands every channel on as it is."""
    return np.eye(image.shape[2], dtype=image.dtype)[:, :, None, None]
