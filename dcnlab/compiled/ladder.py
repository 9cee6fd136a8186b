"""The kernel ladder for people: what each rung is about, its instances, where it is in use (`dcnlab kernels list`)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from dcnlab.compiled.rung import TARGETS, WIDTHS, Rung, width_for
from dcnlab.compiled.rungs import PREFERRED, RUNGS
from dcnlab.launch import Kernel, kernels_folder, module

_HEADER = re.compile(r"// (?P<operator>[^\n]+?), rung (?P<number>\d+): (?P<idea>[^\n]+(?:\n// [^\n]+)*)")


@dataclass(frozen=True)
class Header:
    """The first paragraph of a kernel's header comment.

    Attributes
    ----------
    operator, idea : str
    """

    operator: str
    idea: str


def header(path: Path) -> Header:
    """Return what a .cu file says about itself.

    Raises
    ------
    ValueError
        When its first line is not ``// operator, rung n: idea``, n as in the file's name.
    """
    found = _HEADER.match(path.read_text(encoding="utf-8"))
    if found is None or not path.name.startswith(f"{found['number']}_"):
        raise ValueError(f"{path.name} must begin with  // operator, rung {path.name.partition('_')[0]}: idea")
    return Header(found["operator"], found["idea"].replace("\n//", ""))


def rungs_of(operator: str | None = None) -> list[Rung]:
    """Return the rungs of an operator, or all.

    Raises
    ------
    ValueError
        For an operator that has none.
    """
    operators = dict.fromkeys(rung.operator for rung in RUNGS.values())
    if operator is not None and operator not in operators:
        raise ValueError(f"operator must be one of {', '.join(operators)}, got {operator!r}")
    return [rung for rung in RUNGS.values() if operator in (None, rung.operator)]


def instances(rung: Rung, target: str, dtype: str | None = None) -> list[str]:
    """Return the name expressions that a target uses: of one dtype, or of all that the rung takes.

    >>> instances(RUNGS["dcnv3_backward", "2_point"], "cuda", "float32")
    ['dcnv3_backward_point<float, float, 4>']
    """
    if dtype is None:
        # Parts that are no templates are the same for every type.
        return list(dict.fromkeys(name for each in rung.dtypes for name in instances(rung, target, each)))
    if rung.choices is not None:
        return replace(rung, dtypes=(dtype,)).instances(target)
    widths = dict.fromkeys(width_for(channels, dtype, target) for channels in WIDTHS)
    return list(dict.fromkeys(rung.instance(dtype, width, target) for width in widths))


# Macros that give a source on a CPU the form that it has on a GPU (kernels/include/taps.cuh).
AS_ON_A_GPU = {"TAPS_TOGETHER": 1}


@lru_cache(maxsize=64)
def gpu_form(rung: Rung, name: str, mode: str = "check") -> Kernel:
    """Return an instance as a GPU gets it, compiled for this CPU: to test it, and to count what it asks of memory."""
    return module(rung.path, [name], target="cpu", mode=mode, defines=AS_ON_A_GPU)[name]


def in_use(rung: Rung) -> str:
    """Return on which targets an operator takes this rung: "cpu, cuda", "cuda (1st of 2)", or "none"."""
    places = []
    for target in TARGETS:
        ideas = PREFERRED.get((rung.operator, target), ())
        if rung.idea in ideas:
            place = f" ({_ORDINALS[ideas.index(rung.idea)]} of {len(ideas)})" if len(ideas) > 1 else ""
            places.append(target + place)
    return ", ".join(places) or "none"


_ORDINALS = ("1st", "2nd", "3rd", *(f"{n}th" for n in range(4, 10)))


def listing(operator: str | None = None) -> str:
    """Return the rungs of an operator, or all, as text: idea, where it is in use, template arguments of instances."""
    paragraphs = []
    for rung in rungs_of(operator):
        lines = [
            f"{rung.path}  (in use: {in_use(rung)})",
            f"    {header(kernels_folder() / rung.path).idea}",
            f"    {rung.kernel}<T, A{'' if _numbers(rung, 'cpu') == [''] else ', ...'}> of {', '.join(rung.dtypes)}",
        ]
        for target in TARGETS:
            numbers = _numbers(rung, target)
            if numbers != [""]:
                lines[-1] += f"; {target}: {' | '.join(numbers)}"
        paragraphs.append("\n".join(lines))
    return "\n".join(paragraphs)


def _numbers(rung: Rung, target: str) -> list[str]:
    """Return the template arguments after ``<T, A>`` of all instances, each once: ["4, 8", "8, 8"]."""
    found = (name.partition("<")[2].removesuffix(">").split(", ", 2)[2:] for name in instances(rung, target))
    return list(dict.fromkeys(", ".join(rest) for rest in found))
