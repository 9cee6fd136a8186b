"""The parameters of a kernel, read from its source: what an argument must be, and what an error calls it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

_BALANCED = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
_KERNEL = re.compile(
    r"(?:template\s*<(?P<template>(?:[^<>]|<[^<>]*>)*)>\s*)?"
    r'(?:extern\s*"C"\s*|static\s+|inline\s+)*'
    r"__global__\s+"
    rf"(?:(?:static|inline|__launch_bounds__\s*{_BALANCED})\s*)*void\s+"
    rf"(?:__launch_bounds__\s*{_BALANCED}\s*)?"
    rf"(?P<name>\w+)\s*(?P<parameters>{_BALANCED})"
)
_QUALIFIERS = re.compile(r"\b(const|volatile|struct|__restrict__|__restrict|restrict|__grid_constant__)\b")

_SCALARS = {
    "bool": "bool",
    "char": "int8",
    "signed char": "int8",
    "unsigned char": "uint8",
    "short": "int16",
    "unsigned short": "uint16",
    "int": "int32",
    "unsigned": "uint32",
    "unsigned int": "uint32",
    "long": "int64",
    "unsigned long": "uint64",
    "long long": "int64",
    "long long int": "int64",
    "unsigned long long": "uint64",
    "unsigned long long int": "uint64",
    "size_t": "uint64",
    "ptrdiff_t": "int64",
    "float": "float32",
    "double": "float64",
    "__half": "float16",
    "half": "float16",
    **{f"{sign}int{bits}_t": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_VECTORS = {"float": 4, "double": 8, "int": 4, "uint": 4, "short": 2, "ushort": 2, "char": 1, "uchar": 1}
_VECTORS |= {"longlong": 8, "ulonglong": 8, "__half": 2, "half": 2}
_VECTOR_SCALARS = {"uint": "uint32", "ushort": "uint16", "uchar": "uint8", "longlong": "int64", "ulonglong": "uint64"}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel.

    Attributes
    ----------
    name, type : str
        As written, with the template's parameters replaced by its arguments.
    pointer : bool
    dtype : numpy.dtype or None
        Of the value, or of the elements pointed to; None for a type that is not a built-in one (a struct).
    lanes : int
        Elements of a vector type: 4 for float4.
    alignment : int
        That a pointer to it needs, in bytes.
    writable : bool
        The kernel may write through the pointer.
    scattered : bool
        Declared ``Scattered<T>``: only ever added to.
    base : str
        The type of the value or of the elements, without qualifiers: "float4" for ``const float4*``.
    """

    name: str
    type: str
    pointer: bool
    dtype: np.dtype | None
    lanes: int = 1
    alignment: int = 1
    writable: bool = False
    scattered: bool = False
    base: str = ""


@dataclass(frozen=True)
class Signature:
    """A kernel as its source declares it."""

    name: str
    parameters: tuple[str, ...]
    template: tuple[str, ...] = ()  # names of the template's parameters
    kinds: tuple[str, ...] = ()  # what each of them is: "typename", "int", ...
    defaults: tuple[str | None, ...] = ()

    def instantiate(self, expression: str) -> tuple[Parameter, ...]:
        """Return the parameters of the instance that a name expression such as ``f<float, 16>`` names."""
        arguments = _template_arguments(expression)
        if len(arguments) > len(self.template):
            raise ValueError(f"{expression}: {self.name} has {len(self.template)} template parameters")
        filled = dict(zip(self.template, [*arguments, *self.defaults[len(arguments) :]], strict=False))
        missing = [name for name, value in filled.items() if value is None]
        if missing:
            raise ValueError(f"{expression}: template parameter {missing[0]} of {self.name} has no value")
        return tuple(_parameter(text, {k: v for k, v in filled.items() if v}) for text in self.parameters)


def find_kernels(text: str) -> dict[str, Signature]:
    """Return the kernels that a source (without comments) defines or declares, by name, in order.

    >>> list(find_kernels('extern "C" __global__ void twice(const float* x, float* y, int n) {}'))
    ['twice']
    """
    kernels = {}
    for found in _KERNEL.finditer(text):
        template = [_template_parameter(part) for part in split_at_commas(found["template"] or "")]
        kernels[found["name"]] = Signature(
            name=found["name"],
            parameters=tuple(part for part in split_at_commas(found["parameters"][1:-1]) if part != "void"),
            template=tuple(name for _, name, _ in template),
            kinds=tuple(kind for kind, _, _ in template),
            defaults=tuple(default for _, _, default in template),
        )
    return kernels


def base_name(expression: str) -> str:
    """Return the kernel a name expression is an instance of: ``f`` for ``space::f<float>``."""
    return expression.partition("<")[0].rpartition(":")[2].strip()


def _template_arguments(expression: str) -> list[str]:
    _, opening, rest = expression.partition("<")
    return split_at_commas(rest.rstrip().removesuffix(">")) if opening else []


def _template_parameter(text: str) -> tuple[str, str, str | None]:
    declaration, _, default = text.partition("=")
    *kind, name = declaration.split()
    return " ".join(kind), name, default.strip() or None


def split_at_commas(text: str) -> list[str]:
    """Split at the commas that stand in no bracket.

    >>> split_at_commas("T[2, 3], f<a, b>")
    ['T[2, 3]', 'f<a, b>']
    """
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        if letter in "<([{":
            depth += 1
        elif letter in ">)]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _parameter(text: str, filled: dict[str, str]) -> Parameter:
    declaration = text.partition("=")[0].strip()
    array = declaration.endswith("]")
    declaration = declaration.partition("[")[0].strip()
    found = re.fullmatch(r"(.*?)(\w+)", declaration, re.DOTALL)
    if found is None or not found[1].strip():
        raise ValueError(f"cannot read the kernel parameter {text!r}: it needs a type and a name")
    written, name = found[1], found[2]
    for parameter, value in reversed(filled.items()):  # a default may name a parameter before it
        written = re.sub(rf"\b{parameter}\b", value, written)
    constant = re.match(r"\s*const\b|[^*]*\bconst\s*\*", written) is not None
    plain = " ".join(_QUALIFIERS.sub(" ", written).split())
    scattered = re.fullmatch(r"Scattered\s*<(.*)>", plain)
    stars = plain.count("*") + array
    base = scattered[1].strip() if scattered else plain.replace("*", "").replace("&", "").strip()
    shown = " ".join(written.split())
    pointer = stars > 0 or scattered is not None
    dtype, lanes, alignment = element_type(base) if stars < 2 else (np.dtype("uint64"), 1, 8)
    writable = pointer and not constant
    return Parameter(name, shown, pointer, dtype, lanes, alignment, writable, scattered is not None, base)


def element_type(base: str) -> tuple[np.dtype | None, int, int]:
    """Return dtype, lanes and alignment of a built-in type; (None, 1, 1) for others."""
    base = base.removeprefix("std::")
    if base in _SCALARS:
        dtype = np.dtype(_SCALARS[base])
        return dtype, 1, dtype.itemsize
    vector = re.fullmatch(r"([a-z_]+)([1-4])", base)
    if vector and vector[1] in _VECTORS:
        lanes = int(vector[2])
        dtype = np.dtype(_SCALARS.get(vector[1]) or _VECTOR_SCALARS[vector[1]])
        whole = lanes * dtype.itemsize if lanes in (2, 4) else dtype.itemsize
        return dtype, lanes, min(whole, 16)
    return None, 1, 1
