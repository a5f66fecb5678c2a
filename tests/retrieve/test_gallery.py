"""Databases as tables of LanceDB and Parquet: what is in them, and what is said where they cannot be made."""

import importlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from exported import SUFFIX, make, pq, read

from lrec.__main__ import main as lrec
from lrec.retrieve import Database, gallery

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
