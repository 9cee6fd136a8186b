"""What check mode found in a student's kernel, in the student's terms."""

from __future__ import annotations

import numpy as np

from dcnlab.exercises.kernel_case import KernelCase
from dcnlab.exercises.kernel_report import KernelReport, excerpt
from dcnlab.exercises.kernel_run import Fault, Side

FAULTS = {
    "out of bounds": "Work out by hand which element this thread asks for, and from where on it should not ask. "
    "An array of shared memory that is too small may show up as an element far outside of another array.",
    "race": "Several threads change this element, and the order decides what remains. Give each element to one thread, "
    "or let atomicAdd(&x[i], value) do the sum: it reads, adds and writes in one piece.",
    "missing barrier": "Both threads use the same element of shared memory, and nothing keeps them apart. "
    "__syncthreads() belongs between the two: no thread of the block passes it before all have come.",
    "uninitialised shared memory": "Nobody has written this element yet. Either no thread ever does, because there are "
    "more elements than threads, or a __syncthreads() is missing between the write and this read.",
    "divergent barrier": "All threads of a block must reach the same __syncthreads(): none may return before it, and "
    "it may not stand in a branch that only some of them take.",
    "null pointer": "No array of this exercise is missing: the pointer was changed on the way.",
}
SPARE = (
    "This thread has no output: there are more threads than outputs, because all blocks are of one size. Those to "
    "spare must do nothing here."
)
SHARED_WRITE = (
    "Several threads write this element of shared memory, and the order decides what remains. Give each element to one "
    "thread."
)
GUESS = " (is a barrier missing?)"  # check mode's own, which the diagnosis says better
CORNER = "A corner lies outside the image. It counts as 0: ask whether 0 <= row < height and 0 <= column < width first."


def fault_report(source: str, fault: Fault, title: str, case: KernelCase) -> KernelReport:
    """Return what check mode found, in the student's lines."""
    kind = _kind_of(fault)
    text = f"{kind} at {_line(fault.at)}, {_thread(fault.at)}: {fault.text.removesuffix(GUESS)}{_entry(fault, case)}"
    if fault.other:
        text += f"; {fault.does} by {_thread(fault.other)} at {_line(fault.other)}"
    diagnosis = FAULTS.get(kind, "")
    if kind in ("out of bounds", "uninitialised shared memory") and case.spare(fault.at.block, fault.at.thread):
        diagnosis = SPARE
    elif kind == "out of bounds" and _is_near_image(fault, case):
        diagnosis = CORNER
    elif kind == "race" and not fault.argument:
        diagnosis = SHARED_WRITE
    sides = [fault.at.line, fault.other.line if fault.other else 0]
    return KernelReport(False, kind, text + ".", title, diagnosis, line=fault.at.line, picture=excerpt(source, sides))


def _kind_of(fault: Fault) -> str:
    """Return the kind of a fault; data races are told apart: a barrier may cure those that involve a read."""
    if fault.kind != "data race":
        return fault.kind
    both_write = fault.text.startswith("write") and fault.does == "write"
    return "race" if fault.argument or both_write else "missing barrier"


def _is_near_image(fault: Fault, case: KernelCase) -> bool:
    """Return whether an access misses the image by little, as that of a corner outside does."""
    if fault.argument not in ("input", "grad_input") or fault.index is None:
        return False
    size = case.arguments[fault.argument].size
    return -size <= fault.index < 2 * size


def _line(side: Side) -> str:
    return f"line {side.line}" if side.line else "a line that is not known"


def _thread(side: Side) -> str:
    return f"thread {side.thread} of block {side.block}"


def _entry(fault: Fault, case: KernelCase) -> str:
    """Return the entry of an array that a fault is about, if it is one."""
    if fault.argument is None or fault.argument not in case.arguments or fault.index is None:
        return ""
    array = case.arguments[fault.argument]
    if not 0 <= fault.index < array.size:
        return ""
    entry = ", ".join(str(int(i)) for i in np.unravel_index(fault.index, array.shape))
    return f", entry ({entry}) of {array.shape}"
