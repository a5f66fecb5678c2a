"""A project folder with two runs, as after `dvc repro`, written in a second."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image

from lrec import paths
from lrec.data import batches, store
from lrec.io import files, hashing
from lrec.model import saved
from lrec.model.ensemble import Ensemble

NAMES = ["U+0416", "U+0041", "a_<b>&c", "001.Black_footed_Albatross"]
SIZE = 32
FILE = "raw/pictures/16.png"  # the first image of tiny's split test
AUDIT = {"images": 4, "alone": 0.0, "shuffled": 0.0, "sorted": 0.0, "largest": 0.0}
FACTS = {"kind": "logits", "dimensions": 8, "audit": AUDIT}


def make(root: Path, folder: Path) -> None:
    """Write params.yaml, stores, models and embeddings of `tiny` (train, test) and `shop` (query, gallery)."""
    settings = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    variant = settings["variants"]["glyphs"]
    settings |= {"datasets": ["tiny", "shop"], "data_root": "raw"}
    settings["variants"] = {
        "tiny": variant | {"layout": "folder", "folder": "pictures"},
        "shop": variant,
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (len(NAMES), 3))
    pictures = [
        np.clip(colours[row % 4] + generator.integers(-60, 60, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
        for row in range(40)
    ]
    for name, splits in (("tiny", ("train", "test")), ("shop", ("query", "gallery"))):
        _combination(folder, name, pictures, splits)
    raw = folder / "raw/pictures"
    raw.mkdir(parents=True)
    for row in range(40):
        Image.fromarray(pictures[row]).save(raw / f"{row}.png")


def note_store(folder: Path, variant: str) -> None:
    """Record a store that a test has changed as the one that was embedded."""
    note(folder, variant, data=store.digest(folder / paths.store(variant)))


def note(folder: Path, variant: str, **facts: str) -> None:
    """Change facts of a run's embeddings, as if it had been embedded again."""
    path = folder / paths.embedding_facts(variant, "resnet18")
    files.write_json(path, json.loads(path.read_text(encoding="utf-8")) | facts)


def _combination(folder: Path, variant: str, pictures: list[np.ndarray], splits: tuple[str, str]) -> None:
    index = pd.DataFrame({"path": [f"{row}.png" for row in range(40)], "class": [NAMES[row % 4] for row in range(40)]})
    index["split"] = [splits[row >= 16] for row in range(40)]
    facts = {"found": "made", "crop": "none", "resize": "squash", "counts": {}, "official": None, "partial": False}
    target = folder / paths.store(variant)
    store.pack(target, [lambda picture=picture: picture for picture in pictures], index, SIZE, facts, 1)
    normalization = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    if variant == "tiny":
        ensemble = Ensemble("resnet18", 2, 4).eval()
        used = {"image_size": SIZE, "crop": "none", "normalization": normalization, "epochs": 1, "weights": "none"}
        used |= {"seed": 0, "resize": "squash"}
        saved.save(ensemble, folder / paths.model(variant, "resnet18"), used)
    else:
        shutil.copytree(folder / paths.model("tiny", "resnet18"), folder / paths.model(variant, "resnet18"))
        ensemble = saved.load(folder / paths.model(variant, "resnet18"))[0].eval()
    with torch.inference_mode():
        ready = batches.normalize(torch.from_numpy(np.stack(pictures)), normalization["mean"], normalization["std"])
        embedded = ensemble.embed(ready).numpy()
    out = folder / paths.embeddings(variant, "resnet18")
    out.mkdir(parents=True)
    weights = hashing.of_file(folder / paths.model(variant, "resnet18") / saved.MODEL)
    facts = FACTS | {"weights": weights, "data": store.digest(target)}
    files.write_json(folder / paths.embedding_facts(variant, "resnet18"), facts)
    for split in splits:
        np.save(out / f"{split}.npy", embedded[(index["split"] == split).to_numpy()])
