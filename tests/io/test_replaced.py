"""Folders that another process replaces: all files read are of one, and those who replace it take turns."""

import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest

from lrec.io import files, locks


def write(folder: Path, text: str) -> None:
    with files.atomic_folder(folder) as draft:
        for name in ("a", "b"):
            (draft / name).write_text(text)


def read(folder: Path) -> str:
    return "".join((folder / name).read_text() for name in ("a", "b"))


def test_files_read_are_of_one_folder(tmp_path: Path):
    folder, read_first = tmp_path / "f", []
    write(folder, "1")

    def disturbed() -> str:
        first = (folder / "a").read_text()
        if not read_first:
            write(folder, "2")
        read_first.append(first)
        return first + (folder / "b").read_text()

    assert files.unreplaced([folder], disturbed) == "22"
    assert read_first == ["1", "2"]


def test_a_folder_between_two_renames_is_waited_for(tmp_path: Path):
    folder = tmp_path / "f"
    write(folder, "1")
    folder.rename(files._retired(folder))
    back = threading.Timer(0.1, files._retired(folder).rename, [folder])
    back.start()
    assert files.unreplaced([folder], lambda: read(folder)) == "11"
    back.join()


def test_a_folder_lost_between_two_renames_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "_PAUSE", 0)
    write(tmp_path / "f", "1")
    (tmp_path / "f").rename(tmp_path / ".f.old.tmp")
    with pytest.raises(FileNotFoundError, match=r"f: not found, but .*/\.f\.old\.tmp is, because .* rename it back$"):
        files.unreplaced([tmp_path / "f"], lambda: read(tmp_path / "f"))


def test_leftovers_of_another_name_stay(tmp_path: Path):
    others = [".f.v2.old.tmp", ".f.parquet.deadbeef.tmp", ".f.old.deadbeef.tmp"]
    for name in others:
        write(tmp_path / name, "1")
    with locks.alone(tmp_path / "f"):
        assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_a_protected_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "f", "1")
    files.require_replaceable(tmp_path / "f", ("a", "b"))
    monkeypatch.setattr(os, "access", lambda path, how: False)  # root may change what is protected
    with pytest.raises(PermissionError, match="f: not writable, so it is not replaced"):
        files.require_replaceable(tmp_path / "f", ("a", "b"))


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_not_replaced(tmp_path: Path, there: bool):
    if there:
        write(tmp_path / "f", "1")
    (tmp_path / "link").symlink_to("f")
    with pytest.raises(ValueError, match=f"link: found a symbolic link, expected a folder; name {tmp_path}/f itself"):
        files.require_replaceable(tmp_path / "link", ("a", "b"))


def test_a_process_forked_meanwhile_keeps_no_lock(tmp_path: Path, capsys: pytest.CaptureFixture):
    with locks.alone(tmp_path / "f"):
        folders = {int(number): os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
        (locked,) = [number for number, folder in folders.items() if folder == str(tmp_path.resolve())]
        forked = subprocess.Popen(["sleep", "60"], pass_fds=[locked])
    with forked, locks.alone(tmp_path / "f"):
        assert forked.poll() is None
        forked.kill()
    assert capsys.readouterr().err == ""


def test_errors_of_a_folder_at_rest_are_raised_at_once(tmp_path: Path):
    called = []
    with pytest.raises(FileNotFoundError):
        files.unreplaced([tmp_path / "f"], lambda: (called.append(1), read(tmp_path / "f")))
    assert called == [1]


def test_one_that_never_rests_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "_PAUSE", 0)
    with pytest.raises(ValueError, match="f: replaced again and again while it was read; run again"):
        files.unreplaced([tmp_path / "f"], lambda: write(tmp_path / "f", "1"))


def test_one_replaces_a_folder_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Another waits, and removes no draft of the first, though it removes those of killed processes."""
    path, left, entered = tmp_path / "new/f", tmp_path / "new/.f.deadbeef.tmp", threading.Event()
    left.mkdir(parents=True)

    def other() -> None:
        with locks.alone(path):
            entered.set()

    thread = threading.Thread(target=other)
    with locks.alone(path):
        assert not left.exists()
        with files.atomic_folder(path) as draft:
            thread.start()
            assert not entered.wait(0.3)
            assert draft.exists()
    thread.join()
    assert entered.is_set()
    assert f"{path}: waiting for another process that saves in {path.parent}" in capsys.readouterr().err
    assert [entry.name for entry in path.parent.iterdir()] == ["f"]


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_that_locks_no_folders(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    write(tmp_path / ".f.deadbeef.tmp", "of a process that may be alive")
    with locks.alone(tmp_path / "f"):
        write(tmp_path / "f", "1")
    assert read(tmp_path / "f") == "11"
    assert sorted(os.listdir(tmp_path)) == [".f.deadbeef.tmp", "f"]
