"""The main job: bend a photo, learn the offsets that undo the bend, and write a report about it.

`run` does everything that ``dcnlab demo`` does; `picture` makes the picture of the README.
"""

from dcnlab.demo.photo import DemoError
from dcnlab.demo.program import picture, run

__all__ = ["DemoError", "picture", "run"]
