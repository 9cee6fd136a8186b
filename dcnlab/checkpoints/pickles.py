"""Read a pickle without running it: an interpreter of the opcodes that has nothing to call.

A pickle is a program for a stack machine. Python's own machine imports what the program names and calls it; even with
`find_class` and `persistent_load` overridden it hashes, compares and updates the objects it made, recurses, and sizes
its memo by numbers in the file. This one is a loop over a table of handlers. What it can put on its stack is None,
bool, int, float, str, bytes, list, tuple, dict with keys of str, `Global` (a name, never imported), and what the two
functions that its caller gives return. So:

- Nothing in the file runs. Calling or instantiating an unknown name gives an `Inert`, which keeps the name only.
- Time and memory are linear in the length of the program, which is bounded: every opcode is O(1), or O(n) in n bytes or
  n stack entries that it consumes. Nothing is hashed but str (a tuple of shared tuples takes exponential time to hash,
  and ints can be chosen to collide), nothing from the file is printed, and nothing recurses.
- Errors are ValueError, or its subclass UnsafeCheckpoint.

Read are the opcodes that Python 2 and 3 write at protocols 2 to 5, which is what torch uses (2 unless told otherwise).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from dcnlab.checkpoints.bounds import MAX_OBJECTS, MAX_PICKLE_BYTES, shown, size_text
from dcnlab.errors import UnsafeCheckpoint

_MAX_NAME = 256

# Nobody needs these to describe weights. The list decides only which files are refused as a whole, so that a person
# hears of an attack; no name runs, listed or not.
_ATTACK_MODULES = frozenset(
    (
        *("code", "commands", "ctypes", "importlib", "marshal", "nt", "os", "pip"),
        *("posix", "pty", "runpy", "shutil", "socket", "subprocess", "sys", "webbrowser"),
    )
)
_ATTACK_BUILTINS = frozenset(("__import__", "breakpoint", "compile", "eval", "exec", "execfile", "input", "open"))


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function by name."""

    module: str
    name: str

    def __str__(self) -> str:
        return shown(f"{self.module}.{self.name}").strip("'\"")


@dataclass(frozen=True, slots=True)
class Inert:
    """What stands for a foreign object: nothing but where it comes from.

    `called` says that the file asked for a call of a function to make it (as do numpy's arrays, torch's other tensors,
    and attacks), rather than for an instance of a class.
    """

    origin: str
    called: bool


def read_pickle(
    data: memoryview,
    start: int,
    call: Callable[[Global, tuple[object, ...]], object],
    persistent: Callable[[object], object],
) -> tuple[object, int]:
    """The object that the pickle at `data[start:]` describes, and where the pickle ends.

    Parameters
    ----------
    call : what a call of a Global with these arguments gives; must itself check every argument
    persistent : the object of a persistent id, which may be anything

    Raises
    ------
    ValueError
        If the pickle is malformed or cut short.
    UnsafeCheckpoint
        If it is too long, or names functions that only an attack needs.
    """
    machine = _Machine(data, start, call, persistent)
    return machine.run(), machine.position


class _Machine:
    def __init__(
        self,
        data: memoryview,
        start: int,
        call: Callable[[Global, tuple[object, ...]], object],
        persistent: Callable[[object], object],
    ) -> None:
        self.data = data
        self.position = start
        self.end = min(len(data), start + MAX_PICKLE_BYTES)
        self.call = call
        self.persistent = persistent
        self.stack: list[object] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, object] = {}
        self.steps = 0

    def run(self) -> object:
        while True:
            self.charge(1)
            code = self.take(1)[0]
            if code == _STOP:
                if len(self.stack) != 1 or self.marks:
                    raise ValueError("malformed pickle: it ends with other than one object")
                return self.stack[0]
            handler = _HANDLERS.get(code)
            if handler is None:
                raise UnsafeCheckpoint(
                    f"malformed pickle: opcode {code:#04x} at byte {self.position - 1} is none of protocols 2 to 5, or "
                    "asks for the extension registry or for buffers outside the file"
                )
            handler(self)

    def charge(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_OBJECTS:
            raise UnsafeCheckpoint(f"the pickle describes over {MAX_OBJECTS} objects")

    # What handlers are made of

    def take(self, count: int) -> bytes:
        stop = self.position + count
        if count < 0 or stop > self.end:
            limit = f" or is larger than {size_text(MAX_PICKLE_BYTES)}" if self.end < len(self.data) else ""
            raise ValueError(f"the pickle is cut short{limit}: {count} bytes expected at byte {self.position}")
        taken = bytes(self.data[self.position : stop])
        self.position = stop
        return taken

    def natural(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def line(self) -> bytes:
        ahead = bytes(self.data[self.position : min(self.end, self.position + _MAX_NAME)])
        length = ahead.find(b"\n")
        if length < 0:
            raise ValueError(f"malformed pickle: no end of line within {_MAX_NAME} bytes of byte {self.position}")
        self.position += length + 1
        return ahead[:length]

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("malformed pickle: it takes an object that is not there")
        return self.stack.pop()

    def top(self) -> object:
        value = self.pop()
        self.stack.append(value)
        return value

    def pop_to_mark(self) -> list[object]:
        if not self.marks:
            raise ValueError("malformed pickle: no mark is set")
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    # Opcodes with more to them than a line

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError("malformed pickle: it recalls an object that it has not stored")
        self.push(self.memo[index])

    def store(self, index: int) -> None:
        self.memo[index] = self.top()

    def find(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str) and len(module) + len(name) <= _MAX_NAME):
            raise UnsafeCheckpoint("malformed pickle: a global without a proper name")
        found = Global(module, name)
        package = module.split(".")[0]
        builtin = package in ("builtins", "__builtin__") and name.split(".")[0] in _ATTACK_BUILTINS
        if builtin or package in _ATTACK_MODULES:
            raise UnsafeCheckpoint(f"the file asks to run {found}, which no weights need; nothing was run")
        self.push(found)

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.find(module, name)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple) or not isinstance(function, Global | Inert):
            raise UnsafeCheckpoint(f"the pickle calls {shown(function)} with {shown(arguments)}")
        if isinstance(function, Inert):
            self.push(Inert(function.origin, called=True))
        elif (function.module, function.name) == ("collections", "OrderedDict"):
            self.push(self.ordered_dict(arguments))
        else:
            self.push(self.call(function, arguments))

    def ordered_dict(self, arguments: tuple[object, ...]) -> dict[str, object]:
        """Python 3 calls it without arguments, Python 2 with a list of pairs."""
        pairs = arguments[0] if arguments else []
        if len(arguments) > 1 or not isinstance(pairs, list):
            raise UnsafeCheckpoint("the pickle calls collections.OrderedDict with other than a list of pairs")
        self.charge(len(pairs))  # the list may be recalled from the memo, and so be read more than once
        flat: list[object] = []
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise UnsafeCheckpoint("the pickle calls collections.OrderedDict with other than a list of pairs")
            flat += pair
        ordered: dict[str, object] = {}
        _fill(ordered, flat)
        return ordered

    def instance(self, cls: object, arguments: object) -> None:
        if not isinstance(cls, Global | Inert) or not isinstance(arguments, tuple):
            raise UnsafeCheckpoint(f"the pickle makes an instance of {shown(cls)}")
        self.push(Inert(cls.origin, cls.called) if isinstance(cls, Inert) else Inert(str(cls), called=False))

    def new_object(self) -> None:
        arguments, cls = self.pop(), self.pop()
        self.instance(cls, arguments)

    def new_object_ex(self) -> None:
        self.pop()  # the keyword arguments
        self.new_object()

    def obj(self) -> None:
        values = self.pop_to_mark()
        if not values:
            raise ValueError("malformed pickle: an instance without a class")
        self.instance(values[0], ())

    def build(self) -> None:
        """Drop the state: that of a dict is torch's `_metadata`, an Inert has none."""
        self.pop()
        if self.top() is None or isinstance(self.top(), int | float | str | bytes | list | tuple | Global):
            raise UnsafeCheckpoint(f"the pickle sets attributes of {shown(self.top())}")

    def set_items(self, flat: list[object]) -> None:
        if len(flat) % 2:
            raise ValueError("malformed pickle: a key without a value")
        target = self.top()
        if isinstance(target, dict):
            _fill(target, flat)
        elif not isinstance(target, Inert):
            raise UnsafeCheckpoint(f"the pickle sets items of {shown(target)}")

    def extend(self, values: list[object]) -> None:
        target = self.top()
        if isinstance(target, list):
            target += values
        elif not isinstance(target, Inert):
            raise UnsafeCheckpoint(f"the pickle appends to {shown(target)}")

    def add_items(self) -> None:
        self.pop_to_mark()
        if not isinstance(self.top(), Inert):
            raise UnsafeCheckpoint(f"the pickle adds to {shown(self.top())}")

    def frozen_set(self) -> None:
        self.pop_to_mark()
        self.push(Inert("frozenset", called=False))

    def set_one(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def pop_or_unmark(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def frame(self) -> None:
        if self.natural(8) > self.end - self.position:
            raise ValueError("the pickle is cut short: a frame is longer than the file")

    def protocol(self) -> None:
        if (protocol := self.natural(1)) > 5:
            raise ValueError(f"expected a pickle of protocol 5 at most, got {protocol}")


def _fill(target: dict[str, object], flat: list[object]) -> None:
    """Set target[flat[0]] = flat[1] and so on, leaving out keys that are no str (the module's docstring says why)."""
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        if type(key) is str:
            target[key] = value


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _number(raw: bytes) -> object:
    """Python 2 writes bools, and ints beyond 32 bits, as a line of text."""
    if raw in (b"00", b"01"):
        return raw == b"01"
    if len(raw) > 24:
        raise ValueError("malformed pickle: a number of over 24 digits")
    try:
        return int(raw)
    except ValueError:
        raise ValueError("malformed pickle: a number that is none") from None


def _signed(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


_STOP = ord(".")
_HANDLERS: dict[int, Callable[[_Machine], object]] = {
    0x80: _Machine.protocol,
    0x95: _Machine.frame,
    # the stack and the memo
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord("0"): _Machine.pop_or_unmark,
    ord("1"): _Machine.pop_to_mark,
    ord("2"): lambda m: m.push(m.top()),
    ord("h"): lambda m: m.recall(m.natural(1)),
    ord("j"): lambda m: m.recall(m.natural(4)),
    ord("q"): lambda m: m.store(m.natural(1)),
    ord("r"): lambda m: m.store(m.natural(4)),
    0x94: lambda m: m.store(len(m.memo)),
    # numbers
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("I"): lambda m: m.push(_number(m.line())),
    ord("J"): lambda m: m.push(_signed(m.take(4))),
    ord("K"): lambda m: m.push(m.natural(1)),
    ord("M"): lambda m: m.push(m.natural(2)),
    0x8A: lambda m: m.push(_signed(m.take(m.natural(1)))),
    0x8B: lambda m: m.push(_signed(m.take(_signed(m.take(4))))),
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    # text, as Python 3 writes it and as Python 2 does, and bytes
    ord("X"): lambda m: m.push(_text(m.take(m.natural(4)))),
    0x8C: lambda m: m.push(_text(m.take(m.natural(1)))),
    0x8D: lambda m: m.push(_text(m.take(m.natural(8)))),
    ord("T"): lambda m: m.push(_text(m.take(_signed(m.take(4))))),
    ord("U"): lambda m: m.push(_text(m.take(m.natural(1)))),
    ord("B"): lambda m: m.push(m.take(m.natural(4))),
    ord("C"): lambda m: m.push(m.take(m.natural(1))),
    0x8E: lambda m: m.push(m.take(m.natural(8))),
    0x96: lambda m: m.push(m.take(m.natural(8))),
    # containers; a set would hash its members, and no state dict holds one
    ord(")"): lambda m: m.push(()),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("t"): lambda m: m.push(tuple(m.pop_to_mark())),
    ord("]"): lambda m: m.push([]),
    ord("a"): lambda m: m.extend([m.pop()]),
    ord("e"): lambda m: m.extend(m.pop_to_mark()),
    ord("}"): lambda m: m.push({}),
    ord("s"): _Machine.set_one,
    ord("u"): lambda m: m.set_items(m.pop_to_mark()),
    0x8F: lambda m: m.push(Inert("set", called=False)),
    0x90: _Machine.add_items,
    0x91: _Machine.frozen_set,
    # names and objects
    ord("c"): lambda m: m.find(_text(m.line()), _text(m.line())),
    0x93: _Machine.stack_global,
    ord("R"): _Machine.reduce,
    0x81: _Machine.new_object,
    0x92: _Machine.new_object_ex,
    ord("o"): _Machine.obj,
    ord("b"): _Machine.build,
    ord("Q"): lambda m: m.push(m.persistent(m.pop())),
}
