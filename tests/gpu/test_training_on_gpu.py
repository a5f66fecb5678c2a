"""Training on a device that has CUDA's rules: every option, the CPU's numbers, and at most one wait per step."""

from pathlib import Path

import checked_device
import pytest
import torch
from small_training import Means, program

from lrec.compute import device
from lrec.data import meta_classes
from lrec.data.batches import Images
from lrec.data.store import Store
from lrec.model.classifiers import Classifier
from lrec.model.ensemble import Ensemble
from lrec.training import validation
from lrec.training.checkpoint import Checkpoint
from lrec.training.distillation import Teacher
from lrec.training.graphs import WARM_UP
from lrec.training.loop import Machine, fit
from lrec.training.recipe import Recipe
from lrec.training.step import Trainer

ON_CPU, ON_GPU = Machine(), Machine(checked_device.NAME)
EAGER = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "cuda_graphs": "off"}
# Of all of these the channels lie last on either device.
BACKBONE = "mobilenet_v2"
OPTIONS = {
    "none": {},
    "crop, label smoothing, weight decay": {"random_crop": 0.5, "label_smoothing": 0.1, "weight_decay": 0.1},
    "accumulation, frozen batch norm": {"accumulate": 2, "freeze_batch_norm": True, "flip": False},
    "validation, cosine classifier": {"validation_share": 0.3, "classifier": "cosine"},
    "distillation": {"loss": "distillation"},
    "metric learning": {"loss": "norm_softmax", "images_per_class": 2, "schedule": "cosine", "warmup_epochs": 0.5},
}


def train(packed: Store, machine: Machine, checkpoint: Checkpoint | None = None, **options):
    chosen = EAGER | options
    recipe = Recipe.of(chosen, chosen.pop("epochs"))
    rows = packed.rows("train")
    labels = packed.labels(rows)
    images = Images(packed.images, rows, **packed.normalization("dataset"))
    out = validation.hold_out(labels, float(options.get("validation_share", 0)), 0)
    held = validation.Held(images.some(out), labels[out]) if out.any() else None
    groups = meta_classes.assign(6, 3, 2, 0)[:, labels[~out]]
    model = Ensemble(BACKBONE, 2, 3, classifier=Classifier(options.get("classifier", "linear")))
    more = {"held": held, "machine": machine, "checkpoint": checkpoint}
    if taught_by := chosen.get("program"):
        size = packed.images.shape[1]
        more["teacher"] = Teacher(taught_by, size, packed.normalization("dataset"), machine.device)
    with device.arithmetic(machine.device, tf32=False, deterministic=False):
        history = fit(model, images.some(~out), groups, recipe, **more)
    return {key: value.detach().cpu() for key, value in model.state_dict().items()}, history


def require_same(found, expected) -> None:
    assert found[1].equals(expected[1])
    assert [key for key, value in expected[0].items() if not torch.equal(found[0][key], value)] == []


@pytest.mark.parametrize("name", OPTIONS)
def test_numbers_are_the_cpus(tiny_store: Store, gpu: checked_device.Log, tmp_path: Path, name: str):
    options = OPTIONS[name]
    if name == "metric learning":
        pytest.importorskip("pytorch_metric_learning", reason="an optional dependency: requirements-extra.txt")
    if name == "distillation":
        options = options | {"program": program(Means(), tmp_path)}
    require_same(train(tiny_store, ON_GPU, **options), train(tiny_store, ON_CPU, **options))


@pytest.mark.parametrize("name", list(OPTIONS)[:3])
def test_a_step_waits_once(tiny_store: Store, gpu: checked_device.Log, name: str):
    counts = []
    for epochs in (1, 2):
        gpu.clear()
        train(tiny_store, ON_GPU, **OPTIONS[name], cuda_graphs="auto", epochs=epochs)
        counts.append(gpu.total)
    steps = 4  # of an epoch: three batches of 8 and one of 6
    assert counts[1] - counts[0] == steps, gpu.waits


def test_validation_waits_a_few_times_whatever_the_number_of_batches(tiny_store: Store, gpu: checked_device.Log):
    """Once for the classes and once for the recall; scale and shift were sent by the first."""
    labels = tiny_store.labels(tiny_store.rows("train"))
    images = Images(tiny_store.images, tiny_store.rows("train"), **tiny_store.normalization("dataset"))
    model = Ensemble(BACKBONE, 2, 3).to(checked_device.NAME)
    counts = []
    for batch_size in (30, 30, 10, 2):
        gpu.clear()
        recipe = Recipe(epochs=1, batch_size=batch_size)
        validation.measure(model, validation.Held(images, labels), recipe, checked_device.NAME)
        counts.append(gpu.total)
    assert counts[1:] == [2, 2, 2], gpu.waits


def test_steps_are_recorded_and_the_odd_batch_is_not(tiny_store: Store, gpu: checked_device.Log):
    train(tiny_store, ON_GPU)
    assert gpu.replays == 0
    train(tiny_store, ON_GPU, cuda_graphs="auto", epochs=2)
    assert gpu.replays == 2 * (2 * 3 - WARM_UP)


@pytest.mark.parametrize("share", ["none", "layer1"])
def test_a_recorded_step_gives_the_bytes_of_an_eager_one(
    gpu: checked_device.Log, monkeypatch: pytest.MonkeyPatch, share: str
):
    def steps(warm_up: int) -> list[torch.Tensor]:
        monkeypatch.setattr("lrec.training.graphs.WARM_UP", warm_up)
        trainer = Trainer(Ensemble("resnet18", 2, 3, share=share), Recipe(epochs=1), checked_device.NAME)
        trainer.start_epoch()
        trainer.set_learning_rate(1e-3)
        generator = torch.Generator().manual_seed(0)
        found = []
        for number in range(5):
            trainer.set_learning_rate(1e-3 / (1 + number))
            images = torch.randn(4, 3, 32, 32, generator=generator).to(checked_device.NAME)
            found += trainer.step(images, torch.randint(0, 3, (2, 4), generator=generator).to(checked_device.NAME))
        return [*(value.cpu() for value in found), *(value.cpu() for value in trainer.model.state_dict().values())]

    with device.arithmetic(checked_device.NAME, tf32=False, deterministic=False):
        eager, recorded = steps(99), steps(2)
    assert gpu.replays == 2 * 3
    assert all(torch.equal(one, other) for one, other in zip(eager, recorded, strict=True))


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"cuda_graphs": "off"}, {"loss": "norm_softmax"}])
def test_steps_that_cannot_be_recorded_are_not(gpu: checked_device.Log, options: dict):
    if "loss" in options:
        pytest.importorskip("pytorch_metric_learning", reason="an optional dependency: requirements-extra.txt")
    assert Trainer(Ensemble(BACKBONE, 1, 3), Recipe(epochs=1, **options), checked_device.NAME).recorder is None
    assert Trainer(Ensemble(BACKBONE, 1, 3), Recipe(epochs=1)).recorder is None


@pytest.mark.parametrize("graphs", [pytest.param("off", marks=pytest.mark.slow), "auto"])
def test_killed_and_resumed(
    tiny_store: Store, gpu: checked_device.Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graphs: str
):
    options = {"cuda_graphs": graphs, "epochs": 2, "random_crop": 0.5}
    undisturbed = train(tiny_store, ON_GPU, Checkpoint(tmp_path / "a" / "whole", 60), **options)
    saves = []
    true = Checkpoint.save

    def killed(*arguments, **named) -> None:
        true(*arguments, **named)
        saves.append(arguments)
        if len(saves) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", killed)
        patch.setattr(Checkpoint, "due", lambda _: True)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_store, ON_GPU, Checkpoint(tmp_path / "b" / "cut", 60), **options)
    require_same(train(tiny_store, ON_GPU, Checkpoint(tmp_path / "b" / "cut", 60), **options), undisturbed)


def test_a_loss_that_is_not_finite_is_named(tiny_store: Store, gpu: checked_device.Log):
    with pytest.raises(ValueError, match=r"the loss is nan in epoch 1, step \d, branch \d"):
        train(tiny_store, ON_GPU, learning_rate=1e30)
