"""Writing files so that none is ever read half-written, and reading them back with clear errors."""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable, where the system allows it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears at `path` complete, or not at all.

    The bytes go to a temporary file beside the target, which is synced and renamed over it.
    """
    with atomic_path(path) as draft, draft.open("wb") as stream:
        yield stream
        stream.flush()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for libraries that open files themselves; else as `atomic`."""
    with _draft(path) as draft:
        draft.touch()
        yield draft
        with draft.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(draft, path)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `path` when the block ends without an error.

    A kill in the moment between the two renames leaves nothing at `path`; `clear_drafts` puts the old
    folder back.
    """
    with _draft(path) as draft:
        draft.mkdir()
        yield draft
        if path.exists():
            _remove(_retired(path))
            os.replace(path, _retired(path))
        os.replace(draft, path)
        _remove(_retired(path))


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """Yield a free name beside `path`; what is there after an error is removed, and the error names `path`."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with naming(path, draft):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield draft
        except BaseException:
            _remove(draft)
            raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def naming(path: Path, draft: Path | None = None) -> Iterator[None]:
    """Give an error of the system, such as a full disk's, the name of `path` if it has none or the draft's."""
    try:
        yield
    except OSError as error:
        if error.errno and (error.filename is None or draft and str(draft) in str(error.filename)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def clear_drafts(path: Path) -> None:
    """Remove what killed writers left of `path`, or of files in it. Nobody may be writing them."""
    if _retired(path).exists() and not path.exists():
        os.replace(_retired(path), path)
    beside = path.parent.glob(f".{glob.escape(path.name)}.*.tmp")
    inside = path.rglob(".*.tmp") if path.is_dir() else ()
    for draft in [*beside, *inside]:
        _remove(draft)


def _retired(path: Path) -> Path:
    """Where an old folder waits for its end while the new one takes its place."""
    return path.with_name(f".{path.name}.old.tmp")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    with atomic(path) as stream:
        stream.write(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically. NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV with a header row and without an index, atomically."""
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as .npy, atomically."""
    with atomic(path) as stream:
        np.save(stream, array, allow_pickle=False)


def map_array(path: Path, dtype: str | np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Make a .npy of zeros and open it as a writable memory map, on blocks of the disk that are its own.

    Without them a disk that fills up later would end the process with SIGBUS.
    """
    array = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
    if hasattr(os, "posix_fallocate"):
        with naming(path), path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return array


def read_json(path: Path, made_by: str) -> Any:
    """Read a JSON file. Errors name the file and `made_by`, the stage that writes it."""
    try:
        return json.loads(_require(path, made_by).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(_damaged(path, f"not JSON ({error})", made_by)) from error


def read_table(path: Path, columns: Sequence[str], made_by: str) -> pd.DataFrame:
    """Read a CSV that must begin with these columns; every cell comes back as text."""
    try:
        table = pd.read_csv(_require(path, made_by), dtype=str, keep_default_na=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(_damaged(path, f"not a CSV table ({error})", made_by)) from error
    if list(table.columns[: len(columns)]) != list(columns):
        found = f"columns {', '.join(table.columns[: len(columns)])}, expected {', '.join(columns)}"
        raise ValueError(_damaged(path, found, made_by))
    return table


def read_array(path: Path, made_by: str, dimensions: int, *dtypes: type) -> np.ndarray:
    """Open a .npy as a read-only memory map; its dimensions must be these, its dtype one of these."""
    _require(path, made_by)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(_damaged(path, f"not a .npy array ({error})", made_by)) from error
    if array.ndim != dimensions or array.dtype not in dtypes:
        expected = " or ".join(str(np.dtype(dtype)) for dtype in dtypes)
        found = f"{array.ndim} dimensions of {array.dtype}, expected {dimensions} of {expected}"
        raise ValueError(_damaged(path, found, made_by))
    return array


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hexadecimal text."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _require(path: Path, made_by: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; run `dvc repro` (stage {made_by}) first")
    return path


def _damaged(path: Path, found: str, made_by: str) -> str:
    return f"{path}: {found}; delete it and run `dvc repro` (stage {made_by})"
