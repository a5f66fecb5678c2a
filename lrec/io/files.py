"""Writes files atomically, so that no half-written file is ever read; `lrec.io.reading` reads them back."""

import contextlib
import csv
import errno
import glob
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pandas as pd

# Errors for operations that a file system, such as a network file system, does not support.
UNKNOWN = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_BLOCK = 2**24  # bytes
_DIGITS = 8  # in the name of a temporary file
_ATTEMPTS, _PAUSE = 50, 0.02  # to read folders that are being replaced; seconds between attempts

Result = TypeVar("Result")


def _sync(file: Path) -> None:
    """Make the contents of a file durable, where the file system allows it."""
    with file.open("rb") as stream, _where_known():
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system allows it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _where_known() -> Iterator[None]:
    """Ignore the error if the file system does not support the operation in the block."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing; it appears at `path` when the block ends without an error, complete or not at all.

    The bytes go to a temporary file in the same folder, which is synced and renamed to `path`.
    """
    with atomic_path(path) as draft, draft.open("wb") as stream:
        yield stream
        stream.flush()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Like `atomic`, but yield a temporary path, for libraries that open files themselves."""
    with _draft(path) as draft:
        draft.touch()
        yield draft
        _sync(draft)
        os.replace(draft, path)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that is synced and replaces `path` when the block ends without an error.

    If the process is killed between the two renames, there is nothing at `path`; `clear_drafts` restores the
    old folder.
    """
    with _draft(path) as draft:
        draft.mkdir()
        yield draft
        for folder, _, names in os.walk(draft):
            for name in names:
                if not os.path.islink(os.path.join(folder, name)):
                    _sync(Path(folder, name))
            _sync_folder(Path(folder))
        if path.exists():
            remove(_retired(path))
            os.replace(path, _retired(path))
        os.replace(draft, path)
        remove(_retired(path))


def unreplaced(folders: Sequence[Path], read: Callable[[], Result]) -> Result:
    """Call `read`, which opens files of these folders, again until none of them is replaced during the call.

    Otherwise one file could be of the old folder and the next of the new one. Files that are opened stay readable.

    Raises:
        ValueError: a folder was replaced during every attempt.
        FileNotFoundError: a folder is gone because a process was killed while it replaced it.
        Exception: raised by `read`, while no folder was being replaced, or in the last attempt.
    """
    failed: Exception | None = None
    for _ in range(_ATTEMPTS):
        before, failed = [_identity(folder) for folder in folders], None
        try:
            found = read()
        except (OSError, ValueError) as error:
            failed = error
        if before == [_identity(folder) for folder in folders] and not any(map(_is_between, folders)):
            if failed:
                raise failed
            return found
        time.sleep(_PAUSE)
    if lost := next(filter(_is_between, folders), None):
        raise FileNotFoundError(
            f"{lost}: not found, but {_retired(lost)} is, because a process was killed while it replaced the folder; "
            "rename it back"
        )
    raise failed or ValueError(f"{folders[0]}: replaced again and again while it was read; run again")


def _identity(folder: Path) -> tuple[int, ...] | None:
    """Return numbers that differ between a folder and one that replaces it; None if there is none."""
    try:
        found = os.stat(folder)
    except (OSError, ValueError):  # there is none, or it cannot have such a name
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns  # the number of a deleted folder may be used again


def _is_between(folder: Path) -> bool:
    """Return whether the old folder is gone and the new one not yet there."""
    return bool(folder.name) and os.path.exists(_retired(folder)) and not os.path.exists(folder)


def require_replaceable(path: Path, own: Collection[str]) -> None:
    """Refuse an output folder chosen by the user if it is protected or holds other files: `atomic_folder` deletes it.

    Args:
        path: the folder, which need not exist.
        own: names of the files that an earlier output may have written there.

    Raises:
        ValueError: it is a link, which would be replaced, it is not a folder, or it holds something else.
        PermissionError: it must not be changed.
    """
    if not (path.exists() or path.is_symlink()):
        return
    if path.is_symlink():
        raise ValueError(f"{path}: found a symbolic link, expected a folder; name {os.path.realpath(path)} itself")
    if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: not writable, so it is not replaced; name another folder, or make it writable")
    foreign = sorted(set(os.listdir(path)) - set(own)) if path.is_dir() else [path.name]
    if foreign:
        raise ValueError(
            f"{path}: found {foreign[0]}, expected a new or empty folder, or one with only {', '.join(own)} in it; "
            "name another folder"
        )


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """Yield an unused temporary path beside `path`. After an error it is removed, and the error names `path`."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:_DIGITS]}.tmp")
    with naming(path, draft):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield draft
        except BaseException:
            remove(draft)
            raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def naming(path: Path, draft: Path | None = None) -> Iterator[None]:
    """Add `path` to a system error, such as a full disk, if it names no file or only the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno and (error.filename is None or draft and str(draft) in str(error.filename)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def clear_drafts(path: Path) -> None:
    """Remove leftovers of killed processes beside `path` and inside it. No process may be writing there."""
    if _retired(path).exists() and not path.exists():
        os.replace(_retired(path), path)
    for end in ("old", "[0-9a-f]" * _DIGITS):  # of drafts alone: other files, and other paths' drafts, stay
        beside = path.parent.glob(f".{glob.escape(path.name)}.{end}.tmp")
        inside = path.rglob(f".*.{end}.tmp") if path.is_dir() else ()
        for draft in [*beside, *inside]:
            remove(draft)


def _retired(path: Path) -> Path:
    """Return the path of the old folder while the new one is renamed."""
    return path.with_name(f".{path.name}.old.tmp")


def remove(path: Path) -> None:
    """Delete a file or a folder, if it exists."""
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
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path}: not written, found a number that is not finite ({error})") from error
    write_text(path, text + "\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV with a header row and without an index, atomically."""
    text = table.to_csv(index=False, lineterminator="\n")
    if "\r" in text:  # readers take it for the end of a line, but csv quotes only cells that contain `lineterminator`
        text = table.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_ALL)
    write_text(path, text)


def map_array(path: Path, dtype: str | np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Create a .npy file of zeros with its disk space allocated, and open it as a writable memory map.

    Without the allocation, SIGBUS would end the process if the disk became full later.
    """
    array = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
    if hasattr(os, "posix_fallocate"):
        with naming(path), path.open("r+b") as stream:
            try:
                os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in UNKNOWN:
                    raise
                _write_zeros(stream, array.nbytes)
    return array


def _write_zeros(stream: BinaryIO, count: int) -> None:
    """Overwrite the last `count` bytes of a file with zeros, which allocates their space on any file system."""
    stream.seek(-count, os.SEEK_END)
    for start in range(0, count, _BLOCK):
        stream.write(bytes(min(_BLOCK, count - start)))
