"""One step at the original's size, of every backbone, on tensors without numbers: shapes and devices fit."""

import checked_device
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lrec.model.backbones import BACKBONES
from lrec.model.ensemble import Ensemble
from lrec.training.recipe import Recipe
from lrec.training.step import Trainer

M, BATCH, SIDE = 48, 128, 256


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_of_48_branches(monkeypatch: pytest.MonkeyPatch, backbone: str):
    checked_device.register()
    monkeypatch.setattr("lrec.compute.device._GPUS", {checked_device.NAME})
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)  # it is made where it belongs
    # Without numbers torch.tensor makes none on this device; batch norms count their batches from this one.
    monkeypatch.setattr(torch, "tensor", lambda data, dtype=None, **_: torch.full((), data, dtype=dtype))
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, **_: tensor)  # draws until numbers are in range
    with FakeTensorMode(), torch.device(checked_device.NAME, 0):
        trainer = Trainer(Ensemble(backbone, M, 12), Recipe(epochs=1, cuda_graphs="off"), f"{checked_device.NAME}:0")
        trainer.start_epoch()
        trainer.set_learning_rate(1e-4)
        images = torch.empty(BATCH, 3, SIDE, SIDE)
        figures = trainer.step(images, torch.zeros(M, BATCH, dtype=torch.int64))
    assert [(part.shape, part.device.type) for part in figures] == 2 * [((M,), checked_device.NAME)]
