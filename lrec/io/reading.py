"""Reads files strictly. Errors are one line with the file, the place in the file and what to do."""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from lrec.io import hashing, missing

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?([0-9]{1,99}\.?[0-9]*|\.[0-9]+)([eE](\+?[0-9]{1,2}|-[0-9]{1,3}))?")
_FINITE_ROWS = 65536

# Origins of files that no stage writes, to be passed as `made_by`.
COMMITTED, SAVED, GIVEN = "git", "Database.save", "you"
REMADE = "run `dvc repro`, and save databases again"
_OTHER_REMEDIES = {
    COMMITTED: "restore it with `git checkout`",
    SAVED: "save the database again",
    GIVEN: "correct it, or name another file",
}


def read_text(path: Path, made_by: str) -> str:
    """Read a UTF-8 text file unchanged, without its byte order mark.

    Args:
        path: the file.
        made_by: the stage that writes it, for errors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8.
    """
    try:
        # Path.read_text would change the line ends inside quoted cells.
        return _require(path, made_by).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(_damaged(path, f"not UTF-8 text ({error.reason})", made_by)) from error


def read_json(path: Path, made_by: str, shape: Any = Any) -> Any:
    """Read a JSON file and check the type of its contents.

    Args:
        path: the file.
        made_by: the stage that writes it, for errors.
        shape: the expected type, such as a TypedDict, whose keys are required; other keys are allowed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not JSON, or of another type; the message names file and key.
    """
    text = read_text(path, made_by)
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(_damaged(path, "values nested too deep", made_by)) from error
    except ValueError as error:
        raise ValueError(_damaged(path, f"not JSON ({error})", made_by)) from error
    try:
        TypeAdapter(shape).validate_python(value, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"]) or "top level"
        expected = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        found = f"found {problem['input']!r:.80}, expected {expected}" if problem["type"] != "missing" else "missing"
        raise ValueError(_damaged(path, f"{key}: {found}", made_by)) from error
    return value


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def read_table(
    path: Path,
    columns: Sequence[str],
    made_by: str,
    *,
    numbers: Sequence[str] = (),
    integers: Sequence[str] = (),
    empty: bool = False,
) -> pd.DataFrame:
    """Read a CSV file that must begin with the given columns; every cell is returned as text.

    Args:
        path: the file.
        columns: names of the first columns.
        made_by: the stage that writes it, for errors.
        numbers: columns that must hold finite numbers, if present.
        integers: columns that must hold 64-bit integers, if present.
        empty: whether a table without rows is allowed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a table, a row is too short or too long, or a cell is not a number; the message names file
            and line.
    """
    reader = csv.reader(io.StringIO(read_text(path, made_by), newline=""), strict=True)
    try:
        header, *rows = [(reader.line_num, cells) for cells in reader if cells] or [(0, [])]
    except csv.Error as error:
        raise ValueError(_damaged(path, f"not a CSV table (line {reader.line_num}: {error})", made_by)) from error
    names = header[1]
    if names[: len(columns)] != list(columns) or len(set(names)) != len(names):
        found = f"columns {', '.join(names)[:160] or 'none'}, expected {', '.join(columns)}"
        raise ValueError(_damaged(path, found, made_by))
    if not rows and not empty:
        raise ValueError(_damaged(path, "found no rows under the header, expected at least one", made_by))
    for line, cells in rows:
        if len(cells) != len(names):
            found = f"line {line}: found {len(cells)} cells, expected {len(names)} as in the header"
            raise ValueError(_damaged(path, found, made_by))
    for kind, wanted, pattern in (("a finite number", numbers, _NUMBER), ("a whole number", integers, _INTEGER)):
        for column in set(wanted).intersection(names):
            place = names.index(column)
            for line, cells in rows:
                if not pattern.fullmatch(cells[place]):
                    found = f"line {line}: found {cells[place]!r:.80} as {column}, expected {kind}"
                    raise ValueError(_damaged(path, found, made_by))
    return pd.DataFrame([cells for _, cells in rows], columns=names, dtype=str)


def read_array(path: Path, made_by: str, dimensions: int, *dtypes: type, finite: bool = False) -> np.ndarray:
    """Open a .npy file as a read-only memory map.

    Args:
        path: the file.
        made_by: the stage that writes it, for errors.
        dimensions: the expected number of dimensions.
        dtypes: the allowed dtypes.
        finite: read the whole array once, and refuse NaN and infinities.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such an array.
    """
    _require(path, made_by)
    try:
        # Unlike np.load, this opens neither archives nor arrays of objects.
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, OverflowError, RecursionError) as error:
        raise ValueError(_damaged(path, f"not a .npy array ({error})", made_by)) from error
    if array.ndim != dimensions or array.dtype not in dtypes or not array.flags.c_contiguous:
        expected = " or ".join(str(np.dtype(dtype)) for dtype in dtypes)
        order = "" if array.flags.c_contiguous else " in Fortran order"
        found = f"{array.ndim} dimensions of {array.dtype}{order}, expected {dimensions} of {expected}"
        raise ValueError(_damaged(path, found, made_by))
    for start in range(0, len(array) if finite else 0, _FINITE_ROWS):
        bad = np.flatnonzero(~np.isfinite(array[start : start + _FINITE_ROWS]).all(axis=tuple(range(1, dimensions))))
        if len(bad):
            found = f"row {start + bad[0]}: found a value that is not finite, expected numbers"
            raise ValueError(_damaged(path, found, made_by))
    return array


def require_made(path: Path, expected: str | None, what: str, remedy: str = REMADE) -> None:
    """Require the file with which the embeddings were made: a model, or a file that the stage embed wrote.

    Args:
        path: the file.
        expected: SHA-256 of the file when the embeddings were made; None accepts any file.
        what: what is found if the hashes differ, for the message, such as "another reduction".
        remedy: what to do if they differ.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the hashes differ.
    """
    found = hashing.of_file(_require(path, "embed"))
    if expected and found != expected:
        raise ValueError(
            f"{path}: found {what} (SHA-256 {found[:16]}) than the embeddings were made with ({expected[:16]}), so "
            f"their similarities would be meaningless; {remedy}"
        )


def _require(path: Path, made_by: str) -> Path:
    if not path.is_file():
        what = "found something other than a file" if path.exists() else "not found"
        if made_by in _OTHER_REMEDIES and not path.exists():
            what += missing.hint(path)
        remedy = _OTHER_REMEDIES.get(made_by, f"run `dvc repro` (stage {made_by}) first")
        raise FileNotFoundError(f"{path}: {what}; {remedy}")
    return path


def _damaged(path: Path, found: str, made_by: str) -> str:
    return f"{path}: {found}; {_OTHER_REMEDIES.get(made_by, f'delete it and run `dvc repro` (stage {made_by})')}"
