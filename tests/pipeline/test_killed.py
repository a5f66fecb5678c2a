"""`dvc repro` is killed, at random moments in every stage; the next one ends with the bytes of an undisturbed run."""

import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import checkout
import pytest
from checkout import TINY, call
from running import Repro, Undisturbed, kill

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = ("stage", "group", "dvc")


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
def place(tmp_path: Path) -> Iterator[Path]:
    """Where a copy of the project goes."""
    yield tmp_path / checkout.PROJECT
    shutil.rmtree(tmp_path)


WAYS = [  # of each stage in order: the signal, its target, and when, as a share of the stage's time; None as it writes
    (signal.SIGKILL, "group", None),
    (signal.SIGTERM, "stage", 0.4),
    (signal.SIGKILL, "dvc", None),
    (signal.SIGINT, "group", None),
    (signal.SIGKILL, "stage", None),
    (signal.SIGKILL, "group", None),
]


@pytest.mark.parametrize(
    "chosen",
    [pytest.param(range(6), marks=pytest.mark.slow, id="every"), pytest.param(range(2, 3), id="train")],
)
def test_killed_once_in_a_stage(undisturbed: Undisturbed, place: Path, chosen: range):
    """One run to the end, killed in each of the chosen stages and started again."""
    stages = list(undisturbed.seconds.items())[chosen.start : chosen.stop]
    shutil.copytree(undisturbed.before[stages[0][0]], place, symlinks=True)
    for (name, seconds), (sign, target, share) in zip(stages, WAYS[chosen.start : chosen.stop], strict=True):
        for attempt in range(5):
            run = Repro(place)
            if kill(run, name, sign, target, share * seconds * 0.6**attempt if share else None):
                break
            # The stage was over before its moment: once more, earlier.
            run.wait()
            shutil.rmtree(place)
            shutil.copytree(undisturbed.before[name], place, symlinks=True)
            share = share or 0.9
        else:
            pytest.fail(f"{name} was never hit: {run.output()}")
        settle(run, place, name)
    check(place, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("number", range(len(SIGNALS) * len(TARGETS)))
def test_killed_anywhere(undisturbed: Undisturbed, place: Path, name: str, number: int):
    """Nine times in each of the six stages: every signal to every target, at a random moment or while it writes."""
    sign, target = SIGNALS[number % 3], TARGETS[number // 3]
    moment = random.Random(f"{name} {number}").random() * undisturbed.seconds[name]
    for attempt in range(4):
        shutil.copytree(undisturbed.before[name], place, symlinks=True)
        run = Repro(place)
        if kill(run, name, sign, target, moment * 0.7**attempt if attempt or number % 2 else None):
            break
        run.wait()
        shutil.rmtree(place)
    else:
        pytest.fail("the stage was never hit")
    settle(run, place, name)
    check(place, undisturbed)
