"""Several processes train one ensemble: the numbers of one process, whatever their number, and losses said clearly."""

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
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from lrec import paths
from lrec.compute import collective
from lrec.data import meta_classes
from lrec.data.store import Store
from lrec.io import locks
from lrec.model import saved
from lrec.model.ensemble import Ensemble
from lrec.report import model_size
from lrec.training.losses import LOSSES
from lrec.training.recipe import Recipe
from lrec.training.step import Trainer
from stages import train

PROGRAM = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from lrec.compute import collective
from lrec.model.ensemble import Ensemble
from lrec.training.loop import _own
from lrec.training.step import collect
from test_processes import BATCHES, COMPARED, learned, trainer_of
folder = Path(sys.argv[1])
data = load_file(folder / "data.safetensors")

def train(parallel, loss):
    own = collective.shard(3) if parallel == "ensemble" else None
    ensemble = Ensemble("resnet18", 3, 4, own=own).double()
    trainer = trainer_of(ensemble, parallel, loss)
    losses = []
    for size, images, targets in zip(BATCHES, data["images"], data["targets"]):
        part = _own(size, parallel)
        losses.append(trainer.step(images[part.start:part.stop], targets[:, :size], own=part))
    if parallel == "ensemble":
        collect(ensemble)
    if collective.rank() == 0:
        state = {key: value.contiguous() for key, value in (ensemble.state_dict() | learned(trainer, parallel)).items()}
        state["losses"] = torch.stack([loss for loss, _ in losses])
        state["right"] = torch.stack([right for _, right in losses])
        state["sent"] = torch.tensor([trainer.sent / trainer.steps])
        save_file(state, folder / f"{parallel} {loss}.safetensors")

with collective.together():
    train("ensemble", "cross_entropy")
    for loss in COMPARED:
        train("data", loss)
"""
BATCHES = (6, 6, 6, 3)  # of the last, each of two processes takes all
COMPARED = [name for name in LOSSES if name != "norm_softmax"]  # of which cross entropy and proxies have each part


def trainer_of(ensemble: Ensemble, parallel: str, loss: str) -> Trainer:
    """Return the trainer of a job of any number of processes, for its first step."""
    frozen = parallel == "data"  # so that the images of a batch do not see each other
    recipe = Recipe(epochs=1, parallel=parallel, loss=loss, freeze_batch_norm=frozen, accumulate=2)
    trainer = Trainer(ensemble, recipe, classes=4, teacher=_mean_colours if LOSSES[loss].taught else None)
    trainer.losses.double()
    trainer.set_learning_rate(1e-3)
    trainer.start_epoch()
    return trainer


def learned(trainer: Trainer, parallel: str) -> dict[str, torch.Tensor]:
    """Return what the losses have learned, and Adam's mean gradients: its steps do not show a gradient's scale."""
    parts = ("stem", "0", "loss.0") if parallel == "data" else ("stem", "0")
    states = [(part, trainer.optimizers[part].state.values()) for part in parts if part in trainer.optimizers]
    means = {f"mean.{part}.{n}": state["exp_avg"] for part, found in states for n, state in enumerate(found)}
    return means | {f"loss.{key}": value for key, value in trainer.losses.state_dict().items() if parallel == "data"}


def _mean_colours(images: torch.Tensor) -> torch.Tensor:
    return normalize(images.mean((2, 3)) @ torch.eye(3, 4).double())


def torchrun(processes: int, *arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (Path.cwd(), tests / "training", tests / "support")))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a job of two processes trains in two ways; in float64, where Adam does not enlarge rounding errors."""
    folder = tmp_path_factory.mktemp("both")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 6, 3, 32, 32, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 4, (4, 3, 6), generator=generator)
    save_file({"images": images, "targets": targets}, folder / "data.safetensors")
    (folder / "program.py").write_text(PROGRAM)
    done = torchrun(2, str(folder / "program.py"), str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize(("parallel", "loss"), [("ensemble", "cross_entropy"), *(("data", loss) for loss in COMPARED)])
def test_two_processes_equal_one(both: Path, parallel: str, loss: str):
    """Three branches on two processes; several losses compare all images of a batch."""
    data, found = load_file(both / "data.safetensors"), load_file(both / f"{parallel} {loss}.safetensors")
    alone = Ensemble("resnet18", 3, 4).double()
    trainer = trainer_of(alone, parallel, loss)
    for number, (size, images, targets) in enumerate(zip(BATCHES, data["images"], data["targets"], strict=True)):
        losses, right = trainer.step(images[:size], targets[:, :size])
        torch.testing.assert_close(found["losses"][number], losses, rtol=1e-9, atol=1e-12)
        assert torch.equal(found["right"][number], right)
    for key, value in (alone.state_dict() | learned(trainer, parallel)).items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-9, msg=key)
    stem = sum(value.numel() for value in alone.stem.parameters())
    whole = sum(value.numel() for value in [*alone.parameters(), *trainer.losses.parameters()])
    assert found["sent"].item() == 8 * (stem if parallel == "ensemble" else whole)


def test_what_the_papers_ensemble_sends():
    """The gradients added up per step: 0.6 MB of the stem's, where data parallel adds up 2.1 GB."""
    whole = model_size.count_parameters("resnet18", 48, 12)
    branch = model_size.count_parameters("resnet18", 2, 12) - model_size.count_parameters("resnet18", 1, 12)
    assert round(4 * (whole - 48 * branch) / 1e6, 2) == 0.63
    assert round(4 * whole / 1e9, 2) == 2.12


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


RESUMED = """
import sys
from pathlib import Path
import numpy as np
from lrec.compute import collective
from lrec.data.batches import Images
from lrec.model.ensemble import Ensemble
from lrec.training.checkpoint import Checkpoint
from lrec.training.loop import fit
from lrec.training.recipe import Recipe
from small_training import interrupted
pixels = np.random.default_rng(0).integers(0, 256, (19, 32, 32, 3), dtype=np.uint8)
images = Images(pixels, np.arange(19), [0.5] * 3, [0.25] * 3)
targets = np.stack([np.arange(19) % 3, np.arange(19) // 7])
recipe = Recipe(epochs=1, batch_size=8, parallel="data", freeze_batch_norm=True)
with collective.together():
    checkpoint = Checkpoint(Path(sys.argv[1], "checkpoints", "a"), 1e-9)
    if collective.count() == 1:
        with interrupted(2):
            fit(Ensemble("resnet18", 2, 3), images, targets, recipe, checkpoint=checkpoint)
        checkpoint = None
    history = fit(Ensemble("resnet18", 2, 3), images, targets, recipe, checkpoint=checkpoint)
    if collective.rank() == 0:
        print(history.to_json(orient="records"))
"""


def test_data_parallel_resumes_with_another_number_of_processes(tmp_path: Path):
    """Of 19 images in batches of 8, the last three, too few to share, are left."""
    script = tmp_path / "program.py"
    script.write_text(RESUMED)

    def job(processes: int) -> list[str]:
        done = torchrun(processes, str(script), str(tmp_path))
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.splitlines()

    (alone,) = json.loads(job(1)[-1])  # after it was interrupted, from the start
    said = job(2)
    assert said[0] == "resuming from a checkpoint: epoch 1, step 3"
    (resumed,) = json.loads(next(line for line in said if line.startswith("[")))
    assert resumed["accuracy"] == alone["accuracy"]
    assert resumed["loss"] == pytest.approx(alone["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("sign", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, -signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_the_end_of_the_first_process_ends_the_others(project: Path, sign: signal.Signals, status: int):
    found, err = stopped(project, lambda process: process.send_signal(sign))
    assert found == status, err[-3000:]
    assert "Traceback" not in err
    assert workers(project) == {}


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [collective.device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1", "RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    assert [collective.device(name) for name in ("cpu", "cuda")] == ["cpu", "cuda:1"]
    with pytest.raises(ValueError, match=r"found 2 on this machine for 1 GPU \(cuda:1\)"):
        collective.device("cuda:1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"machine\.processes: found 3 on this machine for 2 GPU"):
        collective.device("cuda")


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
