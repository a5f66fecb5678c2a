"""What docs/extending.md adds to each registry works as written."""

import math
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from lrec.datasets import reader
from lrec.evaluation import result
from lrec.model import backbones, kinds
from lrec.model.ensemble import Ensemble
from lrec.training import losses


@pytest.fixture
def blocks(root: Path) -> dict[str, list[str]]:
    """The blocks of Python of each section."""
    sections = re.split(r"^## ", (root / "docs/extending.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {text.partition("\n")[0]: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for text in sections}


def entry(module: ModuleType, block: str, **names: object) -> dict:
    return eval(f"{{{block}}}", vars(module) | names)


def test_a_backbone(blocks: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch):
    (block,) = blocks["A backbone"]
    added = entry(backbones, block)
    (name,) = added
    monkeypatch.setitem(backbones.BACKBONES, name, added[name])
    assert Ensemble(name, 2, 5)(torch.zeros(2, 3, 64, 64)).shape == (2, 2, 5)


def test_a_data_set(blocks: dict[str, list[str]]):
    (block,) = blocks["A data set"]
    mine = SimpleNamespace(read=print, FOLDERS=("mine",))
    assert entry(reader, block, mine=mine) == {"mine": reader.Layout(print, ("mine",))}


def test_a_kind_of_embedding(blocks: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch):
    (block,) = blocks["A kind of embedding"]
    monkeypatch.setitem(kinds.KINDS, "softmax", entry(kinds, block)["softmax"])
    ensemble = Ensemble("resnet18", 2, 5).eval()
    assert ensemble.width("softmax") == 10
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = normalize(ensemble(images).softmax(2), dim=2).flatten(1) / 2**0.5
    torch.testing.assert_close(ensemble.embed(images, "softmax"), expected)


def test_a_metric(blocks: dict[str, list[str]]):
    (block,) = blocks["A metric"]
    metric = entry(result, block)["recall_in_100"]
    found = SimpleNamespace(best_rank=np.array([1, 0, 100, 101]))
    assert (metric.value(found), metric.title) == (0.5, "found in 100")


def test_a_loss(blocks: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch):
    module, maker = blocks["A loss"]
    added = ModuleType("lrec.training.poly1")
    exec(module, vars(added))
    monkeypatch.setitem(sys.modules, added.__name__, added)
    exec(f"from __future__ import annotations\n{maker}", names := vars(losses).copy())
    poly1 = losses.Loss(names["_poly1"], is_metric=False).make(4, 4, 0.0)
    assert poly1(torch.zeros(3, 4), torch.arange(3)).item() == pytest.approx(math.log(4) + 0.75)
