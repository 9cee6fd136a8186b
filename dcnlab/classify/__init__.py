"""The ``dcnlab classify`` command: what a model takes a photo for, and a page that shows where it looked.

The parts of it for scripts and notebooks are in `dcnlab.internimage`: `classify`, `sampling_grids`,
`effective_receptive_field`.
"""

from dcnlab.classify.program import run

__all__ = ["run"]
