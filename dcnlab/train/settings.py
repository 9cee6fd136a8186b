"""What decides a training run: one record, which the command line, the run's folder and a resume share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from typing import Any, Self

import numpy as np

from dcnlab import nn
from dcnlab.arrays import FLOAT_TYPES
from dcnlab.backends import BACKENDS
from dcnlab.internimage import InternImage
from dcnlab.internimage.variants import VARIANTS
from dcnlab.modulation import KINDS

# A net for images of 32x32: 376,000 parameters, maps of 8x8, 4x4, 2x2 and 1x1.
DIGITS: dict[str, Any] = {"channels": 16, "depths": [1, 1, 2, 1], "groups": [2, 4, 8, 16], "mlp_ratio": 2.0}
MODELS: dict[str, dict[str, Any]] = {"digits": DIGITS, **{name: v.settings for name, v in VARIANTS.items()}}


def _setting(default: Any, what: str, **limits: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": what, **limits})


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides a run, and so what a resumed run continues with.

    Each field is an option of `dcnlab train`; its help says what it means. The defaults reach 96 % on digits that are
    rotated and scaled, in 12 epochs.

    Raises
    ------
    ValueError
        For a value out of its range, naming the field.

    Examples
    --------
    >>> Settings(epochs=3).schedule(steps_per_epoch=10)
    (30, 10)
    >>> Settings(batch=0)
    Traceback (most recent call last):
    ...
    ValueError: batch must be at least 1, got 0
    """

    data: str = _setting("mnist5k", "a folder of class folders, an .npz of images and labels, or mnist5k")
    test: float = _setting(0.2, "share of the images that are held out, or their number", above=0.0)
    size: int = _setting(32, "side of the images that the model sees", least=1)
    model: str = _setting("digits", "digits, or a published variant", choices=tuple(MODELS))
    modulation: str = _setting("softmax", "of DCNv3's taps", choices=tuple(KINDS))
    epochs: int = _setting(12, "passes over the training images", least=1)
    batch: int = _setting(64, "images of a step, of all processes together", least=1)
    lr: float = _setting(4e-3, "highest learning rate", above=0.0)
    offset_lr: float = _setting(0.1, "learning rate of the offsets' parameters, over that of the others", least=0.0)
    warmup: float = _setting(1.0, "epochs in which the learning rate rises from 0", least=0.0)
    weight_decay: float = _setting(0.05, "decoupled, on weights, not on norms and biases", least=0.0)
    clip: float = _setting(5.0, "largest norm of the gradient; 0: not clipped", least=0.0)
    average: float = _setting(0.99, "decay of the moving average of the weights, which is tested; 0: none", share=True)
    label_smoothing: float = _setting(0.1, "share of the target that all classes have in common", share=True)
    drop_path: float = _setting(0.0, "probability that the last block leaves a sample out", share=True)
    rotate: float = _setting(25.0, "images are turned by up to this many degrees either way", least=0.0)
    smallest: float = _setting(0.7, "least factor of size that images are drawn with", above=0.0)
    largest: float = _setting(1.2, "largest factor of size", above=0.0)
    seed: int = _setting(0, "of weights, order, augmentation and drop path", least=0, below=2**63)
    save_every: int = _setting(0, "steps between two saved states; 0: once an epoch", least=0)
    dtype: str = _setting("float32", "of the arithmetic", choices=FLOAT_TYPES)
    backend: str = _setting("auto", "auto: cpu where a compiler is, else numpy", choices=("auto", *BACKENDS))

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field.name, getattr(self, field.name), type(field.default), field.metadata)
        if self.smallest > self.largest:
            raise ValueError(f"smallest must not exceed largest = {self.largest}, got {self.smallest}")

    def schedule(self, steps_per_epoch: int) -> tuple[int, int]:
        """Return the number of steps, and how many of them warm up: at least one does not."""
        steps = self.epochs * steps_per_epoch
        return steps, min(round(self.warmup * steps_per_epoch), steps - 1)

    def build(self, classes: int) -> InternImage:
        """Return the new model."""
        keywords = {**MODELS[self.model], "num_classes": classes, "drop_path_rate": self.drop_path}
        core_op = partial(nn.DCNv3, modulation=self.modulation) if self.modulation != "softmax" else "DCNv3"
        return InternImage(**keywords, core_op=core_op, dtype=np.dtype(self.dtype), rng=self.seed)

    def as_json(self) -> str:
        """Return the fields as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> Self:
        """Return the settings that `as_json` wrote; ValueError in one line, naming the source, for anything else."""
        try:
            found = json.loads(text)
            return cls(**_known(found, {field.name for field in dataclasses.fields(cls)}))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{source}: not the settings of a run: {error}") from None


def _known(found: Any, names: set[str]) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise TypeError(f"expected an object, got {type(found).__name__}")
    if unknown := sorted(set(found) - names):
        raise ValueError(f"no setting is named {', '.join(map(repr, unknown))}")
    return found


def _check(name: str, value: Any, kind: type, limits: Mapping[str, Any]) -> None:
    fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
    if not fits or (kind is float and not np.isfinite(value)):
        raise ValueError(f"{name} must be {_KINDS[kind]}, got {value!r}")
    if "choices" in limits and value not in limits["choices"]:
        raise ValueError(f"{name} must be one of {', '.join(limits['choices'])}, got {value!r}")
    if "least" in limits and value < limits["least"]:
        raise ValueError(f"{name} must be at least {limits['least']}, got {value!r}")
    if "below" in limits and value >= limits["below"]:
        raise ValueError(f"{name} must be less than {limits['below']}, got {value!r}")
    if "above" in limits and value <= limits["above"]:
        raise ValueError(f"{name} must be more than {limits['above']:g}, got {value!r}")
    if "share" in limits and not 0 <= value < 1:
        raise ValueError(f"{name} must lie from 0 to less than 1, got {value!r}")


_KINDS = {int: "a whole number", float: "a finite number", str: "text"}
