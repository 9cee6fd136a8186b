"""Where the DCNv3 layers of an InternImage sampled in the last forward pass, on their maps and on the image."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, cast

from dcnlab.arrays import Array
from dcnlab.geometry import SamplingGrid, sampling_grid, sampling_modulation
from dcnlab.internimage.blocks import Block, Stage, require_dcnv3
from dcnlab.internimage.model import InternImage


class LayerSampling(NamedTuple):
    """Where one DCNv3 layer sampled.

    Attributes
    ----------
    stage, block : int
        Counted from 0.
    stride : int
        Pixels of the image from one pixel of the stage's map to the next: 4, 8, 16, 32.
    grid : SamplingGrid
        In pixels of the map that the layer samples.
    modulation : (N, H, W, G, K)
    """

    stage: int
    block: int
    stride: int
    grid: SamplingGrid
    modulation: Array

    def on_image(self) -> SamplingGrid:
        """Return the grid in pixels of the image: position p of the map is position ``stride * p`` there.

        Stem and downsampling are convolutions of kernel 3, stride 2 and padding 1. Each has output pixel p centred
        on input pixel 2 p, hence no half pixels here, as there would be if each pixel of a map stood for a square of
        ``stride x stride`` pixels of the image.
        """
        return dataclasses.replace(
            self.grid,
            origins=self.grid.origins * self.stride,
            taps=self.grid.taps * self.stride,
            residual=self.grid.residual * self.stride,
            offset=self.grid.offset * self.stride,
        )


def stage_stride(stage: int) -> int:
    """Return how many pixels of the image lie between two pixels of a stage's map.

    >>> [stage_stride(stage) for stage in range(4)]
    [4, 8, 16, 32]
    """
    return 4 * 2**stage


def sampling_grids(model: InternImage) -> list[LayerSampling]:
    """Return where each DCNv3 layer sampled in the last forward pass, in the order in which they ran.

    Parameters
    ----------
    model : InternImage
        After ``model(x)`` or ``model.features(x)``, outside ``nn.no_grad()``.

    Raises
    ------
    RuntimeError
        When there was no such pass.

    Examples
    --------
    A new model samples the regular grid:

    >>> import numpy as np
    >>> from dcnlab.internimage import InternImage, sampling_grids
    >>> model = InternImage(channels=16, depths=[1, 1, 1, 1], groups=[1, 2, 4, 8], num_classes=10, rng=0).eval()
    >>> logits = model(np.zeros((1, 3, 64, 64), np.float32))
    >>> second = sampling_grids(model)[1]
    >>> second.modulation.shape, second.grid.positions()[0, 2, 3, 0, 0].tolist()
    ((1, 8, 8, 2, 9), [1.0, 2.0])
    >>> second.on_image().positions()[0, 2, 3, 0, 0].tolist()
    [8.0, 16.0]
    """
    found = []
    for stage, level in enumerate(cast("list[Stage]", list(model.levels))):
        for block, layer in enumerate(cast("list[Block]", list(level.blocks))):
            dcn, kept = require_dcnv3(layer), layer.dcn.kept()
            grid = sampling_grid(
                kept.offset,
                dcn.kernel_size,
                dcn.stride,
                dcn.padding,
                dcn.dilation,
                layout="dcnv3",
                offset_scale=dcn.offset_scale,
                remove_center=dcn.remove_center,
            )
            modulation = sampling_modulation(kept.mask, dcn.taps, layout="dcnv3")
            found.append(LayerSampling(stage, block, stage_stride(stage), grid, modulation))
    return found
