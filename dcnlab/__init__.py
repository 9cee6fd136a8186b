"""dcnlab: understand, check and run deformable convolution.

Everything public is imported from here, on first use: `import dcnlab` itself loads little more than NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dcnlab.errors import BackendUnavailable

__version__ = "0.1.0"

# Where each public name lives. Submodules (dcnlab.viz, ...) come the same way.
_HOMES = {
    "dcnlab.backends": ["use_backend"],
    "dcnlab.checkpoints.load": ["load_checkpoint"],
    "dcnlab.checkpoints.save": ["save_checkpoint"],
    "dcnlab.errors": ["UnsafeCheckpoint"],
    "dcnlab.explain": ["explain_pixel"],
    "dcnlab.geometry": [
        "SamplingGrid",
        "output_size",
        "sampling_grid",
        "sampling_modulation",
        "sampling_positions",
        "tap_positions",
    ],
    "dcnlab.gradients": ["gradcheck"],
    "dcnlab.info": ["show_config"],
    "dcnlab.internimage.model": ["InternImage"],
    "dcnlab.layouts": ["dcnv2_from_dcnv3", "dcnv3_from_dcnv2"],
    "dcnlab.modulation": [
        "normalise_modulation",
        "normalise_modulation_backward",
        "sigmoid",
        "sigmoid_backward",
        "twice_sigmoid",
        "twice_sigmoid_backward",
    ],
    "dcnlab.ops.deformable": ["dcnv3", "dcnv3_backward", "deform_conv2d", "deform_conv2d_backward"],
    "dcnlab.ops.dense": [
        "attention",
        "attention_backward",
        "conv2d",
        "conv2d_backward",
        "linear",
        "linear_backward",
    ],
    "dcnlab.ops.layers": [
        "batch_norm",
        "batch_norm_backward",
        "cross_entropy",
        "cross_entropy_backward",
        "depthwise_conv2d",
        "depthwise_conv2d_backward",
        "gelu",
        "gelu_backward",
        "layer_norm",
        "layer_norm_backward",
        "softmax",
        "softmax_backward",
    ],
    "dcnlab.reference.deformable": ["DCNv3Grads", "DeformConv2dGrads"],
    "dcnlab.reference.sampling": ["sampling_matrix"],
}
_SUBMODULES = ("exercises", "internimage", "nn", "reference", "viz")
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["BackendUnavailable", "__version__", *sorted(_HOME), *_SUBMODULES]

if TYPE_CHECKING:  # the same names, for type checkers and editors
    import dcnlab.exercises as exercises  # noqa: F401
    import dcnlab.internimage as internimage  # noqa: F401
    import dcnlab.nn as nn  # noqa: F401
    import dcnlab.reference as reference  # noqa: F401
    import dcnlab.viz as viz  # noqa: F401
    from dcnlab.backends import use_backend as use_backend
    from dcnlab.checkpoints.load import load_checkpoint as load_checkpoint
    from dcnlab.checkpoints.save import save_checkpoint as save_checkpoint
    from dcnlab.errors import UnsafeCheckpoint as UnsafeCheckpoint
    from dcnlab.explain import explain_pixel as explain_pixel
    from dcnlab.geometry import SamplingGrid as SamplingGrid
    from dcnlab.geometry import output_size as output_size
    from dcnlab.geometry import sampling_grid as sampling_grid
    from dcnlab.geometry import sampling_modulation as sampling_modulation
    from dcnlab.geometry import sampling_positions as sampling_positions
    from dcnlab.geometry import tap_positions as tap_positions
    from dcnlab.gradients import gradcheck as gradcheck
    from dcnlab.info import show_config as show_config
    from dcnlab.internimage.model import InternImage as InternImage
    from dcnlab.layouts import dcnv2_from_dcnv3 as dcnv2_from_dcnv3
    from dcnlab.layouts import dcnv3_from_dcnv2 as dcnv3_from_dcnv2
    from dcnlab.modulation import normalise_modulation as normalise_modulation
    from dcnlab.modulation import normalise_modulation_backward as normalise_modulation_backward
    from dcnlab.modulation import sigmoid as sigmoid
    from dcnlab.modulation import sigmoid_backward as sigmoid_backward
    from dcnlab.modulation import twice_sigmoid as twice_sigmoid
    from dcnlab.modulation import twice_sigmoid_backward as twice_sigmoid_backward
    from dcnlab.ops.deformable import dcnv3 as dcnv3
    from dcnlab.ops.deformable import dcnv3_backward as dcnv3_backward
    from dcnlab.ops.deformable import deform_conv2d as deform_conv2d
    from dcnlab.ops.deformable import deform_conv2d_backward as deform_conv2d_backward
    from dcnlab.ops.dense import attention as attention
    from dcnlab.ops.dense import attention_backward as attention_backward
    from dcnlab.ops.dense import conv2d as conv2d
    from dcnlab.ops.dense import conv2d_backward as conv2d_backward
    from dcnlab.ops.dense import linear as linear
    from dcnlab.ops.dense import linear_backward as linear_backward
    from dcnlab.ops.layers import batch_norm as batch_norm
    from dcnlab.ops.layers import batch_norm_backward as batch_norm_backward
    from dcnlab.ops.layers import cross_entropy as cross_entropy
    from dcnlab.ops.layers import cross_entropy_backward as cross_entropy_backward
    from dcnlab.ops.layers import depthwise_conv2d as depthwise_conv2d
    from dcnlab.ops.layers import depthwise_conv2d_backward as depthwise_conv2d_backward
    from dcnlab.ops.layers import gelu as gelu
    from dcnlab.ops.layers import gelu_backward as gelu_backward
    from dcnlab.ops.layers import layer_norm as layer_norm
    from dcnlab.ops.layers import layer_norm_backward as layer_norm_backward
    from dcnlab.ops.layers import softmax as softmax
    from dcnlab.ops.layers import softmax_backward as softmax_backward
    from dcnlab.reference.deformable import DCNv3Grads as DCNv3Grads
    from dcnlab.reference.deformable import DeformConv2dGrads as DeformConv2dGrads
    from dcnlab.reference.sampling import sampling_matrix as sampling_matrix


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"dcnlab.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'dcnlab' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
