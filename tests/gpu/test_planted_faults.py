"""Faults of the kinds that a GPU punishes, planted one by one: the stand-in notices each of them."""

import contextlib
from collections.abc import Callable

import checked_device
import numpy as np
import pytest
import torch
from test_retrieval_on_gpu import classes
from test_training_on_gpu import ON_GPU, train

from lrec.compute import device, transfer
from lrec.data import batches
from lrec.data.batches import Images
from lrec.data.store import Store
from lrec.embedding import extract
from lrec.metrics import blocks
from lrec.metrics.recall import recall_at_k
from lrec.metrics.similarity import Rows
from lrec.model.ensemble import Ensemble
from lrec.training import augment, checkpoint, losses, step, validation
from lrec.training.recipe import Recipe
from lrec.training.step import Trainer

pytestmark = pytest.mark.slow  # it tests the stand-in

GPU = checked_device.NAME
Patch = pytest.MonkeyPatch


def on_cpu(values, device):
    """In the place of `to_device`: leave the values where they are."""
    return torch.from_numpy(values) if isinstance(values, np.ndarray) else values


def run_training(packed: Store, **options) -> None:
    train(packed, ON_GPU, random_crop=0.5, **options)


def run_validation(packed: Store) -> None:
    rows, labels = classes(40, 4, 8)
    validation.recall_at_1(torch.from_numpy(rows).to(GPU), torch.from_numpy(labels))


def run_resumed(packed: Store) -> None:
    trainer = Trainer(Ensemble("resnet18", 1, 3), Recipe(epochs=1), GPU)
    tensors = {
        f"{number}.{field}": torch.zeros(() if field == "step" else value.shape)
        for number, value in enumerate(trainer.optimizers["0"].param_groups[0]["params"])
        for field in ("step", "exp_avg", "exp_avg_sq")
    }
    checkpoint._restore(trainer.optimizers["0"], tensors)
    trainer.step(torch.zeros(2, 3, 32, 32, device=GPU), torch.zeros(1, 2, dtype=torch.int64, device=GPU))


def run_recall(packed: Store) -> None:
    recall_at_k(*classes(400, 4, 8), [1], device=GPU)


def run_extraction(packed: Store) -> np.ndarray:
    images = Images(packed.images, packed.rows("test"), **packed.normalization("dataset"))
    out = np.zeros((len(images), 6), np.float32)
    extract.extract(Ensemble("mobilenet_v2", 2, 3), images, out, extract.Options(batch_size=4, device=GPU))
    return out


def targets_stay_behind(patch: Patch) -> None:
    patch.setattr("lrec.training.loop.to_device", on_cpu)


def windows_stay_behind(patch: Patch) -> None:
    true = augment.crop
    patch.setattr(augment, "crop", lambda images, windows: true(images, windows.cpu()))


def flips_stay_behind(patch: Patch) -> None:
    true = batches.normalize
    patch.setattr(batches, "normalize", lambda *of: true(*of[:3], None if of[3] is None else of[3].cpu()))


def classes_stay_behind(patch: Patch) -> None:
    patch.setattr("lrec.metrics.recall.to_device", on_cpu)


def rows_stay_behind(patch: Patch) -> None:
    true = Rows.take
    patch.setattr(Rows, "take", lambda self, rows, dtype: true(self, rows, dtype).cpu())


def labels_stay_behind(patch: Patch) -> None:
    pass  # the caller's fault


def the_optimisers_count_stays_behind(patch: Patch) -> None:
    true = torch.optim.AdamW.load_state_dict

    def load(self, state):
        true(self, state)
        for value in self.state.values():
            value["step"] = torch.zeros(())

    patch.setattr(torch.optim.AdamW, "load_state_dict", load)


def a_branch_is_read(patch: Patch) -> None:
    patch.setattr(step, "right_ones", lambda *of: torch.tensor(float(losses.right_ones(*of))))


def embeddings_become_numpy_on_the_device(patch: Patch) -> None:
    patch.setattr(extract, "Reading", lambda values: type("Direct", (), {"get": lambda _: values})())


def another_gpu_is_the_current_one(patch: Patch) -> None:
    patch.setattr(torch.get_device_module(GPU), "device", lambda _: contextlib.nullcontext())


REFUSED: list[tuple[Callable[[Patch], None], Callable, str]] = [
    (targets_stay_behind, run_training, "on the device and on the CPU|on the CPU is indexed|index_copy"),
    (windows_stay_behind, run_training, "on the device and on the CPU"),
    (flips_stay_behind, run_training, "on the device and on the CPU|index_copy"),
    (classes_stay_behind, run_recall, "on the device and on the CPU|same device"),
    (rows_stay_behind, run_recall, "on the device and on the CPU"),
    (labels_stay_behind, run_validation, "on the device and on the CPU"),
    (the_optimisers_count_stays_behind, run_resumed, "_fused_adamw_.*: tensors on the device and on the CPU"),
    (
        a_branch_is_read,
        lambda packed: run_training(packed, epochs=2, cuda_graphs="auto"),
        "waits while a graph is recorded",
    ),
    (
        another_gpu_is_the_current_one,
        lambda packed: run_training(packed, epochs=2, cuda_graphs="auto"),
        "a graph is recorded while another device is the current one",
    ),
    (embeddings_become_numpy_on_the_device, run_extraction, "numpy of a tensor on the device"),
]


@pytest.mark.parametrize(("plant", "work", "message"), REFUSED, ids=[fault[0].__name__ for fault in REFUSED])
def test_it_is_refused(tiny_store: Store, gpu: checked_device.Log, monkeypatch: Patch, plant, work, message: str):
    plant(monkeypatch)
    with pytest.raises(RuntimeError, match=message):
        work(tiny_store)


def scale_is_sent_each_time(patch: Patch) -> None:
    patch.setattr(batches, "_scale_and_shift", batches._scale_and_shift.__wrapped__)


def memory_is_not_pinned(patch: Patch) -> None:
    patch.setattr(torch.Tensor, "pin_memory", lambda self: self)


def losses_are_read_at_once(patch: Patch) -> None:
    patch.setattr("lrec.training.state.Reading", lambda values: transfer.Reading(values.cpu()))
    true = Trainer.step
    patch.setattr(Trainer, "step", lambda *of: [(float(part.sum()), part)[1] for part in true(*of)])


def a_tiles_classes_are_read(patch: Patch) -> None:
    true = blocks.mask_same_class
    patch.setattr("lrec.metrics.counting.mask_same_class", lambda *of: bool(of[1].classes[-1] > 0) and true(*of))


def rows_are_indexed_from_the_cpu(patch: Patch) -> None:
    true = Rows.take
    index = lambda rows: torch.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows.cpu()  # noqa: E731
    patch.setattr(Rows, "take", lambda self, rows, dtype: true(self, index(rows), dtype))


SLOWED = [
    (scale_is_sent_each_time, run_training),
    (memory_is_not_pinned, run_training),
    (losses_are_read_at_once, run_training),
    (scale_is_sent_each_time, run_extraction),
    (a_tiles_classes_are_read, run_recall),
    (rows_are_indexed_from_the_cpu, run_recall),
]


@pytest.mark.parametrize(("plant", "work"), SLOWED, ids=[f"{plant.__name__}-{work.__name__}" for plant, work in SLOWED])
def test_its_waits_are_counted(tiny_store: Store, gpu: checked_device.Log, monkeypatch: Patch, plant, work):
    work(tiny_store)  # what is sent once is there
    gpu.clear()
    work(tiny_store)
    before = gpu.total
    gpu.clear()
    plant(monkeypatch)
    work(tiny_store)
    assert gpu.total > before


def test_figures_that_are_read_too_early_are_garbage(tiny_store: Store, gpu: checked_device.Log, monkeypatch: Patch):
    right = run_extraction(tiny_store)
    with monkeypatch.context() as patch:
        another_gpu_is_the_current_one(patch)
        np.testing.assert_array_equal(run_extraction(tiny_store), right)  # an event of the GPU that computes
        record = checked_device.Event.record
        patch.setattr(checked_device.Event, "record", lambda event, _: record(event))
        assert np.isnan(run_extraction(tiny_store)).any()
    monkeypatch.setattr(checked_device.Event, "synchronize", lambda _: None)
    assert np.isnan(run_extraction(tiny_store)).any()
    assert np.isfinite(right).all()
    with pytest.raises(ValueError, match="the loss is nan"):
        run_training(tiny_store)


def test_a_number_that_is_baked_into_a_graph_shows(gpu: checked_device.Log, monkeypatch: Patch):
    """The learning rate must lie on the device: a plain number would stay the one of the recording."""

    def steps() -> torch.Tensor:
        monkeypatch.setattr("lrec.training.graphs.WARM_UP", 0)
        trainer = Trainer(Ensemble("resnet18", 1, 3), Recipe(epochs=1), GPU)
        trainer.start_epoch()
        for rate in (1e-3, 0.0):
            trainer.set_learning_rate(rate)
            before = trainer.model.branches[0].classifier.weight.detach().cpu()
            with device.arithmetic(GPU, tf32=False, deterministic=False):
                trainer.step(torch.ones(2, 3, 32, 32, device=GPU), torch.zeros(1, 2, dtype=torch.int64, device=GPU))
        return trainer.model.branches[0].classifier.weight.detach().cpu() - before

    assert not steps().any()
    true = Trainer._optimizer

    def baked(self, part):
        self_recorder, self.recorder = self.recorder, None
        made = true(self, part)
        self.recorder = self_recorder
        return made

    monkeypatch.setattr(Trainer, "_optimizer", baked)
    assert steps().any()
