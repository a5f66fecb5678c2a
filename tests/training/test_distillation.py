"""A student's loss is what it lacks of its teacher's embeddings; a teacher sees the images as its own training did."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_training import Means, program
from torch import nn
from torch.nn.functional import normalize

from lrec.data.batches import Images
from lrec.data.store import Store
from lrec.embedding.graph import Embedding
from lrec.model.ensemble import Ensemble
from lrec.model.kinds import KINDS
from lrec.report import model_size
from lrec.training.distillation import Distillation, Teacher, start_heads
from lrec.training.loop import fit
from lrec.training.recipe import Recipe

SIZE = 32
OWN = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
OTHER = {"mean": [0.1, 0.2, 0.3], "std": [0.9, 0.8, 0.7]}


@given(st.integers(2, 6), st.integers(2, 5), st.integers(0, 99))
def test_the_loss_of_the_teachers_own_embeddings_is_zero_at_any_length(images: int, width: int, seed: int):
    wanted = normalize(torch.randn(images, width, generator=torch.Generator().manual_seed(seed)), dim=1)
    lengths = torch.arange(1, images + 1)[:, None]
    assert float(Distillation()(lengths * wanted, wanted)) == pytest.approx(0, abs=1e-5)


def test_the_loss_by_hand():
    wanted = torch.tensor([[1.0, 0], [0, 1]])
    found = torch.tensor([[2.0, 0], [3, 0]])  # cosines 1 and 0 to the teacher's; a similarity of 1 in place of 0
    assert float(Distillation()(found, wanted)) == pytest.approx(1 - 0.5 + 10 * 1)


def test_a_teacher_sees_the_images_as_its_own_training_did(tmp_path: Path):
    ensemble = Ensemble("resnet18", 2, 4).eval()
    path = program(Embedding(ensemble, OTHER, "features"), tmp_path)
    pixels = torch.randint(0, 256, (5, SIZE, SIZE, 3), dtype=torch.uint8)
    images = Images(pixels.numpy(), np.arange(5), **OWN)
    teacher = Teacher(path, SIZE, OWN)
    assert teacher.dimensions == 1024
    # thop, which counts for the report, counts normalisation too.
    assert teacher.macs == pytest.approx(model_size.count_macs("resnet18", 2, 4, SIZE), rel=0.02)
    with torch.no_grad():
        expected = ensemble.embed(Images(pixels.numpy(), np.arange(5), **OTHER).normalize(pixels), "features")
    torch.testing.assert_close(teacher(images.normalize(pixels)), expected, rtol=1e-3, atol=1e-5)


def test_any_program_can_teach_and_is_recorded(tmp_path: Path):
    teacher = Teacher(program(Means(), tmp_path), SIZE, OWN)
    images = torch.rand(3, 3, SIZE, SIZE)
    std, mean = (torch.tensor(OWN[key])[:, None, None] for key in ("std", "mean"))
    torch.testing.assert_close(teacher((images - mean) / std), normalize(images.mean((2, 3)), dim=1))
    name, digest = teacher.record.split()
    assert (name, len(digest)) == ("model.pt2", 16)


def test_a_file_that_is_absent_or_damaged_is_refused(tmp_path: Path):
    path = tmp_path / "model.pt2"
    with pytest.raises(
        FileNotFoundError, match=r"model\.pt2: not found.*; train\.teacher must be a file of torch\.exp"
    ):
        Teacher(path, SIZE, OWN)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"model\.pt2: does not embed images of 32 pixels \(.+\); export a network"):
        Teacher(path, SIZE, OWN)


def test_a_program_that_does_not_embed_such_images_is_refused(tmp_path: Path):
    path = program(nn.Flatten(), tmp_path)
    assert Teacher(path, SIZE, OWN).dimensions == 3 * SIZE**2
    with pytest.raises(ValueError, match=r"does not embed images of 64 pixels \(.+\); export a network"):
        Teacher(path, 64, OWN)
    path = program(nn.Identity(), tmp_path)
    with pytest.raises(ValueError, match=r"found an output \(2, 3, 32, 32\) of two images, expected \(2, n\) finite"):
        Teacher(path, SIZE, OWN)


def test_heads_start_where_the_loss_is_smallest(tiny_store: Store):
    """Wanted here is a linear map of the features, so a ridge regression finds it; heads at random do not."""
    student = Ensemble("resnet18", 2, 3)
    images = Images(tiny_store.images, tiny_store.rows("train"), **tiny_store.normalization("dataset"))
    batch = images.normalize(torch.from_numpy(tiny_store.images[images.rows]))
    wanted = torch.randn(512, 3, generator=torch.Generator().manual_seed(0))

    class Linear:
        dimensions = 3

        def __call__(self, batch):
            return KINDS["features"].output(student.branches[0], student.stem(batch)) @ wanted

    def lacking() -> list[float]:
        goal = normalize(Linear()(batch), dim=1)
        return [float(Distillation()(outputs, goal)) for outputs in student(batch).unbind(1)]

    student.eval()
    with torch.no_grad():
        before = lacking()
        start_heads(student, Linear(), images, batch_size=7, device="cpu")
        first, second = lacking()
    assert before[0] > 0.1
    assert first < 0.01 * before[0]
    assert second < before[1]


def test_a_student_comes_closer_to_its_teacher(tiny_store: Store, tmp_path: Path):
    rows = tiny_store.rows("train")
    normalization = tiny_store.normalization("dataset")
    size = tiny_store.images.shape[1]
    torch.manual_seed(1)
    network = Embedding(Ensemble("resnet18", 2, 8), normalization)
    teacher = Teacher(program(network, tmp_path, size), size, normalization)
    student = Ensemble("resnet18", 2, teacher.dimensions)
    images = Images(tiny_store.images, rows, **normalization)
    targets = np.stack([tiny_store.labels(rows)] * 2)
    recipe = Recipe(epochs=6, batch_size=15, learning_rate=1e-3, milestones=(), loss="distillation")
    history = fit(student, images, targets, recipe, teacher=teacher)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] / 2
    start = copy.deepcopy(student.state_dict())
    assert fit(student, images, targets, replace(recipe, epochs=0), teacher=teacher).empty
    assert all(torch.equal(start[name], value) for name, value in student.state_dict().items())
