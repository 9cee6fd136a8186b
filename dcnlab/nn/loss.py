"""The loss of classification."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.arrays import Array, array_module
from dcnlab.nn.module import Module, require_grad_output
from dcnlab.ops import layers


class CrossEntropy(Module):
    """The mean over the batch of `dcnlab.cross_entropy`.

    Parameters
    ----------
    label_smoothing : float
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def forward(self, logits: Array, labels: Any) -> Any:
        """Return the mean loss of logits (N, K) and integer labels (N,); 0 for an empty batch."""
        losses = layers.cross_entropy(logits, labels, self.label_smoothing)
        self.keep(logits=logits, labels=labels)
        with np.errstate(all="ignore"):
            return losses.sum() / losses.dtype.type(max(len(losses), 1))

    def backward(self, grad_output: Any = 1.0) -> Array:
        """Return the gradient of the logits."""
        logits, labels = self.kept().logits, self.kept().labels
        xp, count = array_module(logits), len(logits)
        grad = xp.asarray(grad_output, logits.dtype)
        require_grad_output(self, grad, ())
        share = xp.broadcast_to(grad / max(count, 1), (count,))
        return layers.cross_entropy_backward(share.astype(logits.dtype), logits, labels, self.label_smoothing)
