"""The database in Python: load, search, add and save; its size, and what it refuses."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from retrieval_project import FILE

from lrec.retrieve import Database


def test_load(database: Database):
    assert len(database) == 24
    assert database.width == 8
    assert isinstance(database.parts[0], np.memmap)
    assert "_encoder" not in vars(database)  # the model waits


def test_load_by_folder(database: Database):
    assert len(Database.load("embeddings/tiny/resnet18", "train")) == 16


def test_from_another_folder(database: Database, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As from a notebook: nothing depends on where a database is opened."""
    expected = database.search("raw/pictures/0.png", 3)
    database.add("raw/pictures/1.png", "added")
    database.save(tmp_path / "mine")
    (made / "notebooks").mkdir(exist_ok=True)
    image = made / "raw/pictures/0.png"
    for place, run in (
        (made / "notebooks", Path("../embeddings/tiny/resnet18")),
        (tmp_path, made / "embeddings/tiny/resnet18"),
    ):
        monkeypatch.chdir(place)
        opened = Database.load(run)
        np.testing.assert_array_equal(opened.search(image, 3)[1], expected[1])
        assert opened.image(0) is not None
        with pytest.raises(FileNotFoundError, match="no runs in .*name a run by its folder, as"):
            Database.load("tiny/resnet18")
        again = Database.load(tmp_path / "mine")
        np.testing.assert_array_equal(again.search(image, 3)[1], expected[1])
        assert again.image(0) is not None
        assert again.image(len(again) - 1) is not None
        again.add(image)
        again.save("copied")
        monkeypatch.chdir("/")
        copy = Database.load(place / "copied")
        assert copy.image(len(copy) - 1) is not None
        assert copy.search(image, 1)[1] == [[len(copy) - 1]]


def test_add_and_save(database: Database, tmp_path: Path):
    rows = database.add(["raw/pictures/0.png", "raw/pictures/1.png"], ["new", ""])
    assert rows.tolist() == [24, 25]
    for _ in range(2):  # the second time over the folder that is open
        database.save(tmp_path / "saved")
        database = Database.load(tmp_path / "saved")
        assert len(database) == 26
        assert database.index["class"].tolist()[-2:] == ["new", ""]
        scores, found = database.search("raw/pictures/0.png", 1)
        assert found.tolist() == [[24]]
        np.testing.assert_allclose(scores, 1, atol=1e-5)
        np.testing.assert_array_equal(database.image(24), np.asarray(Image.open("raw/pictures/0.png")))
        np.testing.assert_array_equal(database.embedding(25), database.parts[-1][-1])


def test_the_table_is_not_copied_by_each_addition(database: Database, monkeypatch: pytest.MonkeyPatch):
    copied, whole = [], pd.concat
    monkeypatch.setattr(pd, "concat", lambda *given, **how: copied.append(1) or whole(*given, **how))
    before, row = database.index.copy(), database.embedding(3)
    for number in range(20):
        assert database.add(row, f"new {number}").tolist() == [24 + number]
    assert (len(database), len(copied)) == (44, 0)
    with pytest.raises(ValueError, match="found the class 'New 7', which differs only in case from 'new 7'"):
        database.add(row, "New 7")
    found = database.index
    assert len(copied) == 1
    new = pd.DataFrame({"path": "", "class": [f"new {number}" for number in range(20)], "row": -1})
    pd.testing.assert_frame_equal(found, whole([before, new], ignore_index=True))
    database.index["class"] = "A"  # what is known follows
    with pytest.raises(ValueError, match="found the class 'a', which differs only in case from 'A'"):
        database.add(row, "a")
    assert database.add(row, "New 7").tolist() == [44]


def test_embeddings_need_no_model(database: Database, tmp_path: Path):
    bare = Database(np.array(database.parts[0]), database.index, {})
    assert bare.add(torch.from_numpy(np.array(database.parts[0][:2]))).tolist() == [24, 25]
    bare.save(tmp_path / "bare")
    again = Database.load(tmp_path / "bare")
    assert again.search(again.parts[0][:1], 2)[1].tolist() == [[0, 24]]
    with pytest.raises(ValueError, match="names no model that could embed an image"):
        bare.add(["raw/pictures/0.png"])
    with pytest.raises(ValueError, match=r"found the shape \(2, 9\), expected \(N, 8\)"):
        bare.add(np.zeros((2, 9), np.float32))


def test_half_precision(database: Database, tmp_path: Path):
    half = Database(np.array(database.parts[0], np.float16), database.index, database.facts)
    half.save(tmp_path / "half")
    loaded = Database.load(tmp_path / "half")
    assert loaded.parts[0].dtype == np.float16
    exact, rounded = (d.search(np.array(database.parts[0]), 1)[0] for d in (database, loaded))
    np.testing.assert_allclose(exact, rounded, atol=2e-3)


def test_a_large_one_is_opened_without_being_read(tmp_path: Path, database: Database):
    embeddings = np.lib.format.open_memmap(tmp_path / "e.npy", mode="w+", dtype=np.float16, shape=(20_000, 64))
    index = pd.DataFrame({"path": [f"{i}.png" for i in range(20_000)], "class": "x", "row": -1})
    Database(embeddings, index, database.facts).save(tmp_path / "large")
    loaded = Database.load(tmp_path / "large")
    assert isinstance(loaded.parts[0], np.memmap)
    assert (tmp_path / "large/embeddings.npy").stat().st_size == 20_000 * 64 * 2 + 128


@pytest.mark.parametrize(
    ("embeddings", "rows", "message"),
    [
        (np.zeros((2, 3)), 2, "found float64"),
        (np.zeros(3, np.float32), 3, "expected \\(G, d\\)"),
        (np.zeros((2, 3), np.float32), 3, "found 3 rows, expected 2"),
    ],
)
def test_bad_arrays(embeddings: np.ndarray, rows: int, message: str):
    index = pd.DataFrame({"path": [""] * rows, "class": "", "row": -1})
    with pytest.raises(ValueError, match=message):
        Database(embeddings, index, {})


def test_bad_calls(database: Database):
    with pytest.raises(ValueError, match="classes: found 1, expected 2"):
        database.add(["raw/pictures/0.png"] * 2, ["a"])
    with pytest.raises(ValueError, match=r"found float64 of shape \(4, 4, 3\)|expected \(Q, 8\)"):
        database.search(np.zeros((4, 4, 3)), 1)
    with pytest.raises(FileNotFoundError, match="expected one of shop/resnet18, tiny/resnet18"):
        Database.load("tiny/resnet19")


def test_an_empty_one_says_so(database: Database):
    database.remove(range(23))
    assert database.described == "1 image, 8 dimensions"
    with pytest.raises(ValueError, match="gallery: the only row is excluded, so nothing can be found; add images"):
        database.search(FILE, 1, exclude=0)
    database.remove(0)
    with pytest.raises(ValueError, match="gallery: the database is empty, so nothing can be found; add images"):
        database.search(FILE, 1)
    with pytest.raises(ValueError, match="row: found 0, but the database is empty"):
        database.remove(0)


@pytest.mark.parametrize("k", [1.5, "3", None, True])
def test_the_number_of_results_is_a_whole_one(database: Database, k):
    with pytest.raises(ValueError, match="number of results: found .*, expected a whole number"):
        database.search(FILE, k)


def test_index_and_embeddings_that_differ_are_not_saved(database: Database, tmp_path: Path):
    database.index = database.index.iloc[:-1]
    with pytest.raises(ValueError, match="index: found 23 rows, expected 24, one per embedding"):
        database.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_rows_to_leave_out_are_one_per_query(database: Database):
    with pytest.raises(ValueError, match=r"exclude: found the shape \(1,\), expected \(2,\), a row per query"):
        database.search(database.parts[0][:2], 1, exclude=[0])
    assert database.search(database.parts[0][:2], 1, exclude=[0, -1])[1][1] == [1]


@pytest.mark.parametrize("row", [24, 10**6, -2, -7, 3.7, True, "a", None])
def test_rows_to_leave_out_are_rows(database: Database, row):
    query = database.parts[0][:2]
    with pytest.raises(ValueError, match=f"^exclude: found {re.escape(repr(row))}, expected -1 to 23$"):
        database.search(query, 1, exclude=[0, row])


def test_the_threshold_of_the_page(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Of four classes on a line, one has two first results of another class, which are the least similar."""
    text = (root / "docs/retrieval.md").read_text(encoding="utf-8").partition("## When nothing matches")[2]
    program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    angles = np.array([0, 2, 30, 33, 60, 64, 90, 100, 94.9])
    embeddings = np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], 1).astype(np.float32)
    index = pd.DataFrame({"path": "", "class": list("aabbccdde"), "row": -1})
    monkeypatch.setattr(Database, "load", lambda *_: Database(embeddings, index, {}))
    exec(program, found := {})
    assert found["threshold"] == np.float32(found["first"][4])
    assert capsys.readouterr().out == (
        "from 0.998 on, 100.0% of the first results are right\n"
        "66.7% of the queries have one, 0.0% if their class is not there\n"
    )
    index["class"] = list("abcbcadee")  # only the two of e find each other
    index.loc[8, "class"] = "a"
    with pytest.raises(SystemExit, match="95 % of the first results are right at no threshold"):
        exec(program, {})
