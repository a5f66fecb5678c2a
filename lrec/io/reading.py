"""Strict reading of files. An error is one line that names the file, the place in it and what to do."""

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

# Origins of files that no stage writes, given instead of a stage.
COMMITTED, SAVED, GIVEN = "git", "Database.save", "you"
REMADE = "run `dvc repro`, and save databases again"
_OTHER_REMEDIES = {
    COMMITTED: "restore it with `git checkout`",
    SAVED: "save the database again",
    GIVEN: "correct it, or name another file",
}


def read_text(path: Path, made_by: str) -> str:
    """Read a UTF-8 text file unchanged. Errors name the file and `made_by`, the stage that writes it."""
    try:
        # Not read_text, which would change the line ends inside quoted cells.
        return _require(path, made_by).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(_damaged(path, f"not UTF-8 text ({error.reason})", made_by)) from error


def read_json(path: Path, made_by: str, shape: Any = Any) -> Any:
    """Read a JSON file and check what it holds.

    Args:
        path: of the file.
        made_by: the stage that writes it, for errors.
        shape: the type of its value, such as a TypedDict, whose keys are required; other keys are allowed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not JSON, or of another shape; file and key are named.
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
    """Read a CSV that must begin with these columns; every cell is returned as text.

    Args:
        path: of the file.
        columns: names of the first columns.
        made_by: the stage that writes it, for errors.
        numbers: columns that must hold finite numbers, if the table has them.
        integers: columns that must hold whole numbers of 64 bits, if the table has them.
        empty: whether a table without rows is allowed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a table, a row is short or long, or a cell is not a number; file and line are named.
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
    """Open a .npy as a read-only memory map; its dimensions must be these, its dtype one of these.

    With `finite`, the whole array is read once, and a NaN or an infinity is an error as well.
    """
    _require(path, made_by)
    try:
        # Not np.load, which also opens archives; this reads .npy files only, and never arrays of objects.
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
    """Refuse a file that is not there, or that is not the one which embeddings were made with.

    Args:
        path: of the file, which the stage embed wrote where it is not a model.
        expected: SHA-256 of the file that they were made with; None for any.
        what: is found otherwise, such as "another reduction".
        remedy: what to do then.
    """
    found = hashing.of_file(_require(path, "embed"))
    if expected and found != expected:
        raise ValueError(
            f"{path}: found {what} (SHA-256 {found[:16]}) than the embeddings were made with ({expected[:16]}), so "
            f"their similarities would mean nothing; {remedy}"
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
