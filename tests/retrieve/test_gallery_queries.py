"""Queries of a table are embedded with the model that made it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import pq

from lrec.embedding import reduction
from lrec.io import hashing
from lrec.retrieve import Database, gallery


def test_queries_are_embedded_with_the_model_of_the_table(project: Path):
    database = Database.load("tiny/resnet18")
    gallery.export(database, "parquet", "t.parquet", "tiny/resnet18")
    schema = pq.read_schema("t.parquet")
    embedded = gallery.encoder(schema, "models/tiny/resnet18").embed("raw/pictures/16.png")
    np.testing.assert_allclose(embedded, database.parts[0][:1], atol=1e-5)
    with pytest.raises(FileNotFoundError, match=r"elsewhere/model\.safetensors: not found, the model"):
        gallery.encoder(schema, "elsewhere")
    reduced = {b"lrec": json.dumps(gallery.facts_of(schema) | {"reduction_digest": "0" * 64}).encode()}
    for folder, place in (("models/tiny/resnet18", "in it nor embeddings/tiny/resnet18"), ("mine", "in it")):
        shutil.copytree("models/tiny/resnet18", "mine", dirs_exist_ok=True)
        with pytest.raises(
            FileNotFoundError, match=rf"^{folder}: found no reduction\.safetensors, .*, {place}; copy it"
        ):
            gallery.encoder(schema.with_metadata(reduced), folder)
    path = Path("models/tiny/resnet18/model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ValueError,
        match=r"model\.safetensors: found other weights .* than the embeddings were made with .*use that model",
    ):
        gallery.encoder(schema, path.parent)
    facts = gallery.facts_of(schema)
    for metadata in (None, {b"lrec": b"["}, {b"lrec": json.dumps({"kind": facts["kind"]}).encode()}):
        with pytest.raises(ValueError, match="table: does not say which model made its embeddings"):
            gallery.encoder(schema.with_metadata(metadata), path.parent)


def test_queries_of_a_reduced_run(project: Path):
    """By its model's folder, whose reduction lies with the embeddings; by a database with its model; by copies."""
    folder = Path("embeddings/tiny/resnet18")
    mean, components = torch.zeros(8), torch.eye(8)[:, :3].contiguous()
    reduction.save(folder / reduction.FILE, reduction.Reduction(mean, components), {})
    facts = json.loads((folder / "embedding.json").read_text())
    facts |= {"dimensions": 3, "reduce": "pca", "reduction": hashing.of_file(folder / reduction.FILE)}
    (folder / "embedding.json").write_text(json.dumps(facts))
    whole = np.load(folder / "test.npy")
    reduced = whole[:, :3] / np.linalg.norm(whole[:, :3], axis=1, keepdims=True)
    np.save(folder / "test.npy", reduced)
    gallery.export(Database.load("tiny/resnet18"), "parquet", "t.parquet", "tiny/resnet18")
    Database.load("tiny/resnet18").save("saved", with_model=True)
    shutil.copytree("models/tiny/resnet18", "mine")
    shutil.copy(folder / reduction.FILE, "mine")
    for model in ("models/tiny/resnet18", project / "models/tiny/resnet18", "saved", "saved/model", "mine"):
        embedded = gallery.encoder(pq.read_schema("t.parquet"), model).embed("raw/pictures/16.png")
        np.testing.assert_allclose(embedded, reduced[:1], atol=1e-5)
    reduction.save(folder / reduction.FILE, reduction.Reduction(mean, -components), {})
    with pytest.raises(ValueError, match=r"reduction\.safetensors: found another reduction .*; use that file, or"):
        gallery.encoder(pq.read_schema("t.parquet"), "models/tiny/resnet18")


def test_settings_of_the_embeddings_are_those_of_the_queries(project: Path):
    database = Database.load("tiny/resnet18")
    database.facts |= {"kind": "features", "resize": "crop"}
    gallery.export(database, "parquet", "t.parquet", "tiny/resnet18")
    encoder = gallery.encoder(pq.read_schema("t.parquet"), "models/tiny/resnet18")
    assert (encoder._options.kind, encoder._resize) == ("features", "crop")
