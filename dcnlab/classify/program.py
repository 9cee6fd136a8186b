"""The command from its arguments to what it prints and writes."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import dcnlab
from dcnlab.backends import fastest, use_backend
from dcnlab.images import read_image
from dcnlab.internimage.class_names import IMAGENET_1K, READERS, class_names
from dcnlab.internimage.model import InternImage
from dcnlab.internimage.prediction import Prediction, classify, published_size, variant_of
from dcnlab.internimage.preprocess import check_size, crop, preprocess
from dcnlab.internimage.receptive import centre_on_image, fields_of_maps, middle
from dcnlab.internimage.sampled import sampling_grids
from dcnlab.internimage.variants import LEVELS
from dcnlab.pages import DPI, writable_folder

if TYPE_CHECKING:
    import numpy as np

    from dcnlab.classify.figures import Look

DIRECTIONS = 2  # of the receptive fields: each takes a backward pass for each stage

Say = Callable[[str], None]


def run(
    image: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    variant: str | None = None,
    size: int | None = None,
    top: int = 5,
    show: str | os.PathLike[str] | None = None,
) -> list[Prediction]:
    """Print the most probable classes of a photo; with `show`, write a page about where the model looked.

    Parameters
    ----------
    image : path
        A photo, see `dcnlab.images.read_image`.
    weights : path
        A checkpoint, see `InternImage.from_checkpoint`.
    variant : str, optional
        T, S, B, L, XL, H or G.
    size : int, optional
        Side of what the model sees, in pixels; by default that of the variant, else 224.
    top : int
        How many classes.
    show : path, optional
        Folder of index.html and the figures, made if missing. Nothing is written anywhere else.

    Returns
    -------
    list of Prediction

    Raises
    ------
    ValueError, TypeError, OSError
        One line, when an image or a checkpoint cannot be used or the folder cannot be written.
    """

    def say(line: str) -> None:
        print(line, flush=True)

    if size is not None:
        check_size(size)
    full = read_image(image)
    model = _loaded(weights, variant, say)
    size = size or published_size(model)
    photo = crop(full, size)
    folder = writable_folder(show) if show is not None else None
    backend = _backend(say)
    say(f"{_described(model)}, {size}x{size} pixels")
    with use_backend(backend):
        found = classify(model, photo, top, size)
        say(table(found))
        if missing := _names_missing(model):
            say(missing)
        if folder is not None:
            look = _look(model, photo, os.path.basename(os.fspath(image)), found, say)
            _write(look, folder, say)
    return found


def table(found: list[Prediction]) -> str:
    """Return a line for each class: rank, probability, index, name.

    >>> print(table([Prediction(7, 0.875, "cock"), Prediction(12, 0.05, None)]))
     1   87.50 %  class  7  cock
     2    5.00 %  class 12
    """
    width = max(len(str(p.class_index)) for p in found)
    lines = [
        f"{rank:2}  {100 * p.probability:6.2f} %  class {p.class_index:{width}}  {p.name or ''}".rstrip()
        for rank, p in enumerate(found, start=1)
    ]
    return "\n".join(lines)


def _loaded(weights: str | os.PathLike[str], variant: str | None, say: Say) -> InternImage:
    """Return the model of a checkpoint; what had to be guessed about it is said in a line, without a traceback."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = InternImage.from_checkpoint(weights, variant)
    for warning in caught:
        say(f"InternImage.from_checkpoint: {warning.message}")
    return model


def _backend(say: Say) -> str:
    """Return the compiled backend where it can run, else the reference; say which."""
    name, why = fastest()
    say(f"backend: numpy, which is slower; cpu is off: {why}" if why else "backend: cpu, the compiled kernels")
    return name


def _described(model: InternImage) -> str:
    name = variant_of(model)
    title = f"InternImage-{name}" if name else "InternImage, none of the published variants"
    return f"{title}, {model.parameter_count() / 1e6:,.1f} million parameters"


def _names_missing(model: InternImage) -> str:
    classes = _classes(model)
    if classes != IMAGENET_1K:
        return f"no names: they are known for the {IMAGENET_1K} classes of ImageNet-1k only, this model has {classes}"
    if class_names(classes) is None:
        return f"no names: none of {', '.join(READERS)}, which ship them, is installed"
    return ""


def _classes(model: InternImage) -> int:
    return len(dict(model.named_parameters())["head.weight"].value)


def _look(model: InternImage, photo: np.ndarray, name: str, found: list[Prediction], say: Say) -> Look:
    """Go forward and back once more, keeping what the figures show."""
    from dcnlab.classify.figures import Field, Look

    started = time.perf_counter()
    images = preprocess(photo, len(photo))
    say("Looking inside: one forward pass that keeps everything ...")
    maps = model.features(images)
    sampled = sampling_grids(model)
    fields = []
    for stage in range(LEVELS):
        say(f"  receptive field of stage {stage + 1} of {LEVELS} ({time.perf_counter() - started:.0f} s) ...")
        values = fields_of_maps(model, maps, stage, directions=DIRECTIONS)[0]
        fields.append(Field(values, centre_on_image(middle(maps[stage].shape[1:3]), stage)))
    say(f"  drawing ({time.perf_counter() - started:.0f} s) ...")
    return Look(name, photo, _described(model), found, sampled, fields)


def _write(look: Look, folder: Path, say: Say) -> None:
    from dcnlab.classify.figures import all_figures
    from dcnlab.classify.page import write_page

    figures = all_figures(look)
    try:
        for name, (figure, _) in figures.items():
            figure.savefig(folder / name, dpi=DPI)
        write_page(folder, look, {name: caption for name, (_, caption) in figures.items()}, dcnlab.__version__)
    except OSError as error:
        raise ValueError(f"cannot write to {str(folder)!r}: {error.strerror or error}") from None
    say(f"Wrote {folder / 'index.html'} and {len(figures)} figures.")
