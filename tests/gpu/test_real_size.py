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
# Every branch is like the second one, so that few show what many would; 48 of each take two minutes.
SIZES = [
    *(pytest.param(backbone, 2 if number else M) for number, backbone in enumerate(BACKBONES)),
    *(pytest.param(backbone, M, marks=pytest.mark.slow) for backbone in list(BACKBONES)[1:]),
]


@pytest.mark.parametrize(("backbone", "branches"), SIZES)
def test_a_step(monkeypatch: pytest.MonkeyPatch, backbone: str, branches: int):
    checked_device.register()
    monkeypatch.setattr("lrec.compute.device._GPUS", {checked_device.NAME})
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)  # it is made where it belongs
    # Without numbers torch.tensor makes none on this device; batch norms count their batches from this one.
    monkeypatch.setattr(torch, "tensor", lambda data, dtype=None, **_: torch.full((), data, dtype=dtype))
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, **_: tensor)  # draws until numbers are in range
    with FakeTensorMode(), torch.device(checked_device.NAME, 0):
        trainer = Trainer(
            Ensemble(backbone, branches, 12), Recipe(epochs=1, cuda_graphs="off"), f"{checked_device.NAME}:0"
        )
        trainer.start_epoch()
        trainer.set_learning_rate(1e-4)
        images = torch.empty(BATCH, 3, SIDE, SIDE)
        figures = trainer.step(images, torch.zeros(branches, BATCH, dtype=torch.int64))
    assert [(part.shape, part.device.type) for part in figures] == 2 * [((branches,), checked_device.NAME)]
