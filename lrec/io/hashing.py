"""SHA-256 hashes that show whether a file, a set of files or a value has changed."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def of_files(paths: Iterable[Path], root: Path | None = None) -> str:
    """Return 16 hexadecimal digits of a SHA-256 of the contents and names of files, in any order.

    Args:
        paths: the files.
        root: a folder that contains all of them; paths relative to it are hashed. None: only file names are hashed.
    """
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.relative_to(root).as_posix() if root else path.name} {of_file(path)}\n".encode())
    return total.hexdigest()[:16]


def of_value(value: Any) -> str:
    """Return 16 hexadecimal digits of a SHA-256 of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
