"""Databases as tables of LanceDB and Parquet: what is in them, what they say of their model, what they replace."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pandas as pd
import pytest
import torch
from moto.server import ThreadedMotoServer

from lrec.__main__ import main as lrec
from lrec.embedding import reduction
from lrec.io import hashing
from lrec.retrieve import Database, gallery

pq = pytest.importorskip("pyarrow.parquet", reason="optional: pip install -r requirements-extra.txt")
lancedb = pytest.importorskip("lancedb", reason="optional: pip install -r requirements-extra.txt")

SUFFIX = {"lancedb": ".lance", "parquet": ".parquet"}
# What file systems and annotators write; an export must give it back unchanged.
NAMES = [
    "plain",
    "two words",
    'it\'s "quoted", `so` \\ and %s {0}',
    "line\nbreak\r\ttab",
    "=1+1;--drop table",
    "Жар-птица 🦜",
    "cafe\u0301",
    "\u202eright to left",
    "NULL",
    "nan",
    "",
    "a" * 5000,
    "zero\x00byte",
]


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


def read(form: str, target: str | Path):
    """Return a table as another program opens it: its schema, its columns."""
    if form == "parquet":
        table = pq.read_table(target)
    else:
        table = lancedb.connect(Path(target).parent).open_table(Path(target).stem).to_arrow()
    return table.schema, {name: table[name].to_pylist() for name in table.column_names}


def make(rows: int = 5, width: int = 3, names: list[str] | None = None, dtype: type = np.float32) -> Database:
    names = names or [f"{row}.png" for row in range(rows)]
    embeddings = np.random.default_rng(0).normal(size=(len(names), width)).astype(dtype)
    index = pd.DataFrame({"path": names, "class": names[::-1], "row": -1}, dtype=object)
    return Database(embeddings, index, {})


@pytest.mark.parametrize("form", gallery.FORMATS)
def test_a_run(project: Path, form: str, capsys: pytest.CaptureFixture):
    """Twice: what an earlier export of the run left there is replaced."""
    target = Path(f"exported/tiny/resnet18/train{SUFFIX[form]}")
    for _ in range(2):
        assert lrec(["export-gallery", "tiny/resnet18", "--to", form, "--split", "train"]) == 0
        assert capsys.readouterr().out == f"{target}: 16 images, 8 dimensions\n"
        assert [path.name for path in target.parent.iterdir()] == [target.name]
    schema, columns = read(form, target)
    database = Database.load("tiny/resnet18", "train")
    np.testing.assert_array_equal(np.array(columns["vector"], np.float32), database.parts[0])
    assert columns["path"] == database.index["path"].tolist()
    assert columns["class"] == database.index["class"].tolist()
    assert columns["split"] == ["train"] * 16
    said = gallery.facts_of(schema)
    known = {key: database.facts[key] for key in ("name", "split", "weights", "kind", "resize", "crop")}
    assert said == known | {"database": "tiny/resnet18", "images": 16, "dimensions": 8}


@pytest.mark.parametrize("form", gallery.FORMATS)
def test_a_saved_database_that_was_extended(project: Path, form: str):
    database = Database.load("tiny/resnet18")
    database.add(["raw/pictures/0.png"], ["new"])
    database.save("mine")
    opened = Database.load("mine")
    opened.add(["raw/pictures/1.png"], [""])  # a second part
    gallery.export(opened, form, f"mine{SUFFIX[form]}", "mine")
    schema, columns = read(form, f"mine{SUFFIX[form]}")
    assert columns["path"] == opened.index["path"].tolist()
    assert columns["class"][-2:] == ["new", ""]
    assert columns["split"] == [""] * 26
    np.testing.assert_array_equal(np.array(columns["vector"], np.float32), np.concatenate(opened.parts))
    assert gallery.facts_of(schema)["weights"] == database.facts["weights"]
    assert lrec(["export-gallery", "mine", "--to", form]) == 0
    assert read(form, f"exported/mine{SUFFIX[form]}")[1]["class"][-1] == "new"


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("form", gallery.FORMATS)
def test_any_name_and_any_batch(form: str, dtype: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gallery, "BATCH_BYTES", 4 * 3 * 4)  # four rows of float32
    database = make(names=NAMES, dtype=dtype)
    gallery.export(database, form, f"{tmp_path}/t{SUFFIX[form]}", 'it\'s\n"mine" Ж')
    schema, columns = read(form, tmp_path / f"t{SUFFIX[form]}")
    assert columns["path"] == NAMES
    assert columns["class"] == NAMES[::-1]
    found = np.array(columns["vector"], dtype)
    np.testing.assert_array_equal(found, database.parts[0])
    assert gallery.facts_of(schema)["database"] == 'it\'s\n"mine" Ж'
    if form == "parquet":
        assert pq.ParquetFile(tmp_path / "t.parquet").metadata.num_row_groups == -(
            -len(NAMES) // (4 if dtype == np.float32 else 8)
        )


def test_rows_are_taken_some_at_a_time(tmp_path: Path):
    """A gallery larger than memory: no batch holds more than BATCH_BYTES, and none is made before it is asked for."""
    width = gallery.BATCH_BYTES // 4 // 3
    embeddings = np.zeros((7, width), np.float32)
    embeddings[6, 0] = np.nan
    database = Database(embeddings, make(7).index, {})
    batches = gallery._batches(database, gallery._schema(database, "large"))
    assert [len(next(batches)) for _ in range(2)] == [3, 3]
    with pytest.raises(ValueError, match="row 6: its embedding is not finite"):
        next(batches)


@pytest.mark.parametrize("form", gallery.FORMATS)
def test_what_cannot_be_written_leaves_nothing(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gallery, "BATCH_BYTES", 1)
    target = f"{tmp_path}/out/t{SUFFIX[form]}"
    strange = make(names=["a", "b\udcff"])
    with pytest.raises(ValueError, match=r"^row 0: its class, 'b\\udcff', is not Unicode text$"):
        gallery.export(strange, form, target, "")
    database = make()
    database.parts[0][3, 1] = np.inf
    with pytest.raises(ValueError, match="^row 3: its embedding is not finite; embed it again$"):
        gallery.export(database, form, target, "")
    assert list((tmp_path / "out").iterdir()) == []
    good = make()
    gallery.export(good, form, target, "")
    with pytest.raises(ValueError, match="not finite"):
        gallery.export(database, form, target, "")
    assert read(form, target)[1]["path"] == good.index["path"].tolist()


KILLED = """
import os, signal, sys
import test_gallery
from lrec.retrieve import gallery

whole = gallery._batches
def batches(database, schema):
    for number, batch in enumerate(whole(database, schema)):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch
gallery._batches, gallery.BATCH_BYTES = batches, 12
gallery.export(test_gallery.make(), *sys.argv[1:], "made")
"""


@pytest.mark.parametrize("form", gallery.FORMATS)
def test_a_killed_export_leaves_no_table(form: str, tmp_path: Path, root: Path):
    """Neither under its name nor under one that LanceDB lists; the next export removes what it left."""
    target = tmp_path / f"t{SUFFIX[form]}"
    paths = os.pathsep.join([str(root), str(root / "tests/support"), str(Path(__file__).parent)])
    command = [sys.executable, "-c", KILLED, form, str(target)]
    for before in (False, True):
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert target.exists() == before
        assert lancedb.connect(tmp_path).list_tables().tables == (["t"] if before and form == "lancedb" else [])
        gallery.export(make(), form, str(target), "made")
        assert [path.name for path in tmp_path.iterdir()] == [target.name]
        assert len(read(form, target)[1]["path"]) == 5


@pytest.mark.parametrize("form", gallery.FORMATS)
def test_other_content_is_not_overwritten(project: Path, form: str, capsys: pytest.CaptureFixture):
    suffix = SUFFIX[form]

    def refused(target: str) -> str:
        assert lrec(["export-gallery", "tiny/resnet18", "--to", form, "--output", target]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"error: {target}: found " in error
        assert "not overwritten; delete it, or name another with --output" in error
        return error

    Path(f"notes{suffix}").write_text("mine")
    Path(f"folder{suffix}").mkdir()
    Path(f"folder{suffix}/notes.txt").touch()
    Path(f"link{suffix}").symlink_to("nowhere")
    foreign = make()
    table = next(gallery._batches(foreign, gallery._schema(foreign, ""))).to_pandas()
    if form == "parquet":
        table.to_parquet("foreign.parquet")
    else:
        lancedb.connect(".").create_table("foreign", table[["path", "class"]])
    for name in ("notes", "folder", "link", "foreign"):
        assert "something that lrec export-gallery did not write" in refused(name + suffix)
    assert Path(f"notes{suffix}").read_text() == "mine"
    gallery.export(foreign, form, f"other{suffix}", "other")
    assert "found the export of 'other', split None" in refused(f"other{suffix}")
    gallery.export(Database.load("tiny/resnet18", "train"), form, f"train{suffix}", "tiny/resnet18")
    assert "found the export of 'tiny/resnet18', split 'train'" in refused(f"train{suffix}")
    if form == "lancedb":
        gallery.export(Database.load("tiny/resnet18"), form, "grown.lance", "tiny/resnet18")
        grown = lancedb.connect(".").open_table("grown")
        grown.add(grown.to_arrow().slice(0, 2))
        assert "an export that has 26 rows now and had 24" in refused("grown.lance")
        assert grown.count_rows() == 26


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a server that speaks the protocol of S3; its address and credentials are in the environment."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=settings["AWS_ENDPOINT"]).create_bucket(Bucket="galleries")
        yield "s3://galleries"
    server.stop()


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_at_an_address(
    kind: str,
    bucket: str,
    project: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    """LanceDB writes by itself: a failed export leaves no table that opens, or the earlier one."""
    place = {"file": f"file://{tmp_path}/place", "s3": f"{bucket}/place"}[kind]
    address = f"{place}/t.lance"
    command = ["export-gallery", "tiny/resnet18", "--to", "lancedb", "--output", address]
    whole = gallery._batches

    def fails(database: Database, schema):
        yield next(whole(database, schema))
        raise ValueError("row 1: fails")

    monkeypatch.setattr(gallery, "_batches", fails)
    assert lrec(command) == 1
    assert capsys.readouterr().err == "error: row 1: fails\n"
    with pytest.raises(ValueError, match="not found"):
        lancedb.connect(place).open_table("t")
    monkeypatch.setattr(gallery, "_batches", whole)
    for _ in range(2):
        assert lrec(command) == 0
    monkeypatch.setattr(gallery, "_batches", fails)
    assert lrec(command) == 1
    table = lancedb.connect(place).open_table("t")
    assert table.count_rows() == 24
    found = table.search(Database.load("tiny/resnet18").embedding(3)).limit(1).to_list()
    assert found[0]["path"] == Database.load("tiny/resnet18").index["path"][3]
    capsys.readouterr()
    monkeypatch.setattr(gallery, "_batches", whole)
    table.add(table.to_arrow().slice(0, 1))
    assert lrec(command) == 1
    assert f"error: {address}: found an export that has 25 rows now" in capsys.readouterr().err


def test_a_bucket_that_is_not_there(bucket: str, project: Path, capsys: pytest.CaptureFixture):
    address = "s3://elsewhere/t.lance"
    assert lrec(["export-gallery", "tiny/resnet18", "--to", "lancedb", "--output", address]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {address}: lancedb cannot use it (")
    assert line.endswith("correct the address, its credentials or permissions")


@pytest.mark.parametrize(
    ("form", "target", "message"),
    [
        ("parquet", "a.lance", r"a\.lance: found no name that ends in \.parquet"),
        ("lancedb", "a", r"a: found no name that ends in \.lance"),
        ("parquet", "s3://bucket/a.parquet", r"s3://bucket/a\.parquet: not a path; .* or use --to lancedb"),
        ("lancedb", "two words.lance", "found the name 'two words', expected letters, digits"),
        ("lancedb", ".hidden.lance", "found the name '.hidden', expected"),
        ("lancedb", "s3://bucket.lance", "s3://bucket.lance: found no folder in front of the name"),
        ("lancedb", "nothing://bucket/a.lance", "nothing://bucket/a.lance: lancedb cannot use it"),
    ],
)
def test_targets(project: Path, form: str, target: str, message: str, capsys: pytest.CaptureFixture):
    assert lrec(["export-gallery", "tiny/resnet18", "--to", form, "--output", target]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)


@pytest.mark.parametrize(("form", "package"), [("lancedb", "lancedb"), ("lancedb", "pyarrow"), ("parquet", "pyarrow")])
def test_without_the_packages(
    project: Path, form: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    whole = importlib.import_module  # pandas has pyarrow in use by now, which must stay

    def absent(name: str):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return whole(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    assert lrec(["export-gallery", "tiny/resnet18", "--to", form]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.match(rf"error: {package}: not installed \(.*\); pip install {package}$", error)


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


def test_the_program_of_the_page(project: Path, root: Path, capsys: pytest.CaptureFixture):
    """Its commands and its program, with a run of this project; the first results are those of exact search."""
    text = (root / "docs/retrieval.md").read_text(encoding="utf-8")
    section = re.search(r"## In a vector database\n(.*?)\n## ", text, re.DOTALL)[1]
    shutil.copy("raw/pictures/20.png", "photo.jpg")
    for command in re.findall(r"^    python -m lrec (.*?)(?: +#.*)?$", section, re.MULTILINE):
        assert lrec(command.replace("glyphs", "tiny").split()) == 0
    (program,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    capsys.readouterr()
    exec(program.replace("glyphs", "tiny"), {})
    found = re.findall(r"\d+\.png", capsys.readouterr().out)
    database = Database.load("tiny/resnet18")
    rows = database.search("photo.jpg", 5)[1][0]
    assert found == database.index["path"].iloc[rows].tolist()
