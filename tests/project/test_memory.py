"""Activations of branch-wise backpropagation are those of the stem and one branch, whatever M is."""

import re
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks import memory
from lrec.model.ensemble import Ensemble
from lrec.report import model_size
from lrec.training.recipe import Recipe
from lrec.training.step import Trainer


def branch_wise_peak(branches: int, images: torch.Tensor) -> int:
    ensemble = Ensemble("resnet18", branches, 12)
    trainer = Trainer(ensemble, Recipe(epochs=1))
    trainer.start_epoch()
    with memory.Activations(ensemble) as saved:
        trainer.step(images, torch.zeros(branches, len(images), dtype=torch.int64))
    assert saved.now == 0
    return saved.peak


def test_activations_do_not_grow_with_the_ensemble():
    images = torch.randn(4, 3, 64, 64)
    one, three = branch_wise_peak(1, images), branch_wise_peak(3, images)
    assert three - one == 2 * 4 * 8  # the meta classes of two more branches
    baseline = Ensemble("resnet18", 3, 12).train()
    with memory.Activations(baseline) as saved:
        logits = baseline(images)
        cross_entropy(logits.flatten(0, 1), torch.zeros(12, dtype=torch.int64)).backward()
    first, more = memory.activations("resnet18", 4, 64)
    assert saved.peak == pytest.approx(first + 2 * more, rel=0.01)
    assert one == pytest.approx(first, rel=0.01)


def test_resnet50_of_the_original_fits_16_gb():
    cells = [float(cell) for cell in re.split(r"[|/]", memory.row("resnet50", 48, 10, 256))[3:-1]]
    weights, adam, _, gradients, _, activations, baseline, branch_wise = cells
    assert weights == round(4 * model_size.count_parameters("resnet50", 48, 12) / 1e9, 2)
    assert branch_wise == pytest.approx(weights + adam + gradients + activations, abs=0.03)
    assert branch_wise < 16 < 32 < baseline


def test_the_pages_table_is_what_the_command_prints(root: Path):
    page = (root / "docs/training.md").read_text(encoding="utf-8")
    for backbone in memory.BACKBONES:
        assert memory.row(backbone, 48, 10, 256) in page
