"""Interrupted work: where its parts are stored, and which of them are done.

The parts are in a folder named after a hash of everything that the result depends on. A later run that would produce
the same bytes finds the folder and resumes; any other run does not. Git and DVC ignore the folder.
"""

import os
import shutil
import time
from pathlib import Path

import numpy as np

from lrec.io import files

SAVE_SECONDS = 1.0
_DONE = ".done"


def publish(source: Path, target: Path) -> None:
    """Publish a finished file at another path too: as a hard link if the file system supports it, else as a copy."""
    try:
        os.link(source, target)
    except OSError:
        with files.naming(target, source):
            shutil.copyfile(source, target)


class Journal:
    """An array that is filled part by part, and a flag per part that is written to disk.

    Attributes:
        array: the array, a writable memory map.
    """

    def __init__(self, path: Path) -> None:
        """Open the .npy at `path` that `create` made."""
        self.array = np.load(path, mmap_mode="r+")
        self._done = np.memmap(path.with_suffix(_DONE), np.uint8, "r+")
        self._pending: list[int] = []
        self._saved = time.monotonic()

    @staticmethod
    def create(path: Path, shape: tuple[int, ...], dtype: str, parts: int) -> None:
        """Create the array of zeros and its flags, unless an earlier run did; the flags are written last."""
        if not path.with_suffix(_DONE).exists():
            files.map_array(path, dtype, shape).flush()
            with files.atomic(path.with_suffix(_DONE)) as stream:
                stream.write(bytes(parts))

    def is_done(self, part: int) -> bool:
        """Return whether a part was written by this or an earlier run."""
        return bool(self._done[part])

    def note(self, part: int) -> None:
        """Record that a part is in the array; the records are saved about once a second."""
        self._pending.append(part)
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the array to disk, and then the flags of the parts recorded since the last save."""
        self.array.flush()
        self._done[self._pending] = 1
        self._done.flush()
        self._pending.clear()
        self._saved = time.monotonic()
