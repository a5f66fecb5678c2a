"""Runs `dvc repro` in the background, to be watched and killed; and the results of an undisturbed run."""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import checkout
import psutil
from checkout import TINY

PATIENCE = 300.0


class Repro:
    """A running `dvc repro`, in its own process group."""

    def __init__(self, folder: Path, *targets: str) -> None:
        self.folder = folder
        with (folder.parent / "repro.log").open("wb") as log:
            self.dvc = subprocess.Popen(
                ["dvc", "repro", *targets],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=checkout.environment(),
            )

    def members(self) -> list[psutil.Process]:
        """Return the running processes of the group."""
        return [p for p in psutil.process_iter() if _group(p) == self.dvc.pid and _lives(p)]

    def stage(self, name: str) -> psutil.Process | None:
        """Wait for a stage's process and return it; None if dvc ends without it."""
        module, *arguments = TINY[name]
        while self.dvc.poll() is None:
            for process in self.members():
                try:
                    if process.cmdline()[-len(arguments) - 2 :] == ["-m", module, *arguments]:
                        return process
                except psutil.Error:
                    continue
            time.sleep(0.01)
        return None

    def wait(self) -> None:
        """Wait until every process of the group has ended."""
        end = time.monotonic() + PATIENCE
        while self.dvc.poll() is None or self.members():
            assert time.monotonic() < end, f"still running: {self.members()}"
            time.sleep(0.02)

    def output(self) -> str:
        return (self.folder.parent / "repro.log").read_text()


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(run: Repro, name: str, sign: int, target: str, moment: float | None) -> bool:
    """Send a signal in the middle of a stage; return whether it was sent before the stage ended.

    Args:
        run: the running pipeline.
        name: name of the stage.
        sign: the signal.
        target: "stage", "group" (including dvc, like Ctrl-C or closing the terminal), or "dvc" alone.
        moment: seconds after the stage's start; None: when it has begun to write a file.
    """
    process = run.stage(name)
    if process is None:
        return False
    started = time.monotonic()
    while _lives(process) and (
        time.monotonic() - started < moment if moment is not None else not checkout.drafts(run.folder)
    ):
        time.sleep(0.001)
    if not _lives(process):
        return False
    if target == "group":
        os.killpg(run.dvc.pid, sign)
    else:
        os.kill(process.pid if target == "stage" else run.dvc.pid, sign)
    if target == "dvc" and sign != signal.SIGINT:
        run.dvc.wait(PATIENCE)
    return True


@dataclass
class Undisturbed:
    """An undisturbed run: its folder, its artefacts, each stage's seconds, and copies made before each stage."""

    folder: Path
    artefacts: dict[str, str]
    seconds: dict[str, float]

    @classmethod
    def read(cls, folder: Path) -> "Undisturbed":
        """Return the run that `undisturbed` has made in a folder."""
        return cls(folder, **json.loads((folder.parent / "run.json").read_text(encoding="utf-8")))

    @property
    def before(self) -> dict[str, Path]:
        return {name: self.folder.parent / name for name in TINY}


def undisturbed(root: Path, folder: Path) -> None:
    """Make the tiny project in a folder and run it stage by stage; its record is written beside the folder."""
    checkout.tiny(root, folder)
    seconds = {}
    for name in TINY:
        shutil.copytree(folder, folder.parent / name, symlinks=True)
        run = Repro(folder, name)
        process = run.stage(name)
        assert process, run.output()
        started = time.monotonic()
        while _lives(process):
            time.sleep(0.01)
        seconds[name] = time.monotonic() - started
        run.wait()
        assert run.dvc.returncode == 0, run.output()
    noted = {"artefacts": checkout.artefacts(folder), "seconds": seconds}
    (folder.parent / "run.json").write_text(json.dumps(noted), encoding="utf-8")
