"""The paper's questions at a scale that runs anywhere: `dcnlab study NAME`."""

from __future__ import annotations

import os

# name -> what it asks; `dcnlab study` lists them.
NAMES = {
    "modulation": "softmax, sigmoid, 2 x sigmoid or nothing over the taps",
    "sharing": "one weight for all taps, or one for each",
    "groups": "one group, or several",
    "operators": "global attention, window attention, a large kernel and DCNv3 on one input",
    "receptive": "effective receptive fields before and after training, of DCNv3 and of a convolution",
}


def run(name: str, out: str | os.PathLike[str], seeds: int = 5, jobs: int | None = None) -> None:
    """Run a study and write its record, figures and page to a folder.

    Parameters
    ----------
    name : one of `NAMES`
    out : path
        Made if missing. Nothing is written anywhere else.
    seeds : int
        How often each configuration is trained.
    jobs : int, optional
        Processes at a time; by default one a processor.
    """
    if name == "operators":
        from dcnlab.study.operators import run as run_operators

        run_operators(out)
    elif name == "receptive":
        from dcnlab.study.receptive import run as run_receptive

        run_receptive(out, seeds, jobs)
    else:
        from dcnlab.study.ablation import run as run_ablation

        run_ablation(name, out, seeds, jobs)
