"""Small sets of images to train on, settings for runs of seconds, and small models with gradients."""

import numpy as np

import dcnlab
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


def made(counts, seed=0):
    """Images of one pixel's brightness each, all different, in mixed order."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    number = np.arange(len(labels))
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 1, 0, 0] = number % 256, number // 256
    return LabelledImages(images, labels, tuple(f"c{i}" for i in range(len(counts))))


def numbers(data):
    return data.images[:, 0, 0, 0] + 256 * data.images[:, 1, 0, 0].astype(int)


def small_model(dtype="float64", rng=0, **settings):
    shape = {"channels": 8, "depths": [1, 1, 2, 1], "groups": [1, 2, 4, 8], "num_classes": 3}
    return dcnlab.InternImage(**shape, **settings, dtype=dtype, rng=rng)


def with_random_grads(model, seed=0):
    rng = np.random.default_rng(seed)
    for state in model.parameters():
        state.grad = rng.standard_normal(state.shape).astype(state.dtype)
    return model
