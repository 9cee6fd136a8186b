"""The training runs of a study, and what is measured of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dcnlab import nn
from dcnlab.backends import use_backend
from dcnlab.internimage import InternImage
from dcnlab.study.ablation.measures import finite, measure
from dcnlab.study.ablation.studies import Configuration, Size
from dcnlab.study.digits import digits
from dcnlab.train.augment import prepared
from dcnlab.train.data import MNIST5K
from dcnlab.train.divergence import Diverged
from dcnlab.train.loop import Trainer
from dcnlab.train.settings import Settings


@dataclass(frozen=True)
class Job:
    """One run: a configuration by name, a learning rate, a seed, and how much."""

    name: str
    configuration: Configuration
    rate: float
    seed: int
    epochs: int
    size: Size


def train_one(job: Job) -> dict[str, Any]:
    """Train one net and measure it before and after, on held-out digits that are not turned.

    Returns
    -------
    dict
        "configuration", "rate", "seed", "parameters", "seconds" (of training steps); "rows", the epochs that were
        finished, tested with running statistics; "accuracy" at the end, with renewed ones, a share of the held-out
        digits, None if the run diverged; "diverged", in
        words, or None; "before" and "after", of `measure`, the latter None if the run diverged.
    """
    train, test = digits(job.size.train, job.size.test)
    settings = settings_of(job)
    model = InternImage(**job.configuration.keywords, core_op=job.configuration.core_op, rng=job.seed)
    some = np.linspace(0, len(test.labels) - 1, job.size.measured).astype(int)  # of all classes: they are in order
    looked_at = prepared(test.images[some], settings.size), test.labels[some]
    rows: list[dict[str, Any]] = []
    diverged, after, accuracy = None, None, None
    trainer = Trainer(settings, train, test, model)
    renew_statistics(trainer, trainer.steps_per_epoch, epoch=0)
    before = measure(model, *looked_at)
    try:
        trainer.fit(rows.append)
        renew_statistics(trainer, trainer.steps_per_epoch, epoch=job.epochs)  # an epoch that no step has seen
        with use_backend(trainer.backend):
            accuracy = trainer.evaluate()[1]
        after = measure(model, *looked_at)
    except Diverged as error:
        diverged = str(error)
    return {
        "configuration": job.name,
        "rate": job.rate,
        "seed": job.seed,
        "parameters": model.parameter_count(),
        "seconds": round(sum(row["seconds"] for row in rows), 2),
        "rows": [{key: v if isinstance(v, int) else finite(v) for key, v in row.items()} for row in rows],
        "accuracy": accuracy,
        "diverged": diverged,
        "before": before,
        "after": after,
    }


def renew_statistics(trainer: Trainer, batches: int, epoch: int) -> None:
    """Make the running statistics of the batch norms those of some training batches, for the weights as they are.

    Precise statistics (arXiv 2105.07576). Those that training leaves are moving averages, in which a large variance of
    early steps goes on to count 0.9^n after n steps. The variances in the head of this net end at about 1e-4, so a run
    of a hundred steps may end with a hundred times that: nets that were right about 88 % of the digits by the
    statistics of the batch were right about 10 % by the running ones.
    """
    norms = [module for module in trainer.model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    trainer.model.train()
    with nn.no_grad(), use_backend(trainer.backend):
        for number in range(batches):
            samples = trainer.batch(number)
            images = trainer.train.images[samples]
            for norm in norms:
                norm.momentum = 1 / (number + 1)  # the mean of all that came so far
            trainer.model(
                trainer.warp.transformed(images, samples, epoch, trainer.settings.seed, trainer.settings.size)
            )
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def settings_of(job: Job) -> Settings:
    """Return the settings of `dcnlab train` for a run: its defaults, but for what a study changes.

    The weights are not averaged: over so few steps the average trails behind, and it would be what is tested.
    """
    return Settings(
        data=MNIST5K,
        test=job.size.test,
        epochs=job.epochs,
        batch=job.size.batch,
        lr=job.rate,
        average=0.0,
        seed=job.seed,
    )
