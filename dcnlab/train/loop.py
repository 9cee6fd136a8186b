"""The loop of training: order, step, test. What it computes depends on the settings alone, not on how it is run.

The order of the images, what augmentation and drop path do to each, and the weights at the start are functions of the
seed, the epoch and the number of the image. So a run that was stopped goes on as if it had not been, and several
processes that share each batch compute what one does, up to the rounding of their sums.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from dcnlab import nn
from dcnlab.arrays import Array, array_module, as_numpy
from dcnlab.backends import fastest, use_backend
from dcnlab.launch.cuda import import_cupy
from dcnlab.train.augment import RandomAffine
from dcnlab.train.data import LabelledImages
from dcnlab.train.distributed import ALONE, World, average_gradients, share_of, synchronise
from dcnlab.train.divergence import Diverged, has_diverged, where_from
from dcnlab.train.optimiser import AdamW, MovingAverage, clip_gradients, parameter_groups
from dcnlab.train.schedule import cosine
from dcnlab.train.settings import Settings
from dcnlab.train.state import Progress

TEST_SEED = 0  # the same test in every run, whatever its seed
TEST_BATCH = 250  # images of a test batch: enough for full speed, little memory

Row = dict[str, Any]  # one epoch, as in the log


class Trainer:
    """A model in training.

    Parameters
    ----------
    settings : Settings
    train, test : LabelledImages
    model : nn.Module, optional
        A classifier of (N, 3, size, size); by default what the settings say.
    world : World
        The processes that share the batches.

    Attributes
    ----------
    model : nn.Module
    progress : Progress
    """

    def __init__(
        self,
        settings: Settings,
        train: LabelledImages,
        test: LabelledImages,
        model: nn.Module | None = None,
        world: World = ALONE,
    ) -> None:
        if len(train.labels) < settings.batch:
            raise ValueError(f"batch must be at most the {len(train.labels)} training images, got {settings.batch}")
        self.settings, self.train, self.test, self.world = settings, train, test, world
        self.model: nn.Module = settings.build(len(train.names)) if model is None else model
        self.backend = fastest()[0] if settings.backend == "auto" else settings.backend
        if self.backend == "cuda":
            self.model.to(import_cupy())
        self.progress = Progress(backend=self.backend)
        self.warp = RandomAffine(settings.rotate, (settings.smallest, settings.largest))
        self.loss = nn.CrossEntropy(settings.label_smoothing)
        groups = parameter_groups(self.model, settings.weight_decay, settings.offset_lr)
        self.optimiser = AdamW(groups)
        self.average = MovingAverage(self.model, settings.average) if settings.average else None
        self.steps_per_epoch = len(train.labels) // settings.batch
        synchronise(self.model, world)

    # -- the run --

    def fit(
        self,
        epoch_done: Callable[[Row], object] | None = None,
        step_done: Callable[[], object] | None = None,
    ) -> list[Row]:
        """Train to the end, from wherever the run is.

        Parameters
        ----------
        epoch_done : callable, optional
            Called with the row of each epoch.
        step_done : callable, optional
            Called after each step, and after the row of the epoch that it ends.

        Returns
        -------
        list of dict
            The rows of the epochs that were computed now.

        Raises
        ------
        Diverged
            Before the step that would have used the bad gradient changes anything.
        """
        rows = []
        total, _ = self.settings.schedule(self.steps_per_epoch)
        with use_backend(self.backend):
            while self.progress.step < total:
                self.step()
                if self.progress.step % self.steps_per_epoch == 0:
                    rows.append(self._row())
                    if epoch_done is not None:
                        epoch_done(rows[-1])
                    self.progress = Progress(self.progress.step, backend=self.backend)
                if step_done is not None:
                    step_done()
        return rows

    def step(self) -> None:
        """Train on the next batch."""
        started = time.perf_counter()
        samples = self.batch(self.progress.step)
        loss, correct = self.gradients(samples)
        norm = clip_gradients(self.model, self.settings.clip or float("inf"))
        self._check(loss, norm, samples)
        self.optimiser.step(self.learning_rate())
        if self.average is not None:
            self.average.update()
        done = self.progress
        self.progress = replace(
            done,
            step=done.step + 1,
            loss=done.loss + loss,
            correct=done.correct + correct,
            norm=done.norm + norm,
            seconds=done.seconds + time.perf_counter() - started,
        )

    def batch(self, step: int) -> np.ndarray:
        """Return the numbers of the training images of a step, those of all processes."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.settings.seed, epoch)).permutation(len(self.train.labels))
        size = self.settings.batch
        return order[place * size : (place + 1) * size]

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        steps, warmup = self.settings.schedule(self.steps_per_epoch)
        return cosine(self.progress.step, steps, warmup, self.settings.lr)

    def gradients(self, samples: np.ndarray) -> tuple[float, float]:
        """Leave the gradients of the mean loss of a batch in the model; return that loss, and how many were right.

        Each process takes its part of the samples; its loss counts by their number, and the gradients are added up.
        """
        mine = samples[share_of(len(samples), self.world)]
        epoch = self.progress.step // self.steps_per_epoch
        images = self._images(self.train, mine, epoch)
        labels = self.train.labels[mine]
        self.model.train()
        nn.seed_samples(self.model, self.settings.seed, epoch, mine)
        logits = self.model(images)
        share = len(mine) / len(samples)
        loss = float(self.loss(logits, labels)) * share
        self.model.backward(self.loss.backward(share))
        average_gradients(self.model, self.world)
        total = self.world.total(np.array([loss, _correct(logits, labels)]))
        return float(total[0]), float(total[1])

    def evaluate(self) -> tuple[float, float]:
        """Return the mean loss and the share of right answers on the test images, all transformed in a fixed way.

        With the moving average of the weights, where there is one. The loss is without label smoothing.
        """
        count = len(self.test.labels)
        mine = np.arange(count)[share_of(count, self.world)]
        loss, sums = nn.CrossEntropy(), np.zeros(2)
        self.model.eval()
        with self._averaged(), nn.no_grad():
            for samples in _pieces(mine):
                logits, labels = self.model(self._images(self.test, samples, None)), self.test.labels[samples]
                sums += len(samples) * float(loss(logits, labels)), _correct(logits, labels)
        self.model.train()
        mean = self.world.total(sums) / count
        return float(mean[0]), float(mean[1])

    def _averaged(self) -> AbstractContextManager[object]:
        """Return a block in which the model has its averaged weights, where there is an average."""
        return nullcontext() if self.average is None else self.average.in_use()

    def _images(self, data: LabelledImages, samples: np.ndarray, epoch: int | None) -> Array:
        """Return (n, 3, size, size): in training as the epoch has them, in a test (None) always the same."""
        seed = TEST_SEED if epoch is None else self.settings.seed
        images = self.warp.transformed(data.images[samples], samples, epoch, seed, self.settings.size)
        first = self.model.parameters()[0].value
        return array_module(first).asarray(images, self.settings.dtype)  # where the model is

    def _check(self, loss: float, norm: float, samples: np.ndarray) -> None:
        place = self.progress.step % self.steps_per_epoch + 1
        classes = len(self.train.names)
        mean_loss = (self.progress.loss + loss) / place
        if has_diverged(mean_loss, place, norm, classes):
            epoch = self.progress.step // self.steps_per_epoch + 1
            cause = where_from(self.model, lambda: self.gradients(samples))
            raise Diverged(
                f"training diverged in step {self.progress.step + 1} (epoch {epoch}): loss {loss:.4g}, gradient norm "
                f"{norm:.4g}, learning rate {self.learning_rate():.3g}; {cause}"
            )

    def _row(self) -> Row:
        started = time.perf_counter()
        test_loss, test_accuracy = self.evaluate()
        done, steps = self.progress, self.steps_per_epoch
        return {
            "epoch": done.step // steps,
            "step": done.step,
            "lr": cosine(done.step - 1, *self.settings.schedule(steps), self.settings.lr),
            "train_loss": done.loss / steps,
            "train_accuracy": done.correct / (steps * self.settings.batch),
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "gradient_norm": done.norm / steps,
            "seconds": done.seconds + time.perf_counter() - started,
        }

    # -- the state --

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays from which the run goes on."""
        parts = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        if self.average is not None:
            parts["average"] = self.average.state_dict()
        return {f"{part}.{name}": as_numpy(a) for part, arrays in parts.items() for name, a in arrays.items()}

    def finished(self) -> dict[str, np.ndarray]:
        """Return copies of the weights to keep, averaged where there is an average."""
        with self._averaged():
            return {name: as_numpy(array).copy() for name, array in self.model.state_dict().items()}

    def resume(self, progress: Progress, arrays: dict[str, np.ndarray]) -> None:
        """Go on from a state that `arrays` returned."""
        if progress.backend != self.backend:
            raise ValueError(
                f"this run was computed on backend {progress.backend!r}; here {self.backend!r} is in force, which "
                "rounds otherwise"
            )
        parts: dict[str, Any] = {"model": self.model, "optimiser": self.optimiser, "average": self.average}
        for part, owner in parts.items():
            if owner is not None:
                own = {name.removeprefix(f"{part}."): a for name, a in arrays.items() if name.startswith(f"{part}.")}
                owner.load_state_dict(own)
        self.progress = progress


def _pieces(samples: np.ndarray) -> Iterator[np.ndarray]:
    return (samples[start : start + TEST_BATCH] for start in range(0, len(samples), TEST_BATCH))


def _correct(logits: Array, labels: np.ndarray) -> float:
    return float((as_numpy(logits).argmax(axis=1) == labels).sum())
