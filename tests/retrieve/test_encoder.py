"""The model that embeds queries: alone, with the database that it made, and refused where it made another."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from retrieval_project import FILE

from lrec.embedding import reduction
from lrec.io import hashing
from lrec.model import saved
from lrec.retrieve import Database, Encoder


def test_other_weights_than_the_databases_are_refused(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Embeddings of two networks have nothing to do with each other."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    Database.load("tiny/resnet18").save("saved")
    path = Path("models/tiny/resnet18/model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for name in ("tiny/resnet18", "saved"):
        database = Database.load(name)
        assert database.search(np.array(database.parts[0][:1]), 1)[1] == [[0]]
        with pytest.raises(ValueError, match=r"model\.safetensors: found other weights .*run `dvc repro`"):
            database.search("raw/pictures/0.png", 1)
    facts = json.loads(Path("saved/database.json").read_text())
    Path("saved/database.json").write_text(json.dumps({key: facts[key] for key in facts if key != "weights"}))
    assert Database.load("saved").search("raw/pictures/0.png", 1)[1].shape == (1, 1)  # made before they were noted


def test_a_database_carries_its_model(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Moved to where nothing else of its project is, saved again there, and without what it needs."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    Database.load("tiny/resnet18").save("saved", with_model=True)
    assert sorted(path.name for path in Path("saved").iterdir()) == [
        "database.json",
        "embeddings.npy",
        "index.csv",
        "model",
    ]
    shutil.copy("raw/pictures/16.png", tmp_path / "photo.png")
    Path("saved").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    for place in ("moved", "moved", "copied"):  # over itself, and at a third place
        database = Database.load("moved")
        assert database.search("photo.png", 1)[1] == [[0]]
        database.save(place)
    shutil.rmtree("moved")
    database = Database.load("copied")
    assert database.search("photo.png", 1)[1] == [[0]]
    assert database.image(0) is None
    Path("copied/model/notes.txt").touch()
    with pytest.raises(ValueError, match=r"copied/model: found notes\.txt, expected"):
        database.save("copied")
    shutil.rmtree("copied/model")
    with pytest.raises(
        FileNotFoundError, match=r"copied/model/model\.safetensors: not found, the model .*with_model=True"
    ):
        Database.load("copied").search("photo.png", 1)
    with pytest.raises(FileNotFoundError, match="not found, the model"):
        database.save("again")
    assert not Path("again").exists()


def test_a_model_is_carried_only_if_it_is_the_databases(database: Database, tmp_path: Path):
    database.facts["weights"] = "0" * 64
    with pytest.raises(ValueError, match="found other weights"):
        database.save(tmp_path / "saved", with_model=True)
    bare = Database(np.array(database.parts[0]), database.index, {})
    with pytest.raises(ValueError, match="names no model"):
        bare.save(tmp_path / "saved", with_model=True)


def test_an_encoder_needs_its_model_alone(database: Database, tmp_path: Path):
    shutil.copytree("models/tiny/resnet18", tmp_path / "mine")
    for encoder in (Encoder(str(tmp_path / "mine")), Encoder(tmp_path / "mine", "squash")):
        np.testing.assert_allclose(encoder.embed("raw/pictures/16.png"), database.parts[0][:1], atol=1e-5)
    config = json.loads((tmp_path / "mine/config.json").read_text())
    del config["resize"]
    (tmp_path / "mine/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"mine: found resize None, expected squash or crop"):
        Encoder(tmp_path / "mine")


def test_arguments_of_an_encoder_are_checked_at_once(database: Database, tmp_path: Path):
    with pytest.raises(ValueError, match="^kind: found 'feature', expected one of logits, features$"):
        Encoder("models/tiny/resnet18", kind="feature")
    digest = hashing.of_file(Path("models/tiny/resnet18") / saved.MODEL)
    fitted = reduction.Reduction(torch.zeros(8), torch.eye(8)[:, :3].contiguous())
    reduction.save(tmp_path / "own", fitted, {"kind": "logits", "model": digest})
    assert Encoder("models/tiny/resnet18", reduced=tmp_path / "own").embed(FILE).shape == (1, 3)
    with pytest.raises(ValueError, match=r"own: reduces embeddings of kind 'logits', found 'features'; pass that"):
        Encoder("models/tiny/resnet18", kind="features", reduced=tmp_path / "own")
    reduction.save(tmp_path / "other", fitted, {"kind": "logits", "model": "0" * 64})
    with pytest.raises(ValueError, match=r"other: was fitted to another model \(SHA-256 0{16}\) than models/tiny"):
        Encoder("models/tiny/resnet18", reduced=tmp_path / "other")


def test_a_model_is_hashed_once(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also for a reduction, which names its model: the file may have gigabytes."""
    fitted, path = reduction.Reduction(torch.zeros(8), torch.eye(8)), tmp_path / "own"
    reduction.save(path, fitted, {"kind": "logits", "model": database.facts["weights"]})
    database.facts |= {"reduction": str(path), "reduction_digest": hashing.of_file(path)}
    read, whole = [], hashing.of_file
    monkeypatch.setattr(hashing, "of_file", lambda path: (read.append(path.name), whole(path))[1])
    assert database.embed(FILE).shape == (1, 8)
    assert read.count(saved.MODEL) == 1
    reduction.save(path, fitted, {"kind": "logits", "model": "0" * 64})
    del vars(database)["_encoder"]
    database.facts["reduction_digest"] = whole(path)
    with pytest.raises(ValueError, match="own: was fitted to another model"):
        database.embed(FILE)
