"""The stage train in several processes: the end of one ends the others, is said clearly, and costs no work."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from lrec import paths
from lrec.data import meta_classes
from lrec.data.store import Store
from lrec.io import locks
from lrec.model import saved
from stages import train


@pytest.fixture
def project(tiny_store: Store, tmp_path: Path, root: Path) -> Path:
    """A project whose variant `tiny` is packed and grouped, with three branches."""
    settings = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    settings["datasets"] = ["tiny"]
    settings["machine"]["checkpoint_minutes"] = 1e-6
    variant = {"image_size": 32, "ensemble_size": 3, "meta_class_size": 3, "epochs": 6}
    variant["train"] = {"weights": "none", "batch_size": 8, "learning_rate": 0.001, "flip": False}
    settings["variants"] = {"tiny": settings["variants"]["glyphs"] | variant}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    target = tmp_path / paths.store("tiny")
    target.parent.mkdir(parents=True)
    shutil.move(tmp_path / "store", target)
    groups = meta_classes.assign(6, 3, 3, 0)
    meta_classes.write(tmp_path / paths.meta_classes("tiny"), [f"class {number}" for number in range(6)], groups)
    return tmp_path


def override(project: Path, **values) -> None:
    """Change keys of the section machine."""
    settings = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    settings["machine"] |= values
    (project / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def stage(project: Path) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-m", "stages.train", "tiny", "resnet18"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(project: Path) -> tuple[str, str]:
    with stage(project) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return out, err


def workers(project: Path) -> dict[int, int]:
    """Return the process numbers of a training's ranks that run in this project, by rank."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = dict(part.split("=", 1) for part in (entry / "environ").read_text().split("\0") if "=" in part)
            if (entry / "cwd").resolve() == project and "RANK" in variables:
                found[int(variables["RANK"])] = int(entry.name)
        except OSError:
            continue
    return found


def checkpoints(project: Path) -> list[Path]:
    return sorted((project / paths.unfinished("train", "tiny", "resnet18")).glob("*/*/progress.json"))


def stopped(project: Path, stop: Callable[[subprocess.Popen], None]) -> tuple[int, str]:
    """Train in two processes and stop them after the first checkpoint; return the exit status and standard error."""
    override(project, processes=2)
    with stage(project) as process:
        while not checkpoints(project):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        stop(process)
        _, err = process.communicate(timeout=120)
    return process.returncode, err


def lose_one(project: Path) -> tuple[int, str]:
    """Kill the second of two processes."""
    return stopped(project, lambda _: os.kill(workers(project)[1], signal.SIGKILL))


@pytest.mark.slow  # below, the first process ends
def test_a_lost_process_ends_the_run(project: Path):
    status, err = lose_one(project)
    assert status == 1
    last = err.strip().splitlines()[-1]
    assert re.fullmatch(r"error: process 1 of 2 was lost \(SIGKILL\); the others were terminated; .*: run again", last)
    assert "Traceback" not in err
    progress = json.loads(checkpoints(project)[-1].read_text())
    assert (progress["epoch"], progress["step"]) > (0, 0)


@pytest.mark.slow
def test_another_number_of_processes_resumes(project: Path):
    lose_one(project)
    override(project, processes=3, checkpoint_minutes=1000)
    out, _ = finish(project)
    assert "resuming from a checkpoint: epoch" in out
    assert "in 3 processes, ensemble parallel" in out
    assert re.search(r"3 processes, ensemble parallel: 0\.63 MB of gradients added up per step", out)
    assert not checkpoints(project)
    ensemble, _ = saved.load(project / paths.model("tiny", "resnet18"))
    assert ensemble.own == range(3)


@pytest.mark.parametrize(
    ("sign", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, -signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_the_end_of_the_first_process_ends_the_others(project: Path, sign: signal.Signals, status: int):
    found, err = stopped(project, lambda process: process.send_signal(sign))
    assert found == status, err[-3000:]
    assert "Traceback" not in err
    assert workers(project) == {}


@pytest.mark.slow
def test_two_processes_reach_what_one_reaches(project: Path):
    """Float noise apart, which six epochs from a random start make larger."""
    finish(project)
    alone = np.loadtxt(project / paths.history("tiny", "resnet18"), delimiter=",", skiprows=1)
    override(project, processes=2)
    finish(project)
    both = np.loadtxt(project / paths.history("tiny", "resnet18"), delimiter=",", skiprows=1)
    np.testing.assert_allclose(both[0, :3], alone[0, :3], rtol=1e-2)
    assert abs(both[0, 3] - alone[0, 3]) < 2.5 / 90  # of 30 images in three branches, two may fall on the other side
    assert both[-1, 2] < 0.7 * both[0, 2]


def test_more_processes_than_branches(project: Path, monkeypatch: pytest.MonkeyPatch):
    """What the last of four processes finds; tests/compute/test_collective.py ends a job by the error of one."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    for name, value in {"WORLD_SIZE": "4", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ValueError, match=r"machine\.processes: found 4, expected at most 3, one per branch; lower it, or set"
    ):
        train.main("tiny", "resnet18")


def test_a_second_training_of_the_same_work_is_kept_out(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project)
    with (
        locks.held([paths.unfinished("train", "tiny", "resnet18")]),
        pytest.raises(ValueError, match=rf"process {os.getpid()} \(python "),
    ):
        train.main("tiny", "resnet18")
