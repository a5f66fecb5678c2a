"""`dvc repro` is killed, at random moments in every stage; the next one ends with the bytes of an undisturbed run."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import checkout
import psutil
import pytest
from checkout import TINY, call

PATIENCE = 300.0
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = ("stage", "group", "dvc")


class Repro:
    """A running `dvc repro`, in a process group of its own."""

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
        """Return the living processes of the group."""
        return [p for p in psutil.process_iter() if _group(p) == self.dvc.pid and _lives(p)]

    def stage(self, name: str) -> psutil.Process | None:
        """Wait for a stage's process; None when dvc ends without it."""
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


@dataclass
class Undisturbed:
    """What an undisturbed run leaves: its artefacts, and each stage's seconds; a copy from before each stage."""

    artefacts: dict[str, str]
    seconds: dict[str, float]
    before: dict[str, Path]


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed") / checkout.PROJECT
    checkout.tiny(root, folder)
    seconds, before = {}, {}
    for name in TINY:
        before[name] = folder.parent / name
        shutil.copytree(folder, before[name], symlinks=True)
        run = Repro(folder, name)
        process = run.stage(name)
        assert process, run.output()
        started = time.monotonic()
        while _lives(process):
            time.sleep(0.01)
        seconds[name] = time.monotonic() - started
        run.wait()
        assert run.dvc.returncode == 0, run.output()
    return Undisturbed(checkout.artefacts(folder), seconds, before)


def kill(run: Repro, name: str, sign: int, target: str, moment: float | None) -> bool:
    """Send a signal in the middle of a stage; say whether it came in time.

    Args:
        run: the running pipeline.
        name: of the stage.
        sign: the signal.
        target: "stage", "group" (with dvc, as Ctrl-C or a closing terminal does), or "dvc" alone.
        moment: seconds after the stage's start; None is when it has begun to write a file.
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


def settle(run: Repro, folder: Path, name: str) -> None:
    """Let what was killed come to its end; a stage that outlived dvc is named to whoever starts it once more."""
    orphans = [p for p in run.members() if p.pid != run.dvc.pid] if run.dvc.poll() is not None else []
    if orphans:
        again, variables = ["dvc", "repro", name], checkout.environment()
        done = subprocess.run(again, cwd=folder, capture_output=True, text=True, env=variables)
        if done.returncode:
            line = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
            assert any(f"process {orphan.pid} (python -m stages." in line for orphan in orphans), done.stderr
            assert "Traceback" not in done.stderr
    run.wait()


def check(folder: Path, undisturbed: Undisturbed) -> None:
    """The next `dvc repro` succeeds, everything is as if nothing had happened, and nothing is left over."""
    call(folder, "dvc", "repro")
    found, expected = checkout.artefacts(folder), undisturbed.artefacts
    assert {name for name in found | expected if found.get(name) != expected.get(name)} == set()
    assert checkout.drafts(folder) == []
    left = [path for path in (folder / ".lrec").rglob("*") if path.is_file() and path.name != "lock"]
    assert left == []
    assert [line for line in call(folder, "git", "status", "--porcelain").splitlines() if line.startswith("??")] == []


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / checkout.PROJECT
    shutil.rmtree(tmp_path)


def test_killed_once_in_every_stage(undisturbed: Undisturbed, work: Path):
    """One run from the start to the end, killed in each stage and started again."""
    shutil.copytree(undisturbed.before["preprocess@tiny"], work, symlinks=True)
    ways = [
        (signal.SIGKILL, "group", None),
        (signal.SIGTERM, "stage", 0.4),
        (signal.SIGKILL, "dvc", None),
        (signal.SIGINT, "group", None),
        (signal.SIGKILL, "stage", None),
        (signal.SIGKILL, "group", None),
    ]
    for (name, seconds), (sign, target, share) in zip(undisturbed.seconds.items(), ways, strict=True):
        run = Repro(work)
        assert kill(run, name, sign, target, None if share is None else share * seconds), run.output()
        settle(run, work, name)
    check(work, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("number", range(len(SIGNALS) * len(TARGETS)))
def test_killed_anywhere(undisturbed: Undisturbed, work: Path, name: str, number: int):
    """Nine times in each of the six stages: every signal to every target, at a random moment or while it writes."""
    sign, target = SIGNALS[number % 3], TARGETS[number // 3]
    moment = random.Random(f"{name} {number}").random() * undisturbed.seconds[name]
    for attempt in range(4):
        shutil.copytree(undisturbed.before[name], work, symlinks=True)
        run = Repro(work)
        if kill(run, name, sign, target, moment * 0.7**attempt if attempt or number % 2 else None):
            break
        run.wait()
        shutil.rmtree(work)
    else:
        pytest.fail("the stage was never hit")
    settle(run, work, name)
    check(work, undisturbed)
