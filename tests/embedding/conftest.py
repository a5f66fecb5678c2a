"""What the tests of this folder share: a project whose stage embed runs in a second."""

import json
from pathlib import Path

import pytest

from lrec.data import store
from lrec.model import saved
from lrec.model.ensemble import Ensemble


@pytest.fixture
def project(tiny_store: store.Store, tmp_path: Path, root: Path) -> Path:
    """A folder in which the stage embed of glyphs runs on a tiny store and a random model, image by image."""
    text = (root / "params.yaml").read_text(encoding="utf-8")
    for old, new in (("batch_size: 100", "batch_size: 1"), ("untrained: true", "untrained: false")):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "data/processed").mkdir(parents=True)
    (tmp_path / "store").rename(tmp_path / "data/processed/glyphs")
    dataset = tmp_path / "data/processed/glyphs" / store.DATASET
    facts = {"found": "made", "crop": "none", "resize": "squash", "counts": {}, "official": None, "partial": False}
    dataset.write_text(json.dumps(json.loads(dataset.read_text()) | facts))
    config = {"image_size": 32, "normalization": store.IMAGENET, "weights": "none", "seed": 0}
    saved.save(Ensemble("resnet18", 1, 5), tmp_path / "models/glyphs/resnet18", config)
    return tmp_path
