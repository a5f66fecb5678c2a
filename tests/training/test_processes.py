"""Several processes train one ensemble: the numbers of one process, whatever their number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from lrec.compute import collective, device
from lrec.model.ensemble import Ensemble
from lrec.report import model_size
from lrec.training.losses import LOSSES
from lrec.training.recipe import Recipe
from lrec.training.step import Trainer

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


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(device, "_run_kernel", lambda _: None)
    assert [collective.device(name) for name in ("auto", "cpu", "cuda", "cuda:1")] == ["cpu", "cpu", "cuda", "cuda:1"]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1", "RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    assert [collective.device(name) for name in ("auto", "cpu", "cuda")] == ["cpu", "cpu", "cuda:1"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert collective.device("auto") == "cuda:1"
    with pytest.raises(ValueError, match=r"found 2 on this machine for 1 GPU \(cuda:1\)"):
        collective.device("cuda:1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"machine\.processes: found 3 on this machine for 2 GPU"):
        collective.device("cuda")
