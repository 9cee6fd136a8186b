"""Small sets of images to train on, and settings for runs of seconds."""

import numpy as np

from dcnlab.train.data import LabelledImages

# No warm-up, no averaging, no augmentation beyond a little rotation: few steps show what a step does.
QUICK = {"epochs": 2, "batch": 6, "lr": 1e-3, "rotate": 10.0, "seed": 5, "backend": "numpy", "test": 4}


def bars(count: int, seed: int = 0) -> LabelledImages:
    """Return noisy images of 32x32 with a bright bar, lying (class 0) or standing (class 1)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(0, 60, (count, 32, 32, 1))
    for image, label in zip(images, labels, strict=True):
        start = rng.integers(8, 20)
        (image if label == 0 else image.transpose(1, 0, 2))[start : start + 4] += 150
    return LabelledImages(images.astype(np.uint8), labels.astype(np.int64), ("lying", "standing"))


def write_bars(path, count: int) -> None:
    """Write such images as an .npz that `dcnlab train` reads."""
    found = bars(count)
    np.savez(path, images=found.images, labels=found.labels)
