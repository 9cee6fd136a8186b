"""The studies as one table: what is asked, what the paper found, what is trained here, and how much of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dcnlab import nn
from dcnlab.modulation import KINDS
from dcnlab.train.settings import DIGITS

SOURCE = "Table 6 of arXiv 2211.05778: InternImage-T, top-1 accuracy on ImageNet"

NET: dict[str, Any] = {**DIGITS, "num_classes": 10}  # that is trained: maps of 8x8, 4x4, 2x2 and 1x1
RATE = 4e-3  # the paper's learning rate for T, S and B (its Table 7)


@dataclass(frozen=True)
class Configuration:
    """One way to build the net.

    Attributes
    ----------
    core_op : callable
        Of `InternImage`.
    model : dict
        Keywords of `InternImage` that differ from `NET`.
    rates : tuple of float
        Learning rates; each is trained with every seed.
    """

    core_op: Callable[..., nn.Module] = nn.DCNv3
    model: dict[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = (RATE,)

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords of `InternImage`, but for the core operator and the generator."""
        return {**NET, **self.model}


@dataclass(frozen=True)
class Claim:
    """What the paper found about two configurations.

    Attributes
    ----------
    first, second : str
        Names of configurations of a study.
    paper : float
        Points (percent of images) that the first was better by.
    equal : bool
        Whether what was found is that they are as good as each other, to within `MARGIN`.
    """

    first: str
    second: str
    paper: float
    equal: bool = False


MARGIN = 1.0  # points, within which two accuracies count as equal


@dataclass(frozen=True)
class Study:
    """One question.

    Attributes
    ----------
    title, question : str
    paper : dict of str to float
        The paper's row: what was changed -> accuracy in percent.
    configurations : dict of str to Configuration
    claims : tuple of Claim
    epochs : int
        Of a run at full size.
    measures : tuple of str
        What else is measured: "depth" (`through_depth`), "cost" (parameters and memory).
    note : str
        What the reader must know about the small scale.
    """

    title: str
    question: str
    paper: dict[str, float]
    configurations: dict[str, Configuration]
    claims: tuple[Claim, ...]
    epochs: int
    measures: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Size:
    """How much is computed.

    Attributes
    ----------
    train, test : int
        Digits.
    epochs : int or None
        None: as the study says.
    measured : int
        Test digits on which the nets are measured before and after training.
    blocks : int
        Of the stacks that are measured without training.
    batch : int
    """

    train: int = 1600
    test: int = 1000
    epochs: int | None = None
    measured: int = 64
    blocks: int = 30
    batch: int = 64


FULL = Size()
QUICK = Size(
    train=128, test=50, epochs=1, measured=16, blocks=4, batch=32
)  # for tests: seconds, and no answer to anything

RATES = (RATE, 4 * RATE, 16 * RATE)
DEEP = {"depths": [1, 1, 6, 1]}

STUDIES = {
    "modulation": Study(
        title="Softmax, sigmoid, 2 x sigmoid, or nothing",
        question="Does DCNv3 need a softmax over its taps?",
        paper={"softmax": 83.5, "without softmax": 65.7},
        configurations={
            **{kind: Configuration(partial(nn.DCNv3, modulation=kind), rates=RATES) for kind in KINDS},
            **{
                f"{kind}, deep": Configuration(partial(nn.DCNv3, modulation=kind), DEEP)
                for kind in ("softmax", "sigmoid")
            },
        },
        claims=(
            Claim("softmax", "sigmoid", 17.8),
            Claim("softmax", "twice_sigmoid", 17.8),
            Claim("softmax", "none", 17.8),
            Claim("softmax, deep", "sigmoid, deep", 17.8),
        ),
        epochs=4,
        measures=("depth",),
        note="The paper's net has 30 blocks, 18 of them in one stage; this one has 5, the deep one 9, and a layer norm "
        "in front of each takes back the scale that the sum over the taps gives. The row of the paper says only that "
        "there is no softmax: it is set against all three here.",
    ),
    "sharing": Study(
        title="One projection for all taps, or one for each",
        question="What does a dense weight for every tap bring, and what does it cost?",
        paper={"shared": 83.5, "unshared": 83.6},
        configurations={"shared": Configuration(), "unshared": Configuration(nn.UnsharedDCNv3)},
        claims=(Claim("shared", "unshared", -0.1, equal=True),),
        epochs=8,
        measures=("cost",),
        note="Both start as the same function: every tap's weight begins as the matrix that is shared otherwise.",
    ),
    "groups": Study(
        title="One group of offsets, or several",
        question="Do groups that look at different places help?",
        paper={"several groups": 83.5, "one group": 82.3},
        configurations={
            "1 group": Configuration(model={"groups": [1, 1, 1, 1]}),
            "8 channels a group": Configuration(),
            "4 channels a group": Configuration(model={"groups": [4, 8, 16, 32]}),
        },
        claims=(Claim("8 channels a group", "1 group", 1.2), Claim("4 channels a group", "1 group", 1.2)),
        epochs=6,
        note="More groups also mean more parameters in the two layers that predict offsets and modulation.",
    ),
}


def require_study(name: str) -> Study:
    """Return a study by its name; ValueError with the names there are."""
    if name not in STUDIES:
        raise ValueError(f"study must be one of {', '.join(STUDIES)}, got {name!r}")
    return STUDIES[name]
