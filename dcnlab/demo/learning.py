"""Gradient descent through the operators: until the sampling undoes the bend."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np

from dcnlab.demo.samplers import Sampler

LEARNING_RATE = 0.15 / 160  # in units of the longer side
BLUR = 5 / 160  # standard deviation of the first stage's blur, in the same units: most shifts are shorter
FRAMES = 50  # of the animation


@dataclass
class Learning:
    """One learner's way from regular sampling to the undone bend.

    Attributes
    ----------
    sampler : Sampler, as learned
    distances : mean distance to the true offsets in pixels, before every step and after the last
    losses : mean squared error over the variance of the photo, before every step
    frames : the sampler at some of the steps
    frame_steps : their numbers
    seconds : float
    """

    sampler: Sampler
    distances: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    frames: list[Sampler] = field(default_factory=list)
    frame_steps: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def before(self) -> float:
        """The mean distance to the true offsets before the first step, in pixels."""
        return self.distances[0]

    @property
    def after(self) -> float:
        """The mean distance to the true offsets after the last step, in pixels."""
        return self.distances[-1]


class Adam:
    """Adam (arXiv 1412.6980) on a list of arrays, in place."""

    def __init__(self, parameters: list[np.ndarray], betas: tuple[float, float] = (0.9, 0.99)) -> None:
        self.parameters, self.betas, self.steps = parameters, betas, 0
        self.means = [np.zeros_like(p) for p in parameters]
        self.squares = [np.zeros_like(p) for p in parameters]

    def step(self, grads: list[np.ndarray], rate: float) -> None:
        """Move every parameter by about `rate` against its gradient."""
        self.steps += 1
        first, second = self.betas
        for parameter, grad, mean, square in zip(self.parameters, grads, self.means, self.squares, strict=True):
            mean += (1 - first) * (grad - mean)
            square += (1 - second) * (grad**2 - square)
            unbiased = mean / (1 - first**self.steps)
            parameter -= rate * unbiased / (np.sqrt(square / (1 - second**self.steps)) + 1e-12)


def learn(
    sampler: Sampler,
    bent: np.ndarray,
    photo: np.ndarray,
    truth: np.ndarray,
    steps: tuple[int, int],
    progress: bool,
) -> Learning:
    """Learn the sampler's parameters until it turns the bent image into the photo.

    Two stages, each with its own Adam and a cosine that ends at 0: on blurred images first, where an edge can be
    seen from as far away as the blur is wide, then on the sharp ones.

    Parameters
    ----------
    sampler : Sampler
        Changed in place.
    bent, photo : (H, W)
    truth : (H, W, 2)
        The offsets that undo the bend; measured against, never learned from.
    steps : (blurred, sharp)
    """
    started, record = time.perf_counter(), Learning(sampler)
    longer, every = max(photo.shape), max(1, sum(steps) // FRAMES)
    bar = _progress(sum(steps), sampler.name, record, progress)
    for blur, count in zip((BLUR * longer, 0.0), steps, strict=True):
        image, target = (_stage_image(a, blur) for a in (bent, photo))
        adam = Adam(sampler.parameters)
        for i in range(count):
            record.distances.append(distance(sampler, truth))
            if len(record.losses) % every == 0:
                _keep(record)
            loss, grads = sampler.loss_gradients(image, target)
            record.losses.append(loss)
            adam.step(grads, LEARNING_RATE * longer * (1 + np.cos(np.pi * i / count)) / 2)
            next(bar)
    record.distances.append(distance(sampler, truth))
    _keep(record)
    record.seconds = time.perf_counter() - started
    bar.close()
    return record


def distance(sampler: Sampler, truth: np.ndarray) -> float:
    """Return the mean distance from the modulation-weighted mean tap to where it should sample, in pixels."""
    return float(np.linalg.norm(sampler.mean_offset() - truth, axis=-1).mean())


def _stage_image(image: np.ndarray, blur: float) -> np.ndarray:
    """Return (H, W) as (H, W, 1) float32, blurred if asked for."""
    from scipy.ndimage import gaussian_filter

    return (gaussian_filter(image, blur) if blur else image)[..., None].astype(np.float32)


def _keep(record: Learning) -> None:
    record.frames.append(copy.deepcopy(record.sampler))
    record.frame_steps.append(len(record.losses))


def _progress(total: int, name: str, record: Learning, wanted: bool) -> Generator[None]:
    """Show how far the learning is, each time it is advanced: a bar on a terminal, else a line now and then."""
    if not wanted:
        while True:
            yield
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=name, unit="step", leave=False, dynamic_ncols=True) as bar:
            while True:
                bar.set_postfix_str(f"{record.distances[-1]:.2f} px", refresh=False)
                bar.update()
                yield
    else:
        every = max(1, total // 5)
        for done in range(1, total + 1):
            if done % every == 0:
                print(f"  {name} step {done}/{total}: {record.distances[-1]:.3f} px", flush=True)
            yield
