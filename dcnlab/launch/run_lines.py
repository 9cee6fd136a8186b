"""`// run:` comments: how a .cu file says with what its kernels are to be checked.

::

    // run: saxpy<float><<<4, 128>>>(x=float[512], y=float[512]=zeros, n=512, a=2.0f)
    // run: tile<<<(2, 3), (8, 8), 1024>>>(float[16, 24], float[16, 24]=arange, 16, 24)

A launch as CUDA C++ writes it: name expression, grid, block, bytes of dynamic shared memory. Arguments come in the
kernel's order or by name. An array is its element type and its shape; ``=`` says what is in it: ``zeros``, ``arange``,
``random(low, high)``, a number, or, with nothing said, seeded random numbers (normal ones; 0 to 9 for integers). A
comment whose brackets are still open goes on in the next one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dcnlab.launch.arguments import MOST_OF_GRID, block_dimensions, check_arguments, dimensions, shared_bytes
from dcnlab.launch.signature import Parameter, Signature, base_name, element_type, split_at_commas

MOST_BYTES = 1 << 24  # of one array: check mode keeps 20 times as much about it, and runs on one thread

_RUN = re.compile(r"\s*//\s*run:\s*(.*)")
_COMMENT = re.compile(r"\s*//(.*)")
_LAUNCH = re.compile(r"(\S.*?)\s*<<<(.*?)>>>\s*\((.*)\)\s*;?\s*")
_NAMED = re.compile(r"(\w+)\s*=\s*(.+)", re.DOTALL)
_ARRAY = re.compile(r"([A-Za-z_][\w ]*?)\s*\[([^\]]*)\]\s*(?:=\s*(.+))?", re.DOTALL)
_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)[uUlLfF]*")
_HEXADECIMAL = re.compile(r"([-+]?0[xX][0-9a-fA-F]+)[uUlL]*")
_WORDS = {"true": True, "false": False, "nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


@dataclass(frozen=True)
class RunLine:
    """One launch that a file describes.

    Attributes
    ----------
    place : str
        "file.cu:3", for messages.
    name : str
        The kernel's name expression.
    grid, block : (x, y, z)
    shared : int
        Bytes of dynamic shared memory.
    arguments : tuple of str
        As written.
    """

    place: str
    name: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    arguments: tuple[str, ...]

    def values(self, parameters: Sequence[Parameter]) -> list[Any]:
        """Return fresh arguments for a launch: the same numbers in every call.

        Raises
        ------
        ValueError
            In one line that begins with the place.
        """
        try:
            written = _in_order(self.arguments, parameters)
            values = [_value(text, p, seed) for seed, (text, p) in enumerate(zip(written, parameters, strict=True))]
            return check_arguments(self.name, parameters, values, "cpu")
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{self.place}: {error}") from None


def run_lines(text: str, file: str) -> list[RunLine]:
    """Return the launches that the comments of a .cu file describe.

    Raises
    ------
    ValueError
        For a line that cannot be read: where it is, what it says and what it should look like.
    """
    lines, found = text.splitlines(), []
    for number, line in enumerate(lines):
        if begin := _RUN.fullmatch(line):
            written, following = begin[1], number + 1
            while written.count("(") > written.count(")") and following < len(lines):
                more = _COMMENT.fullmatch(lines[following])
                if more is None or _RUN.fullmatch(lines[following]):
                    break
                written, following = f"{written} {more[1].strip()}", following + 1
            found.append(_read(written.strip(), f"{file}:{number + 1}"))
    return found


def example(signature: Signature) -> str | None:
    """Return a run line for a kernel, as a first draft; None where it takes a struct, which no run line can make.

    >>> from dcnlab.launch.signature import find_kernels
    >>> example(find_kernels("template <typename T> __global__ void twice(const T* x, T* y, int n) {}")["twice"])
    '// run: twice<float><<<4, 128>>>(x=float[512], y=float[512]=zeros, n=512)'
    """
    name = instance(signature)
    parameters = signature.instantiate(name)
    if any(p.dtype is None or (p.lanes > 1 and not p.pointer) for p in parameters):
        return None
    return f"// run: {name}<<<4, 128>>>({', '.join(f'{p.name}={_draft(p)}' for p in parameters)})"


def without_run_lines(kernels: Mapping[str, Signature], runs: Sequence[RunLine]) -> list[Signature]:
    """Return the kernels of a file that none of its run lines launches."""
    named = {base_name(run.name) for run in runs}
    return [kernel for name, kernel in kernels.items() if name not in named]


def instances(kernels: Mapping[str, Signature], runs: Sequence[RunLine]) -> list[str]:
    """Return the name expressions to compile: those of the run lines, and one for every kernel that has none."""
    rest = (instance(kernel) for kernel in without_run_lines(kernels, runs))
    return list(dict.fromkeys([*(run.name for run in runs), *rest]))


def instance(signature: Signature) -> str:
    """Return a name expression for a kernel, with float for types and 4 for numbers where it is a template."""
    wanted = [
        "float" if kind in ("typename", "class") else "true" if kind == "bool" else "4"
        for kind, default in zip(signature.kinds, signature.defaults, strict=True)
        if default is None
    ]
    return f"{signature.name}<{', '.join(wanted)}>" if signature.template else signature.name


def _draft(parameter: Parameter) -> str:
    if parameter.pointer:
        return f"{parameter.base}[512]" + ("=zeros" if parameter.writable else "")
    assert parameter.dtype is not None
    return {"f": "2.0f", "b": "true"}.get(parameter.dtype.kind, "512")


def _read(written: str, place: str) -> RunLine:
    parts = _LAUNCH.fullmatch(written)
    configuration = split_at_commas(parts[2]) if parts else []
    if parts is None or not 2 <= len(configuration) <= 3:
        raise ValueError(
            f"{place}: a run line reads  // run: name<<<grid, block>>>(arguments)  "
            f"or  <<<grid, block, shared bytes>>>, got {written!r}"
        )
    try:
        sizes = [_size(text) for text in configuration]
        shared = sizes[2][0] if len(sizes) > 2 and len(sizes[2]) == 1 else 0 if len(sizes) == 2 else configuration[2]
        grid, block = dimensions(sizes[0], "grid", MOST_OF_GRID), block_dimensions(sizes[1])
        return RunLine(place, parts[1], grid, block, shared_bytes(shared), tuple(split_at_commas(parts[3])))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{place}: {error}") from None


def _size(text: str) -> tuple[int, ...]:
    """Read ``4``, ``(4, 2)`` or ``dim3(4, 2, 1)``."""
    numbers = split_at_commas(text.removeprefix("dim3").strip().removeprefix("(").removesuffix(")"))
    if not numbers or not all(number.isdecimal() and len(number) < 12 for number in numbers):
        raise ValueError(f"grid, block and shared bytes must be numbers such as 4 or (4, 2), got {text!r}")
    return tuple(map(int, numbers))


def _in_order(arguments: Sequence[str], parameters: Sequence[Parameter]) -> list[str]:
    """Return the text for every parameter."""
    names = [p.name for p in parameters]
    texts: dict[str, str] = {}
    by_name = False
    for position, argument in enumerate(arguments):
        # An array with contents, float[4]=zeros, has a bracket before its equals sign: no name.
        named = _NAMED.fullmatch(argument)
        by_name = by_name or named is not None
        if named is None and by_name:
            raise ValueError(f"{argument!r} must be name=value: it follows one by name")
        if named is None and position >= len(names):
            raise ValueError(f"there are {len(names)} parameters ({', '.join(names)}), got {len(arguments)} arguments")
        name, text = (named[1], named[2]) if named else (names[position], argument)
        if name not in names:
            raise ValueError(f"there is no parameter {name!r}, only {', '.join(names)}")
        if name in texts:
            raise ValueError(f"{name} is given twice")
        texts[name] = text
    missing = [name for name in names if name not in texts]
    if missing:
        raise ValueError(f"no value for {', '.join(missing)}")
    return [texts[name] for name in names]


def _value(text: str, parameter: Parameter, seed: int) -> Any:
    where = f"{parameter.name} ({parameter.type})"
    if parameter.dtype is None or (parameter.lanes > 1 and not parameter.pointer):
        raise ValueError(f"{where} is a struct, which a run line cannot make: launch the kernel from a .py file")
    if parameter.pointer:
        return None if text in ("nullptr", "NULL") else _array(text, parameter, where, np.random.default_rng(seed))
    value = number(text, where)
    if parameter.dtype.kind == "f":
        return np.float16(value) if parameter.dtype.itemsize == 2 else float(value)
    return bool(value) if parameter.dtype.kind == "b" and value in (0, 1) else value


def _array(text: str, parameter: Parameter, where: str, rng: np.random.Generator) -> np.ndarray:
    parts = _ARRAY.fullmatch(text)
    if parts is None:
        raise ValueError(f"{where} must be an array such as {parameter.base}[512]=zeros, or nullptr, got {text!r}")
    dtype, lanes, _ = element_type(" ".join(parts[1].split()))
    if dtype is None or dtype != parameter.dtype:
        raise ValueError(f"{where} must be an array of {parameter.base}, got {text!r}")
    shape = split_at_commas(parts[2])
    if not shape or not all(size.isdecimal() and len(size) < 12 for size in shape):
        raise ValueError(f"{where} must have a shape such as [4, 128], got {text!r}")
    elements = math.prod(map(int, shape)) * lanes
    if elements * dtype.itemsize > MOST_BYTES:
        raise ValueError(f"{where} must have at most {MOST_BYTES} bytes, got {elements * dtype.itemsize}")
    return _filled(parts[3], dtype, elements, where, rng)


def _filled(content: str | None, dtype: np.dtype, n: int, where: str, rng: np.random.Generator) -> np.ndarray:
    if content is None and dtype.kind == "f":
        return rng.standard_normal(n).astype(dtype)
    if content is None:
        return rng.integers(0, 2 if dtype.kind == "b" else 10, n).astype(dtype)
    if content in ("zeros", "arange"):
        return (np.zeros(n) if content == "zeros" else np.arange(n)).astype(dtype)
    if between := re.fullmatch(r"random\s*\((.*)\)", content):
        limits = [number(text, where) for text in split_at_commas(between[1])]
        if len(limits) != 2 or not limits[0] < limits[1]:
            raise ValueError(f"{where} must be =random(low, high) with low < high, got {content!r}")
        low, high = limits
        if dtype.kind == "f":
            return rng.uniform(low, high, n).astype(dtype)
        return rng.integers(int(low), int(high), n, dtype=dtype)
    return np.full(n, number(content, f"{where} =zeros, =arange, =random(low, high) or the number"), dtype)


def number(text: str, where: str) -> bool | int | float:
    """Return the value of a literal of C++ (``512``, ``2.0f``, ``0x10``, ``true``), or of ``nan`` or ``inf``.

    >>> number("-2.5e-1f", "x")
    -0.25
    """
    if text in _WORDS:
        return _WORDS[text]
    if found := _HEXADECIMAL.fullmatch(text):
        return int(found[1], 16)
    if found := _NUMBER.fullmatch(text):
        return int(found[1]) if found[1].lstrip("+-").isdecimal() else float(found[1])
    raise ValueError(f"{where} must be a number such as 512 or 2.0f, got {text!r}")
