"""`dcnlab train`: a run in a folder, from the data to the weights; it can be stopped at any moment and goes on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcnlab.backends import fastest
from dcnlab.checkpoints.save import replacing, save_checkpoint
from dcnlab.pages import writable_folder
from dcnlab.train.data import LabelledImages, describe, load_images, split
from dcnlab.train.distributed import World, current_world, ending_together, share_processors
from dcnlab.train.divergence import Diverged
from dcnlab.train.history import History, draw_curves
from dcnlab.train.loop import TEST_SEED, Row, Trainer
from dcnlab.train.settings import Settings
from dcnlab.train.state import SETTINGS, load_state, remove_leftovers, save_state

LOG, CURVES, WEIGHTS = "log.csv", "curves.png", "model.safetensors"

Say = Callable[[str], None]


def train(settings: Settings, out: str | os.PathLike[str]) -> int:
    """Begin a run in a new folder.

    Parameters
    ----------
    settings : Settings
    out : path
        Made if missing. It must not hold a run. Nothing is written anywhere else.

    Returns
    -------
    int
        0; 1 when training diverged.

    Raises
    ------
    ValueError, OSError, BackendUnavailable
        In one line, when the settings, the data or the folder do not serve.
    """
    world = current_world()
    share_processors(world)
    with ending_together(world):
        folder = writable_folder(out)
        if (folder / SETTINGS).exists():
            raise ValueError(f"{folder} holds a run; go on with it by --resume {folder}, or choose another folder")
        world.gathered(0)  # every process has looked before one of them writes
        say = _sayer(world)
        trainer = Trainer(settings, *_data(settings, say), world=world)  # first: it may refuse the settings
        if world.rank == 0:
            with replacing(folder / SETTINGS) as file:
                file.write(settings.as_json().encode("utf-8"))
        return _run(trainer, folder, say)


def resume(out: str | os.PathLike[str]) -> int:
    """Go on with the run in a folder, from its last saved state; the result is bit by bit that of an unbroken run."""
    world = current_world()
    share_processors(world)
    with ending_together(world):
        folder = Path(out)
        path = folder / SETTINGS
        if not path.exists():
            raise ValueError(f"{str(out)!r} holds no run: there is no {SETTINGS} in it")
        settings = Settings.from_json(path.read_text(encoding="utf-8"), str(path))
        say = _sayer(world)
        return _run(Trainer(settings, *_data(settings, say), world=world), folder, say)


def _data(settings: Settings, say: Say) -> tuple[LabelledImages, LabelledImages]:
    images = load_images(settings.data, settings.size)
    held_out = settings.test if settings.test < 1 else int(settings.test)
    train, test = split(images, held_out, TEST_SEED)
    say(f"{settings.data}: {describe(images)}; {len(train.labels)} to train on, {len(test.labels)} to test on")
    return train, test


def _run(trainer: Trainer, folder: Path, say: Say) -> int:
    world, history = trainer.world, History(folder / LOG)
    saved = load_state(folder)
    world.gathered(0)  # every process has read the state before one of them goes on
    if saved is not None:
        trainer.resume(*saved)
        say(f"going on after step {trainer.progress.step} of {_steps(trainer)}")
    say(_described(trainer))
    if world.rank == 0:
        remove_leftovers(folder)
        history.truncate(trainer.progress.step)
    try:
        _fit(trainer, history, folder, say)
    except Diverged as error:
        say(f"dcnlab train: {error}")
        return 1
    except KeyboardInterrupt:
        say(f"stopped; go on from the last saved state with: dcnlab train --resume {folder}")
        raise
    if world.rank == 0:
        _finish(trainer, history, folder, say)
    return 0


def _fit(trainer: Trainer, history: History, folder: Path, say: Say) -> None:
    every = trainer.settings.save_every or trainer.steps_per_epoch
    total, first = _steps(trainer), trainer.world.rank == 0
    with _bar(total, trainer.progress.step, first) as moved:

        def epoch_done(row: Row) -> None:
            if first:
                history.append(row)
            say(_line(row, trainer.settings.epochs))

        def step_done() -> None:
            step = trainer.progress.step
            if first and (step % every == 0 or step == total):
                save_state(folder, trainer.progress, trainer.arrays())
            moved(trainer)

        trainer.fit(epoch_done, step_done)


def _finish(trainer: Trainer, history: History, folder: Path, say: Say) -> None:
    save_checkpoint(folder / WEIGHTS, trainer.finished())
    rows = history.rows()
    draw_curves(rows, folder / CURVES)
    last = rows[-1]
    say(
        f"test accuracy {100 * last['test_accuracy']:.2f} % after {last['epoch']} epochs, "
        f"{sum(row['seconds'] for row in rows):.0f} s; wrote {WEIGHTS}, {LOG} and {CURVES} to {folder}"
    )


def _steps(trainer: Trainer) -> int:
    return trainer.settings.schedule(trainer.steps_per_epoch)[0]


def _described(trainer: Trainer) -> str:
    settings, world = trainer.settings, trainer.world
    shared = f", {world.size} processes" if world.size > 1 else ""
    why = fastest()[1] if settings.backend == "auto" else ""
    off = f", which is slower; cpu is off: {why}" if why else ""
    return (
        f"InternImage {settings.model}, {trainer.model.parameter_count():,} parameters; {settings.epochs} epochs of "
        f"{trainer.steps_per_epoch} steps of {settings.batch} images; backend {trainer.backend}{off}{shared}"
    )


def _line(row: Row, epochs: int) -> str:
    return (
        f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}  loss {row['train_loss']:.3f} "
        f"({100 * row['train_accuracy']:5.2f} %)  test {row['test_loss']:.3f} ({100 * row['test_accuracy']:5.2f} %)  "
        f"lr {row['lr']:.1e}  {row['seconds']:.1f} s"
    )


def _sayer(world: World) -> Say:
    """Return what prints a line, above a progress bar if there is one; only the first process speaks."""

    def say(line: str) -> None:
        if world.rank == 0:
            from tqdm import tqdm

            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    return say


@contextmanager
def _bar(total: int, done: int, shown: bool) -> Iterator[Callable[[Trainer], Any]]:
    """Show a bar of the steps on a terminal, nothing elsewhere."""
    from tqdm import tqdm

    started, before = time.perf_counter(), done
    with tqdm(total=total, initial=done, unit="step", leave=False, disable=None if shown else True) as bar:

        def moved(trainer: Trainer) -> None:
            bar.update()
            speed = (trainer.progress.step - before) * trainer.settings.batch / (time.perf_counter() - started)
            bar.set_postfix_str(f"{speed:.0f} images/s", refresh=False)

        yield moved
