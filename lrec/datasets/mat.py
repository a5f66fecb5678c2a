"""A strict reader of MATLAB 5 files, limited to what CARS196 needs: structs, cells, text and numbers.

scipy.io.loadmat reads more, but a damaged file can crash its compiled code and so the process. Here every length is
checked first, and a bad file raises a ValueError. Nothing in a file is executed.

Source: MathWorks, MAT-File Format, "Level 5 MAT-File Format".
"""

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER = 128
MAX_BYTES = 2**28
MAX_DEPTH = 8
# Data types of the format: from code to struct letter or encoding.
NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
MATRIX, COMPRESSED = 14, 15
CELL, STRUCT, CHAR, FIRST_NUMERIC, LAST_NUMERIC = 1, 2, 4, 6, 15
COMPLEX = 0x0800


def read(file: Path) -> dict[str, Any]:
    """Return the variables of a file by name.

    A struct array becomes a dict of lists, one per field; a cell array a list; text a str; a single
    number an int or float, several numbers a list, in MATLAB's column order.

    Raises:
        ValueError: the file is of another format, is damaged, or has other kinds of variables; the message names it.
    """
    try:
        return _variables(file.read_bytes())
    except (ValueError, struct.error, zlib.error, UnicodeError, OverflowError) as error:
        raise ValueError(f"{file}: not readable as a MATLAB 5 file ({error})") from error


def _variables(content: bytes) -> dict[str, Any]:
    order = {b"IM": "<", b"MI": ">"}.get(content[HEADER - 2 : HEADER])
    if order is None or not content.startswith(b"MATLAB 5.0"):
        raise ValueError(f"it begins with {content[:10]!r}, expected b'MATLAB 5.0' and a header of {HEADER} bytes")
    variables = {}
    for kind, data in _elements(content[HEADER:], order):
        if kind == COMPRESSED:
            ((kind, data),) = _elements(_inflate(data), order)
        if kind != MATRIX:
            raise ValueError(f"element of type {kind}, expected an array")
        name, value = _matrix(data, order, 0)
        variables[name] = value
    return variables


def _inflate(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    plain = unpacker.decompress(data, MAX_BYTES)
    if not unpacker.eof:
        raise ValueError(f"compressed data that is cut short, or larger than {MAX_BYTES:,} bytes")
    return plain


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield the type and content of each element in `data`."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        small = kind >> 16
        start = at + (4 if small else 8)
        if small:
            kind, size = kind & 0xFFFF, small
        if start + size > len(data) or (small and size > 4):
            raise ValueError(f"an element of {size} bytes, {max(len(data) - start, 0)} are left")
        yield kind, data[start : start + size]
        # Elements are padded to 8 bytes, except compressed ones; the last element may lack its padding.
        at = at + 8 if small else start + size + (0 if kind == COMPRESSED else -size % 8)


def _matrix(data: bytes, order: str, depth: int) -> tuple[str, Any]:
    """Return the name and value of an array; an element without content is an empty array."""
    if not data:
        return "", []
    if depth > MAX_DEPTH:
        raise ValueError(f"arrays nested more than {MAX_DEPTH} deep")
    parts = _elements(data, order)
    (flags, _), shape = _numbers(next(parts, None), order, 2), _numbers(next(parts, None), order)
    size = math.prod(shape)
    if min(shape, default=-1) < 0 or size > len(data):
        raise ValueError(f"an array of shape {shape} in {len(data)} bytes")
    name = _text(next(parts, None), order)
    kind = flags & 0xFF
    if kind == CELL:
        return name, _children(parts, order, size, depth)
    if kind == STRUCT:
        return name, _fields(parts, order, size, depth)
    if kind == CHAR:
        return name, _text(next(parts, None), order)
    if not FIRST_NUMERIC <= kind <= LAST_NUMERIC or flags & COMPLEX:
        raise ValueError(f"an array of class {kind}, expected a struct, cells, text or real numbers")
    values = _numbers(next(parts, None), order, size)
    return name, values[0] if size == 1 else list(values)


def _children(parts: Iterator[tuple[int, bytes]], order: str, count: int, depth: int) -> list[Any]:
    children = []
    for kind, data in parts:
        if kind != MATRIX:
            raise ValueError(f"element of type {kind} inside an array, expected an array")
        children.append(_matrix(data, order, depth + 1)[1])
    if len(children) != count:
        raise ValueError(f"{len(children)} entries in an array, expected {count}")
    return children


def _fields(parts: Iterator[tuple[int, bytes]], order: str, size: int, depth: int) -> dict[str, list[Any]]:
    (length,) = _numbers(next(parts, None), order, 1)
    _, packed = next(parts, (0, b""))
    if length < 1 or len(packed) % length:
        raise ValueError(f"{len(packed)} bytes of field names, expected a multiple of {length}")
    names = [packed[at : at + length].split(b"\0")[0].decode("ascii") for at in range(0, len(packed), length)]
    values = _children(parts, order, size * len(names), depth)
    return {name: values[number :: len(names)] for number, name in enumerate(names)}


def _numbers(element: tuple[int, bytes] | None, order: str, count: int | None = None) -> tuple[Any, ...]:
    kind, data = element or (0, b"")
    if kind not in NUMBERS:
        raise ValueError(f"element of type {kind}, expected numbers")
    found = len(data) // struct.calcsize(order + NUMBERS[kind])
    values = struct.unpack(f"{order}{found}{NUMBERS[kind]}", data)
    if count is not None and found != count:
        raise ValueError(f"{found} numbers, expected {count}")
    return values


def _text(element: tuple[int, bytes] | None, order: str) -> str:
    kind, data = element or (0, b"")
    if kind not in TEXT:
        raise ValueError(f"element of type {kind}, expected text")
    encoding = TEXT[kind]
    return data.decode(encoding + ("-le" if order == "<" else "-be") if encoding in ("utf-16", "utf-32") else encoding)
