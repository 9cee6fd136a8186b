"""What a check found, for people."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

WIDTH = 110


@dataclass(frozen=True)
class Report:
    """The result of `dcnlab.exercises.check`; prints as a few lines.

    Attributes
    ----------
    ok : bool
        Whether the exercise is solved.
    kind : str
        "solved"; "stub", nothing has been written yet; "call", the function could not be called, raised, or changed its
        arguments; "result", it returned something of another kind or shape; "value", a number is wrong; "kink", a
        number is another one-sided slope than the promised one. Kernels have kinds of their own, such as "race".
    finding : str
        What is wrong, and where: one line.
    case : str
        The first case that fails.
    diagnosis : str
        The typical mistake behind it, if it was recognised.
    exercise : str
        Filled in by `dcnlab.exercises.check`.
    """

    ok: bool
    kind: str
    finding: str
    case: str = ""
    diagnosis: str = ""
    exercise: str = ""

    def __str__(self) -> str:
        if self.ok:
            return f"{self.exercise}: solved. {self.finding}"
        lines = [f"{self.exercise}: not solved yet."]
        help_line = f'exercises.hint("{self.exercise}")'
        fields = {"case": self.case, "found": self.finding, "diagnosis": self.diagnosis, "stuck?": help_line}
        for label, text in fields.items():
            if text:
                lines += textwrap.wrap(text, WIDTH, initial_indent=f"  {label:<11}", subsequent_indent=" " * 13)
        return "\n".join(lines)
