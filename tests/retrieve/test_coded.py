"""Databases of codes: what is saved, that search is exact, and what works as with embeddings."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from retrieval_project import note

from lrec.embedding.codes import NAMES, Codes
from lrec.io import files
from lrec.retrieve import Database, __main__, approximate, gallery, query, storage
from lrec.retrieve.page import Searcher


@pytest.fixture
def database(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return Database.load("tiny/resnet18")


def coded(database: Database, name: str) -> Database:
    database.save(name, codes=name)
    return Database.load(name)


def synthetic(rows: int, width: int) -> Database:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(50, width))
    embeddings = (centres[np.arange(rows) % 50] + 0.3 * generator.normal(size=(rows, width))).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return Database(embeddings, pd.DataFrame({"path": [""] * rows, "class": "", "row": -1}), {})


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_those_that_evaluation_measures(database: Database, name: str):
    found = coded(database, name)
    codes = Codes.fit(name, [np.load("embeddings/tiny/resnet18/train.npy")])
    np.testing.assert_array_equal(found.codes.fitted, codes.fitted)
    np.testing.assert_array_equal(found.parts[0], codes.encode(database.parts[0]))
    assert isinstance(found.parts[0], np.memmap)
    assert (len(found), found.width) == (24, 8)
    numbers = codes.numbers(np.array(found.parts[0])).astype(float)
    numbers /= float(codes.fitted[0]) if name == "int8" else 8**0.5
    exact = numbers @ numbers.T
    np.fill_diagonal(exact, -1e9)
    scores, rows = found.search(found.parts[0], 5, exclude=np.arange(24))
    np.testing.assert_array_equal(rows, np.argsort(-exact.round(6), axis=1, kind="stable")[:, :5])
    np.testing.assert_allclose(scores, np.take_along_axis(exact, rows, 1), atol=1e-6)


@pytest.mark.parametrize(("name", "size"), [("int8", 4), ("binary", 32)])
def test_files_are_smaller(name: str, size: int, tmp_path: Path):
    database = synthetic(4000, 64)
    database.save(tmp_path / "whole")
    database.save(tmp_path / name, codes=name)
    sizes = [(tmp_path / folder / "embeddings.npy").stat().st_size - 128 for folder in ("whole", name)]
    assert sizes == [4000 * 64 * 4, 4000 * 64 * 4 // size]


@pytest.mark.parametrize("name", NAMES)
def test_images_embeddings_and_codes_find_alike(database: Database, name: str):
    found = coded(database, name)
    image = "raw/pictures/17.png"
    expected = found.search(found.embedding(1), 4)
    for given in (image, database.embedding(1), np.array(database.parts[0][1:2], np.float16)):
        scores, rows = found.search(given, 4)
        np.testing.assert_array_equal(rows, expected[1])
        np.testing.assert_allclose(scores, expected[0], atol=0.02)
    with pytest.raises(ValueError, match=r"found the shape \(1, 9\), expected \(N, 8\)"):
        found.search(np.zeros(9, np.float32), 1)
    with pytest.raises(ValueError, match="found a value that is not finite"):
        found.add(np.full(8, np.nan, np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_add_remove_and_save(database: Database, name: str):
    found = coded(database, name)
    assert found.add(["raw/pictures/0.png", "raw/pictures/1.png"], ["new", "other"]).tolist() == [24, 25]
    assert found.add(database.embedding(3)).tolist() == [26]
    assert found.add(found.embedding(4), "U+0041").tolist() == [27]
    kept = np.concatenate(found.parts)
    found.remove([0, 2, 25])
    found.remove(0)
    kept, index = kept[[3, *range(4, 25), 26, 27]], found.index
    for _ in range(2):  # the second time over the folder that is open
        np.testing.assert_array_equal(np.concatenate(found.parts), kept)
        assert found.index["class"].tolist() == index["class"].tolist()
        np.testing.assert_array_equal(found.search(found.embedding(0), 1)[1], [[0]])
        found.save("grown")
        found = Database.load("grown")
    assert found.index["class"].iloc[-3] == "new"
    assert sorted(path.name for path in Path("grown").iterdir()) == [
        "codes.npy",
        "database.json",
        "embeddings.npy",
        "index.csv",
    ]


def test_removed_embeddings_are_not_read(database: Database):
    database.add("raw/pictures/1.png")
    database.remove([1, 2, 24])
    assert [len(part) for part in database.parts] == [1, 21]
    assert all(isinstance(part, np.memmap) for part in database.parts)
    assert database.index["row"].tolist() == [16, *range(19, 40)]
    database.remove(range(22))
    assert (len(database), sum(map(len, database.parts)), database.width) == (0, 0, 8)
    for row in (0, -1, True, 1.5, "a"):
        with pytest.raises(ValueError, match=r"row: found .*, expected 0 to"):
            Database.load("tiny/resnet18").remove([3, 24 if row == 0 else row])


def test_an_empty_database_is_not_saved(database: Database, tmp_path: Path):
    database.remove(range(len(database)))
    with pytest.raises(ValueError, match="shop: found no images in the database, expected at least one to save"):
        database.save(tmp_path / "shop")
    assert not (tmp_path / "shop").exists()


def test_other_codes_are_refused(database: Database):
    found = coded(database, "binary")
    found.save("again", codes="binary")
    np.testing.assert_array_equal(Database.load("again").codes.fitted, found.codes.fitted)
    with pytest.raises(ValueError, match="codes: found binary in the database, which cannot become int8; save the run"):
        found.save("other", codes="int8")
    with pytest.raises(ValueError, match="codes: found 'int4', expected one of int8, binary"):
        database.save("other", codes="int4")
    database.parts[0] = np.where(np.arange(24)[:, None] == 7, np.float32("nan"), database.parts[0])
    with pytest.raises(ValueError, match="embeddings: found a value that is not finite in row 7"):
        database.save("other", codes="int8")
    assert not Path("other").exists()
    with pytest.raises(ValueError, match=r"found float32 of shape \(24, 8\), expected codes \(G, 1\) of uint8"):
        Database(np.zeros((24, 8), np.float32), found.index, {}, codes=found.codes)


def test_codes_are_not_fitted_to_the_embeddings_of_another_model(database: Database):
    note(Path(), "tiny", weights="0" * 64)
    with pytest.raises(ValueError, match=r"embedding\.json: found weights 0000.* as in split test, .*open the run"):
        database.save("mine", codes="binary")
    assert not Path("mine").exists()


def test_without_a_run_codes_are_fitted_to_the_rows(database: Database):
    bare = Database(np.array(database.parts[0]), database.index, {})
    bare.save("bare", codes="binary")
    np.testing.assert_array_equal(Database.load("bare").codes.fitted, Codes.fit("binary", [database.parts[0]]).fitted)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
@pytest.mark.parametrize("name", NAMES)
def test_faiss_against_exact(name: str, kind: str, tmp_path: Path):
    """The exact index finds the same similarities, and for bits the same rows, of which many are equally far."""
    pytest.importorskip("faiss", reason="faiss is an optional dependency: pip install faiss-cpu")
    synthetic(3000, 44).save(tmp_path / name, codes=name)
    database, exclude = Database.load(tmp_path / name), np.arange(-1, 19)
    exact = database.search(database.parts[0][:20], 10, exclude)
    scores, rows = approximate.Index(kind, database.parts, database.codes).search(database.parts[0][:20], 10, exclude)
    assert not (rows == exclude[:, None]).any()
    if kind == "hnsw":
        assert approximate.agreement(exact[1], rows) >= 0.7
        return
    np.testing.assert_array_equal(scores, exact[0])
    if name == "binary":
        np.testing.assert_array_equal(rows, exact[1])
    else:
        assert approximate.agreement(exact[1], rows) == 1


def test_faiss_refuses_what_it_cannot_shorten(database: Database):
    pytest.importorskip("faiss", reason="faiss is an optional dependency: pip install faiss-cpu")
    found = coded(database, "binary")
    with pytest.raises(ValueError, match="index: found ivfpq for binary codes"):
        approximate.Index("ivfpq", found.parts, found.codes)


@pytest.mark.parametrize("name", NAMES)
def test_on_the_command_line(database: Database, name: str, capsys: pytest.CaptureFixture):
    files.write_json(
        Path("results/tiny/resnet18/result.json"),
        {"analysis": {"compression": [{"code": c, "recall_at_1": r} for c, r in (("float32", 70), ("int8", 69.96))]}},
    )
    assert __main__.main(["--save", "mine", "--codes", name, "--with-model"]) == 0
    size, kept = {"int8": (8, True), "binary": (1, False)}[name]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"mine: 24 images, 8 dimensions as {name} codes of {size} bytes"
    measured = "R@1 of tiny/resnet18, in percent: 70.0 in float32, 70.0 in int8 (results/tiny/resnet18/result.json)"
    assert lines[1:] == [measured] * kept
    assert Path("mine/model/model.safetensors").is_file()
    arguments = ["--database", "mine", "--query", "row:16", "raw/pictures/0.png", "--num", "3", "--json"]
    assert __main__.main([*arguments, "--output", "sheet.png"]) == 0
    found = capsys.readouterr()
    assert len(json.loads(found.out)["queries"][1]["results"]) == 3
    assert lines[0] in found.err
    assert Path("sheet.png").is_file()
    assert __main__.main(["--database", "mine", "--save", "again"]) == 0
    assert capsys.readouterr().out == lines[0].replace("mine", "again") + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--codes", "int8"], "--codes: has no effect without --save"),
        (["--with-model"], "--with-model: has no effect without --save"),
        (["--save", "mine", "--query", "row:16"], "--query: has no effect with --save"),
        (["--save", "mine", "--serve"], "--save: has no effect with --serve"),
        (["--save", ""], "cannot be replaced"),
    ],
)
def test_options_without_effect(database: Database, arguments: list[str], message: str, capsys: pytest.CaptureFixture):
    assert __main__.main(arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_the_search_page(database: Database, name: str):
    coded(database, name)
    searcher = Searcher(name)
    for asked in (
        searcher.by_row("", 3),
        searcher.by_name("20.png", ""),
        searcher.by_upload("a.png", Path("raw/pictures/19.png").read_bytes()),
    ):
        assert len(searcher.answer(asked, "", 5)["results"]) == 5
    assert searcher.answer(searcher.by_row("", 3), "", 23)["results"][-1]["database_row"] != 3


@pytest.mark.parametrize("name", NAMES)
def test_other_programs_are_given_embeddings(database: Database, name: str):
    pytest.importorskip("pyarrow", reason="optional: pip install -r requirements-extra.txt")
    with pytest.raises(ValueError, match=f"mine: found {name} codes, expected embeddings, .*export the run"):
        gallery.export(coded(database, name), "parquet", "mine.parquet", "mine")
    assert not Path("mine.parquet").exists()


@pytest.mark.parametrize("name", NAMES)
def test_default_queries(database: Database, name: str):
    assert len(query.Finder(coded(database, name)).default()) == query.DEFAULT_QUERIES


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_are_encoded_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    seen, encode = [], Codes.encode
    monkeypatch.setattr(storage, "_ENCODED", 1000)
    monkeypatch.setattr(Codes, "encode", lambda codes, rows, first: (seen.append(len(rows)), encode(codes, rows))[1])
    synthetic(70, 50).save(tmp_path / "mine", codes=name)
    assert seen == [20, 20, 20, 10]


def test_the_program_of_the_page(database: Database, root: Path):
    """The database that it saves has what was added, and its model."""
    section = (root / "docs/shipping.md").read_text(encoding="utf-8").partition("## Codes")[2]
    (program,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    shutil.copy("raw/pictures/3.png", "photo.jpg")
    database.save("shipped", with_model=True, codes="binary")
    found = {}
    exec(program, found)
    saved = Database.load("shipped")
    assert saved.index["path"].tolist() == [
        *(f"{row}.png" for row in range(16, 40) if row not in (19, 21)),
        "photo.jpg",
    ]
    assert Path("shipped/model/model.safetensors").is_file()
    np.testing.assert_array_equal(saved.search("photo.jpg", 5)[1], found["rows"])
