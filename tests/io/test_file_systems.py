"""Operations that a file system, such as one over a network, does not have."""

import errno
import fcntl
import os
from pathlib import Path

import numpy as np
import pytest

from lrec.io import command, files, locks


def failing(code: int):
    def call(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_without_space_in_advance_zeros_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    monkeypatch.setattr(os, "posix_fallocate", failing(code))
    monkeypatch.setattr(files, "_BLOCK", 64)
    array = files.map_array(tmp_path / "a.npy", np.float32, (10, 7))
    assert (tmp_path / "a.npy").stat().st_blocks > 0
    array[:] = 1
    array.flush()
    assert (np.load(tmp_path / "a.npy") == 1).all()


def test_a_full_disk_is_still_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        files.map_array(tmp_path / "a.npy", np.float32, (10, 7))


def test_without_syncing_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    files.write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_one_line_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, code: int
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fcntl, "flock", failing(code))

    def work() -> None:
        with locks.held([Path("models/a")]):
            pytest.fail("it was held")

    assert command.guard(work) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: .lrec/claims/lock: ")
    assert line.endswith("move the project to another one, such as a local disk\n")
