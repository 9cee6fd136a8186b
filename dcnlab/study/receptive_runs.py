"""The nets whose receptive fields are compared, their training, and what is measured before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dcnlab import nn
from dcnlab.arrays import Array
from dcnlab.backends import use_backend
from dcnlab.internimage import InternImage
from dcnlab.internimage.receptive import Pixel, centre_on_image, fields_of_maps, middle, radius_of_share
from dcnlab.internimage.sampled import sampling_grids, stage_stride
from dcnlab.internimage.variants import LEVELS
from dcnlab.study.digits import digits
from dcnlab.study.receptive_figures import SHARES
from dcnlab.train.loop import TEST_SEED, Trainer
from dcnlab.train.settings import MODELS, Settings

DEFORMABLE, FASTER, PLAIN = "DCNv3", "DCNv3, offsets x 10", "convolution"
NETS = {DEFORMABLE: 0.1, FASTER: 1.0, PLAIN: 0.1}  # the learning rate of the offsets over that of the rest
DIRECTIONS = 4  # random signs that a field is a mean over

# Digits in squares of 56 to 126 pixels: about what stage 3 of a new net sees, and more.
TRAINING = Settings(size=128, batch=32, epochs=4, smallest=2.0, largest=4.5)

Measured = dict[str, Any]


class SeparableConv(nn.Module):
    """A depthwise 3x3 convolution and a linear layer, on (N, H, W, C): what stands in a block in place of DCNv3.

    Parameters
    ----------
    channels : int
    dtype : dtype
    rng : numpy.random.Generator, int or None
    **of_dcnv3
        The further arguments that `InternImage` gives its core operator; they mean nothing here.

    Attributes
    ----------
    depthwise : DepthwiseConv2d
    pointwise : Linear
    """

    def __init__(self, channels: int, dtype: Any = np.float32, rng: Any = None, **of_dcnv3: Any) -> None:
        rng = np.random.default_rng(rng)
        self.depthwise = nn.DepthwiseConv2d(channels, 3, padding=1, dtype=dtype, rng=rng)
        self.pointwise = nn.Linear(channels, channels, dtype=dtype, rng=rng)

    def forward(self, input: Array) -> Array:
        """Return (N, H, W, C) of the same shape."""
        return self.pointwise(self.depthwise(input.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1))

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient of the input."""
        grad = self.pointwise.backward(grad_output)
        return self.depthwise.backward(grad.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)


@dataclass(frozen=True)
class Size:
    """How much is computed."""

    train: int = 2000  # digits
    test: int = 500  # held-out digits
    measured: int = 64  # of these: their fields are averaged
    settings: Settings = TRAINING


@dataclass(frozen=True)
class Job:
    """One run."""

    net: str
    seed: int
    size: Size


def train_one(job: Job) -> Measured:
    """Train one net, and measure it before and after.

    Returns
    -------
    dict
        "net", "seed", "parameters"; "accuracy" on the held-out digits, a share, of the averaged weights; "seconds" of
        training and tests; "before" and "after", each of `measure`, the latter of the averaged weights.

    Raises
    ------
    Diverged
        When training does.
    """
    train, test = digits(job.size.train, job.size.test)
    settings = replace(job.size.settings, seed=job.seed, offset_lr=NETS[job.net])
    model = build(job.net, job.seed, len(train.names))
    trainer = Trainer(settings, train, test, model)
    # Digits are sorted by class: every n-th of them, turned and scaled as they are tested.
    chosen = np.linspace(0, len(test) - 1, job.size.measured).round().astype(int)
    images = trainer.warp.transformed(test.images[chosen], chosen, None, TEST_SEED, settings.size)
    with use_backend(trainer.backend):
        before = measure(model, images)
        rows = trainer.fit()
        model.load_state_dict(trainer.finished())
        after = measure(model, images)
    return {
        "net": job.net,
        "seed": job.seed,
        "parameters": model.parameter_count(),
        "accuracy": rows[-1]["test_accuracy"],
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "before": before,
        "after": after,
    }


def build(net: str, seed: int, classes: int) -> InternImage:
    """Return a new net: InternImage at the size of digits, with DCNv3 or with `SeparableConv`."""
    core_op: Any = SeparableConv if net == PLAIN else "DCNv3"
    return InternImage(**MODELS["digits"], num_classes=classes, core_op=core_op, rng=seed)


# -- measures ------------------------------------------------------------------------------------------------------


def measure(model: InternImage, images: np.ndarray) -> Measured:
    """Return the effective receptive fields of a model in inference mode, and how far its taps have moved.

    Parameters
    ----------
    model : InternImage
    images : (N, 3, H, W)

    Returns
    -------
    dict
        "fields", of each stage (H, W) float64, the mean over images, its sum 1; "radii", of each stage those of the
        circles that hold `SHARES` of it, in pixels; "moves", of `moves`.
    """
    training = model.training
    model.eval()
    maps = model.features(images)
    fields = [fields_of_maps(model, maps, stage, directions=DIRECTIONS).mean(axis=0) for stage in range(LEVELS)]
    model.train(training)
    fields = [field.astype(np.float64) / field.sum(dtype=np.float64) for field in fields]
    return {
        "fields": fields,
        "radii": [radii(field, centre) for field, centre in zip(fields, centres(images.shape[2:]), strict=True)],
        "moves": moves(model),
    }


def centres(size: Sequence[int]) -> list[Pixel]:
    """Return the pixel of the image on which the middle of each stage's map is centred.

    >>> centres((128, 128))
    [(64, 64), (64, 64), (64, 64), (64, 64)]
    """
    strides = [stage_stride(stage) for stage in range(LEVELS)]
    maps = [[-(-side // stride) for side in size] for stride in strides]  # rounded up
    return [centre_on_image(middle(map), stage) for stage, map in enumerate(maps)]


def radii(field: np.ndarray, centre: Pixel) -> list[float]:
    """Return the radii of the circles around a pixel that hold `SHARES` of a field."""
    return [round(radius_of_share(field, centre, share), 2) for share in SHARES]


def moves(model: InternImage) -> list[Measured]:
    """Return how far the taps of each DCNv3 layer were from the regular grid in the last forward pass.

    Returns
    -------
    list of dict
        "stage" and "block" from 0; "spacing" of the regular taps, and "rms" of the distance over images, pixels,
        groups and taps, both in pixels of the image. Empty for a model without DCNv3.
    """
    if not isinstance(model.stages[0].first_block.dcn, nn.DCNv3):
        return []
    found = []
    for layer in sampling_grids(model):
        offset = layer.grid.offset_scale * layer.stride * layer.grid.offset  # (N, H*W, G, K, 2)
        rms = float(np.sqrt((offset**2).sum(axis=-1, dtype=np.float64).mean()))
        found.append({"stage": layer.stage, "block": layer.block, "spacing": layer.stride, "rms": round(rms, 3)})
    return found


# -- several at a time ---------------------------------------------------------------------------------------------
