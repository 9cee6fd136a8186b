"""Layers: parameters, a forward pass, and a backward pass written by hand.

Conv2d, DepthwiseConv2d, LargeKernelConv2d, BatchNorm2d, DeformConv2d, PixelShuffle and GlobalAveragePool work on NCHW
images; Linear, LayerNorm, GELU, MLP, DCNv3, UnsharedDCNv3 and the attention layers on channels-last arrays.


>>> import numpy as np
>>> from dcnlab import nn
>>> layer = nn.DCNv3(8, groups=2, rng=0)
>>> x = np.random.default_rng(0).standard_normal((1, 5, 6, 8)).astype(np.float32)
>>> layer(x).shape
(1, 5, 6, 8)
>>> layer.backward(np.ones((1, 5, 6, 8), np.float32)).shape
(1, 5, 6, 8)
>>> layer.grad_dict()["offset.weight"].shape
(36, 8)
"""

from dcnlab.nn.attention import AttentionPoolingBlock, CrossAttention, MultiHeadSelfAttention, WindowAttention
from dcnlab.nn.basic import GELU, MLP, Dropout, DropPath, LayerNorm, LayerScale, Linear
from dcnlab.nn.check import check_layer
from dcnlab.nn.deformable import DCNv3, DeformConv2d
from dcnlab.nn.image import (
    BatchNorm2d,
    Conv2d,
    DepthwiseConv2d,
    GlobalAveragePool,
    PixelShuffle,
    ToChannelsFirst,
    ToChannelsLast,
)
from dcnlab.nn.large_kernel import LargeKernelConv2d
from dcnlab.nn.loss import CrossEntropy
from dcnlab.nn.module import Buffer, LoadedKeys, Module, ModuleList, Parameter, Sequential, no_grad
from dcnlab.nn.randomness import seed_samples
from dcnlab.nn.unshared import UnsharedDCNv3

__all__ = [
    "GELU",
    "MLP",
    "AttentionPoolingBlock",
    "BatchNorm2d",
    "Buffer",
    "Conv2d",
    "CrossAttention",
    "CrossEntropy",
    "DCNv3",
    "DeformConv2d",
    "DepthwiseConv2d",
    "DropPath",
    "Dropout",
    "GlobalAveragePool",
    "LargeKernelConv2d",
    "LayerNorm",
    "LayerScale",
    "Linear",
    "LoadedKeys",
    "Module",
    "ModuleList",
    "MultiHeadSelfAttention",
    "Parameter",
    "PixelShuffle",
    "Sequential",
    "ToChannelsFirst",
    "ToChannelsLast",
    "UnsharedDCNv3",
    "WindowAttention",
    "check_layer",
    "no_grad",
    "seed_samples",
]
