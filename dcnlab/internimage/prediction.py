"""What an InternImage takes a photo for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from dcnlab.internimage.blocks import Stage
from dcnlab.internimage.class_names import class_names
from dcnlab.internimage.loading import matching_variant
from dcnlab.internimage.model import InternImage
from dcnlab.internimage.preprocess import preprocess
from dcnlab.internimage.variants import VARIANTS
from dcnlab.modulation import softmax
from dcnlab.nn import DCNv3, no_grad

if TYPE_CHECKING:
    from dcnlab.internimage.preprocess import Photo

USUAL_SIZE = 224  # of a model that is none of the published ones


class Prediction(NamedTuple):
    """One class: its index among the model's, its probability, and its name where one is known."""

    class_index: int
    probability: float
    name: str | None


def classify(model: InternImage, image: Photo, top: int = 5, size: int | None = None) -> list[Prediction]:
    """Return the most probable classes of a photo, the most probable first.

    Parameters
    ----------
    model : InternImage
        With a head, in eval mode.
    image : path, Pillow image, or (H, W, 3) or (H, W) uint8
        Preprocessed as published, see `dcnlab.internimage.preprocess`.
    top : int
        How many; all classes if there are fewer.
    size : int, optional
        Side of what the model sees, in pixels; by default that of the published variant whose shapes the model has,
        else 224.

    Returns
    -------
    list of Prediction(class_index, probability, name)
        Names for the 1000 classes of ImageNet-1k where torchvision or timm is installed, else None.

    Raises
    ------
    ValueError, TypeError
        One line: for a photo that cannot be read, a model without head or in training mode, scores that are not
        finite.

    Notes
    -----
    Runs on the backend in force, and keeps nothing for a backward pass.

    Examples
    --------
    >>> from dcnlab.internimage import InternImage, classify
    >>> model = InternImage(channels=16, depths=[1, 1, 1, 1], groups=[1, 2, 4, 8], num_classes=10, rng=0).eval()
    >>> best = classify(model, np.zeros((40, 40, 3), np.uint8), top=3, size=32)
    >>> [p.probability >= 0.1 for p in best][0], [p.name for p in best]
    (True, [None, None, None])
    """
    if isinstance(top, bool) or not isinstance(top, (int, np.integer)) or top < 1:
        raise ValueError(f"top must be an int of at least 1, got {top!r}")
    if model.training:
        raise ValueError("the model is in training mode, where its answer depends on chance: call model.eval() first")
    images = preprocess(image, published_size(model) if size is None else size)
    with no_grad():
        logits = model(images.astype(model.settings.dtype))[0]
    if not np.isfinite(logits).all():
        raise ValueError(f"{int((~np.isfinite(logits)).sum())} of the {len(logits)} class scores are not finite")
    probabilities = softmax(logits.astype(np.float64))
    order = np.argsort(-probabilities, kind="stable")[:top]
    found = class_names(len(probabilities))
    names = found[1] if found else None
    return [Prediction(int(i), float(probabilities[i]), names[i] if names else None) for i in order]


def variant_of(model: InternImage) -> str | None:
    """Return the name of the published variant whose shapes the model has, or None.

    >>> variant_of(InternImage(**InternImage.variants["T"]))
    'T'
    """
    settings, levels = model.settings, cast("list[Stage]", list(model.levels))
    if settings.core_op is not DCNv3:
        return None
    shapes = {
        "channels": model.channels,
        "depths": [len(stage.blocks) for stage in levels],
        "groups": [stage.blocks[0].dcn.groups for stage in levels],
        "mlp_ratio": settings.mlp_ratio,
        "dw_kernel_size": settings.dw_kernel_size or 3,
    }
    return matching_variant(shapes)


def published_size(model: InternImage) -> int:
    """Return the side, in pixels, of the images that a model of these shapes was published with; 224 for others."""
    name = variant_of(model)
    return USUAL_SIZE if name is None else VARIANTS[name].size
