"""Running other people's `module(...)` calls on the CPU in a mode that checks: what `dcnlab kernels check` does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dcnlab.launch.faults import KernelFault

# Options that NVRTC and the C++ compilers share; the others of a module meant for a GPU mean nothing on the CPU.
_SHARED_OPTIONS = ("-D", "-U", "-I")


@dataclass
class Force:
    """What `module` does while it holds, and what the kernels launched meanwhile did.

    Attributes
    ----------
    target, mode : str
        In the place of those that a call of `module` asks for.
    launched : dict
        The kernels that were launched, by name, in order (a dict for want of an ordered set).
    faults : list of KernelFault
        All of them, those too that the caller caught.
    """

    target: str
    mode: str
    launched: dict[str, None] = field(default_factory=dict)
    faults: list[KernelFault] = field(default_factory=list)

    def applied_to(self, target: str, options: Sequence[str]) -> tuple[str, str, Sequence[str]]:
        """Return target, mode and options for a call of `module` that asked for `target` with `options`."""
        if target != self.target:
            options = [option for option in options if option.startswith(_SHARED_OPTIONS)]
        return self.target, self.mode, options


_in_effect: Force | None = None


@contextlib.contextmanager
def forced(target: str, mode: str) -> Iterator[Force]:
    """Compile every module asked for inside the `with` block for `target` in `mode`, whatever its caller wants.

    It holds for the whole process, not for one context: no thread of a script that is being checked may escape. Modules
    compiled before stay as they are.

    Yields
    ------
    Force
        With a record of what was launched and of every fault.
    """
    global _in_effect
    before, _in_effect = _in_effect, Force(target, mode)
    try:
        yield _in_effect
    finally:
        _in_effect = before


def force_in_effect() -> Force | None:
    """Return what `forced` asks for now, None outside of its `with` blocks."""
    return _in_effect
