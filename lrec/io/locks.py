"""Locks on outputs: no two processes write the same output, and none reads an output that another is writing.

A process that writes or reads outputs creates a claim, a file in .lrec/claims that it keeps locked while it works.
The kernel releases the lock when the process ends, for whatever reason, so an unlocked claim belongs to a process
that has ended. The next process removes such claims, and half-written files of killed processes. DVC's own locks are
not sufficient: they are released when dvc ends, but a stage continues to run after its dvc has been killed.
"""

import contextlib
import errno
import fcntl
import functools
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lrec.io import command, environment, files, missing

FOLDER = Path(".lrec/claims")
PATIENCE = 30.0  # seconds
# Errors of file systems that do not lock folders; NFS locks only files that are opened for writing.
_UNKNOWN = (*files.UNKNOWN, errno.EBADF, errno.ENOLCK)
Paths = Callable[..., Iterable[Path]]


@contextlib.contextmanager
def held(writes: Iterable[Path], reads: Iterable[Path] = ()) -> Iterator[None]:
    """Lock paths until the block ends or this process is killed.

    Args:
        writes: files, or folders with their contents, that no other process may write or read meanwhile.
            Leftovers of killed processes are removed. The processes of one job share these locks.
        reads: files or folders that other processes may read meanwhile, but not write.

    Raises:
        ValueError: another process has locked one of them, or blocks the creation of claims; the message names it.
        OSError: there is no space for the claim, or the file system does not support locks.
    """
    own = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": f"python {' '.join(sys.orig_argv[1:])}",
        "job": [os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT")],
        "rank": environment.rank(),
        "writes": [path.as_posix() for path in writes],
        "reads": [path.as_posix() for path in reads],
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{uuid.uuid4().hex}.json"
    with contextlib.ExitStack() as stack:
        with _turn(f"process {own['pid']} on {own['host']} ({own['command']})"):
            active, ended = _claims()
            for other in active:
                _refuse(own, other)
            for name in [*own["writes"], *(name for claim in ended for name in claim["writes"])]:
                if not any(_overlap(name, other) for claim in active for other in claim["writes"]):
                    files.clear_drafts(Path(name))
            # Unbuffered: a full disk raises an error here, not when the file is closed.
            stream = stack.enter_context(path.open("wb", buffering=0))
            stack.callback(path.unlink, missing_ok=True)
            with files.naming(path):
                fcntl.flock(stream, fcntl.LOCK_EX)
                stream.write(json.dumps(own).encode())
        yield


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process or thread replaces `path` or a folder beside it; keep them waiting during the block.

    Unlike `held`, it works in any current folder, leaves no file behind and waits instead of refusing: the folder that
    contains `path` is locked. Leftovers of killed processes are removed. File systems that cannot lock folders, such
    as NFS, give no protection; leftovers stay there, because they may be another process's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    is_locked = False
    try:
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                command.warn(f"{path}: waiting for another process that saves in {path.parent}")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            is_locked = True
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
        if is_locked:
            files.clear_drafts(path)
        yield
    finally:
        if is_locked:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a process forked meanwhile keeps the descriptor open
        os.close(descriptor)


@contextlib.contextmanager
def _turn(who: str) -> Iterator[None]:
    """Admit one process at a time, so that none adds a claim while another checks them."""
    path = FOLDER / "lock"
    # Unbuffered: a full disk raises an error immediately.
    with path.open("ab+", buffering=0) as stream:
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                with files.naming(path):
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > ends:
                    stream.seek(0)
                    holder = stream.read().decode(errors="replace") or "a process"
                    raise ValueError(
                        f"{path}: held for {PATIENCE:.0f} s by {holder}, expected a moment; it is removing "
                        "leftovers of a killed process, or it is stopped: wait, resume it (kill -CONT) or end it "
                        "(kill -KILL), and run again"
                    ) from error
            time.sleep(0.005)
        with files.naming(path):
            stream.truncate(0)
            stream.write(who.encode(errors="backslashreplace"))
        yield


def holding(writes: Paths, reads: Paths = lambda *_: ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a stage so that it locks paths while it runs, see `held`.

    Args:
        writes: called with the stage's arguments; returns the paths that the stage writes.
        reads: likewise, the paths that it reads.
    """

    def around(work: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(work)
        def locked(*arguments: Any) -> None:
            missing.require_project()
            with held(writes(*arguments), reads(*arguments)):
                work(*arguments)

        return locked

    return around


def _claims() -> tuple[list[dict], list[dict]]:
    """Return the claims of running processes, and those of ended processes, whose files are removed."""
    active, ended = [], []
    for path in sorted(FOLDER.glob("*.json")):
        with contextlib.suppress(FileNotFoundError), path.open("r+", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                active.append(json.load(stream))
                continue
            # If a process was killed while it wrote its claim, it had not started its work: ignore it.
            with contextlib.suppress(ValueError):
                ended.append(json.load(stream))
            path.unlink()
    return active, ended


def _refuse(own: dict, other: dict) -> None:
    """Raise ValueError if two claims conflict."""
    if own["rank"] is not None and (
        other["pid"] == os.getppid() or own["job"] == other["job"] and own["rank"] != other["rank"]
    ):
        return  # the other process is the launcher of this one, or belongs to the same job
    conflicts = [(mine, theirs, "writing") for mine in own["writes"] + own["reads"] for theirs in other["writes"]]
    conflicts += [(mine, theirs, "reading") for mine in own["writes"] for theirs in other["reads"]]
    for mine, theirs, doing in conflicts:
        if _overlap(mine, theirs):
            where = "" if other["host"] == own["host"] else f" on {other['host']}"
            raise ValueError(
                f"{mine}: process {other['pid']}{where} ({other['command']}) is {doing} it; wait until it ends, "
                f"or end it (kill {other['pid']}), and run again"
            )


def _overlap(one: str, other: str) -> bool:
    """Return whether two paths are equal, or one is inside the other."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")
