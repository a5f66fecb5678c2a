"""The search page without its server: what is found, what is refused, and how it looks as HTML."""

import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from retrieval_project import note, note_store

from lrec.data import store
from lrec.io import files
from lrec.retrieve import Database, __main__, page
from lrec.retrieve.page import Searcher

HOSTILE = "<img src=x onerror=alert(1)> {{name}} ${name} `name` \"'&\x1b\u202e"

NOISE = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)


@pytest.fixture
def searcher(made: Path, monkeypatch: pytest.MonkeyPatch) -> Searcher:
    monkeypatch.chdir(made)
    return Searcher("tiny/resnet18")


def rows(found: dict) -> list[int]:
    return [result["database_row"] for result in found["results"]]


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


class Text(HTMLParser):
    """The text of HTML, and its tags."""

    def __init__(self, written: str) -> None:
        super().__init__()
        self.words, self.tags, self.titles = "", set(), []
        self.feed(written)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.titles += [value for name, value in attrs if name == "title"]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_an_upload_finds_what_its_file_finds(searcher: Searcher):
    expected = Database.load("tiny/resnet18").search("raw/pictures/20.png", 5)
    asked = searcher.by_upload("20.png", Path("raw/pictures/20.png").read_bytes())
    found = searcher.answer(asked, "test", 5)
    assert rows(found) == expected[1][0].tolist()
    assert rows(found)[0] == 4  # an upload of an image of the set finds it, whatever the upload is called
    assert {result["right"] for result in found["results"]} == {None}
    assert found["class"] == ""


def test_an_image_of_the_set_does_not_find_itself(searcher: Searcher):
    for asked in (
        searcher.by_row("test", 4),
        searcher.by_name("20.png", "test"),
        searcher.by_name(" row:20 ", "train"),
    ):
        assert asked.place == ("test", 4)
        found = searcher.answer(asked, "test", 60)
        assert sorted(rows(found)) == [row for row in range(24) if row != 4]
        assert all(result["right"] == (result["class"] == "U+0416") for result in found["results"])
    assert len(rows(searcher.answer(asked, "train", 60))) == 16
    assert searcher.splits == ["train", "test"]


@pytest.mark.parametrize("fact", [{"weights": "0" * 64}, {"kind": "features"}, {"reduction": "0" * 64}])
def test_splits_are_of_one_embedding(project: Path, fact: dict[str, str]):
    """Another model's embeddings of the second split would be compared with the first model's of the first."""
    searcher = Searcher("tiny/resnet18")
    note(project, "tiny", **fact)
    key = next(iter(fact))
    with pytest.raises(ValueError, match=rf"^embeddings/tiny/resnet18/embedding\.json: found {key}.*; open the run"):
        searcher.open("train")
    assert len(searcher.open("test")[0]) == 24
    again = Searcher("tiny/resnet18")
    assert len(again.open("train")[0]) == 16


def test_a_saved_database_has_no_splits(searcher: Searcher, tmp_path: Path):
    database = Database.load("tiny/resnet18")
    database.add("raw/pictures/0.png", "added")
    database.save(tmp_path / "saved")
    saved = Searcher(str(tmp_path / "saved"))
    assert saved.splits == [""]
    assert rows(saved.answer(saved.by_row("", 24), "", 3)) == rows(
        searcher.answer(searcher.by_name("0.png", "test"), "test", 3)
    )
    assert saved.by_name("0.png", "").name == "0.png"
    assert "train" not in page.sample(saved, "", 5, 0)


def test_no_file_is_read_by_its_name(searcher: Searcher, made: Path):
    for name in (
        "/etc/passwd",
        "params.yaml",
        "raw/pictures/20.png",
        str(made / "raw/pictures/20.png"),
        "raw",
        "*",
        "",
        " ",
    ):
        with pytest.raises(FileNotFoundError, match="query not found"):
            searcher.by_name(name, "test")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.by_row("gallery", 0), "split: found 'gallery', expected one of train, test"),
        (lambda s: s.by_row("../x", 0), "split: found"),
        (lambda s: s.by_row("test", -1), "row: found -1, expected 0 to 23"),
        (lambda s: s.by_row("test", 24), "row: found 24"),
        (lambda s: s.by_name("row:40", "test"), "row:40: query not found, expected row:N"),
        (lambda s: s.answer(s.by_row("test", 0), "test", 0), "number of results: found 0, expected 1 to 60"),
        (lambda s: s.answer(s.by_row("test", 0), "test", 61), "number of results: found 61"),
        (
            lambda s: s.by_upload("a.png", b""),
            "a.png: not readable as an image: cannot identify image file, expected one of JPEG, PNG",
        ),
        (lambda s: s.by_upload("a.png", b"no image"), "a.png: not readable as an image"),
        (
            lambda s: s.by_upload("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
            "a.svg: not readable as an image",
        ),
        (lambda s: s.by_upload("a.png", png(NOISE)[:999]), "a.png: not readable as an image"),
    ],
)
def test_what_is_refused_is_one_line(searcher: Searcher, call, message: str):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        call(searcher)
    line = page.line(caught.value)
    assert Text(line).words.startswith(message[:20])
    assert "\n" not in line
    assert "BytesIO" not in line


def test_a_bug_is_no_line():
    with pytest.raises(RuntimeError, match="a bug"):
        page.line(RuntimeError("a bug"))


def test_a_large_photograph(searcher: Searcher):
    """60 megapixels are searched with, more than 80 are refused."""
    pixels = np.zeros((7500, 8000, 3), np.uint8)
    pixels[:] = searcher.open("test")[0].image(4).mean((0, 1)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    asked = searcher.by_upload("large.jpg", out.getvalue())
    assert len(asked.picture) < 20_000
    assert len(rows(searcher.answer(asked, "test", 3))) == 3
    out = io.BytesIO()
    Image.new("1", (9000, 9000)).save(out, "PNG")
    with pytest.raises(ValueError, match=r"large\.png: .* 9000x9000 pixels, expected at most 80,000,000"):
        searcher.by_upload("large.png", out.getvalue())


def test_hostile_names_are_text(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "hostile"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    index = store.read_index(Path("data/processed/tiny/index.csv"))
    index["class"] = index["class"].replace("U+0416", HOSTILE)
    index["path"] = [f"{row}{HOSTILE}.png" for row in range(40)]
    files.write_table(Path("data/processed/tiny/index.csv"), index)
    note_store(folder, "tiny")
    searcher = Searcher("tiny/resnet18")
    asked = searcher.by_upload(HOSTILE, Path("raw/pictures/20.png").read_bytes())
    shown = HOSTILE.replace("\x1b", "\ufffd").replace("\u202e", "\ufffd")
    for written, titles in (
        (page.results(searcher, asked, "test", 24), 24),
        (page.results(searcher, searcher.by_row("test", 4), "test", 24), 23),
        (page.sample(searcher, "test", 24, 0), 24),
        (page.line(ValueError(HOSTILE)), 0),
    ):
        read = Text(written)
        assert read.tags <= {"div", "ul", "li", "button", "img", "p", "b", "span"}
        assert not re.search(r"\{\{|\$\{|`|\\", written)
        assert len(read.titles) == titles
        assert all(shown in title for title in read.titles)
        assert shown in read.words or written.startswith("<p")


def test_green_and_red_where_the_class_is_known(searcher: Searcher):
    known = page.results(searcher, searcher.by_row("test", 4), "test", 23)
    assert (known.count("lrec-right"), known.count("lrec-wrong"), known.count("lrec-unknown")) == (5, 18, 0)
    assert known.count("✓") == 5
    assert "class Ж" in known
    upload = page.results(searcher, searcher.by_upload("a", Path("raw/pictures/20.png").read_bytes()), "test", 24)
    assert (upload.count("lrec-right"), upload.count("lrec-wrong"), upload.count("lrec-unknown")) == (0, 0, 24)
    assert "cropped" not in upload
    searcher.open("test")[0].facts["crop"] = "box"
    assert "crop a photograph to its object first" in page.results(
        searcher, searcher.by_upload("a", Path("raw/pictures/20.png").read_bytes()), "test", 1
    )


def test_images_that_are_not_here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(made)
    database = Database.load("tiny/resnet18")
    (tmp_path / "bad.png").write_bytes(b"no image")
    bare = Database(np.array(database.parts[0][:4]), database.index[:4].copy(), {})
    bare.index["row"] = -1
    bare.index["path"] = ["", "nowhere.png", str(tmp_path / "bad.png"), f"{'long' * 99}.png"]
    bare.save(tmp_path / "bare")
    searcher = Searcher(str(tmp_path / "bare"))
    written = page.results(searcher, searcher.by_row("", 0), "", 8)
    assert written.count("no image here") == 4
    assert page.sample(searcher, "", 4, 0).count("no image here") == 4
    figure = ["--query", bare.index["path"].iloc[3], "--output", str(tmp_path / "figure.png")]
    assert __main__.main(["--database", str(tmp_path / "bare"), *figure]) == 0
    assert (tmp_path / "figure.png").is_file()
    assert "an image without a name" in written
    with pytest.raises(ValueError, match="names no model that could embed an image"):
        searcher.by_upload("a.png", (made / "raw/pictures/20.png").read_bytes())
    single = Database(np.array(database.parts[0][:1]), database.index[:1].copy(), {})
    single.save(tmp_path / "single")
    searcher = Searcher(str(tmp_path / "single"))
    with pytest.raises(ValueError, match="the database holds 1 image, which cannot find itself"):
        page.results(searcher, searcher.by_row("", 0), "", 8)


def test_other_images_to_choose_from(searcher: Searcher):
    first, again, others = (searcher.some("test", 6, seed) for seed in (0, 0, 1))
    assert first == again != others
    assert searcher.some("test", 99, 0) == list(range(24))
