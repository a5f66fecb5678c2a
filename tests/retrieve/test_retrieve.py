"""Search on the command line: what counts as a query, what is printed, what is drawn, and errors."""

import errno
import json
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from retrieval_project import make

from lrec.retrieve import Database, contact_sheet, image_files, query
from lrec.retrieve import __main__ as tool


@pytest.fixture
def project(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def ask(capsys: pytest.CaptureFixture, *arguments: str) -> dict:
    tool.run(tool.parser().parse_args(["--json", *arguments]))
    return json.loads(capsys.readouterr().out)


def expected(project: Path, row: int) -> list[int]:
    """Return rows of the test split (store rows 16 to 39) by similarity to one of them, itself left out."""
    embedded = np.load(project / "embeddings/tiny/resnet18/test.npy").astype(np.float64)
    similar = embedded @ embedded[row]
    similar[row] = -np.inf
    return np.argsort(-similar, kind="stable")[:-1].tolist()


def test_no_argument_at_all(project: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["retrieve"])
    assert tool.main() == 0
    first = capsys.readouterr().out
    assert first.count("query: ") == 4
    assert first.count("rank") == 4
    assert "tiny/resnet18: 24 images, 8 dimensions" in first
    drawn = (project / "retrieval.png").read_bytes()
    assert tool.main() == 0
    assert capsys.readouterr().out == first
    assert (project / "retrieval.png").read_bytes() == drawn
    with Image.open(project / "retrieval.png") as figure:
        assert figure.size[0] > 1200


def test_fewer_results_where_there_are_fewer(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """Nobody asked for eight."""
    database = Database.load("tiny/resnet18")
    for count in (4, 2, 1):
        few = Database(
            np.array(database.parts[0][:count]), database.index[:count].reset_index(drop=True), database.facts
        )
        few.save(tmp_path / str(count))
        monkeypatch.setattr(sys, "argv", ["retrieve", "--database", str(tmp_path / str(count))])
        assert tool.main() == (count == 1)
        out, err = capsys.readouterr()
        if count > 1:
            found = ask(capsys, "--database", str(tmp_path / str(count)))["queries"]
            assert {len(query["results"]) for query in found} == {count - 1}
        else:
            assert err == "error: the database holds 1 image, which cannot find itself; add more images\n"


def test_the_figure_has_a_bound(project: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tool, "MAX_COLUMNS", 3)
    found = ask(capsys, "--query", "row:20", "row:21", "--num", "20", "--output", "wide.png")
    assert [len(query["results"]) for query in found["queries"]] == [20, 20]
    with Image.open(project / "wide.png") as figure:
        assert figure.width < 5 * 190


def test_results_are_printed_where_no_figure_can_be_written(
    project: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def refuse(path: Path, rows: list) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(contact_sheet, "draw", refuse)
    assert tool.main(["--query", "row:20", "--num", "1"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("query: 20.png")
    assert out.endswith("tiny/resnet18: 24 images, 8 dimensions\n")
    assert err == "error: retrieval.png: Read-only file system; make the folder writable, or run in another one\n"
    assert len(ask(capsys, "--query", "row:20", "--num", "1")["queries"]) == 1  # JSON alone draws nothing
    assert tool.main(["--json", "--query", "row:20", "--output", "r.png"]) == 1
    assert json.loads(capsys.readouterr().out)["queries"][0]["query"] == "20.png"


def test_files_of_other_formats_are_named(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    shutil.copy(project / "raw/pictures/0.png", tmp_path / "a.png")
    for name in ("b.heic", "c.avif", "notes.txt", "d.cr2", "Thumbs.db", "@eaDir/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    tool.run(tool.parser().parse_args(["--query", str(tmp_path)]))
    line = f"{tmp_path}: 1 image, passed over for their format: b.heic, c.avif, d.cr2 and 1 more"
    assert line in capsys.readouterr().out
    (tmp_path / "a.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"found no image in this folder, passed over .* b\.heic, .*expected \.jpg"
    ):
        tool.run(tool.parser().parse_args(["--query", str(tmp_path)]))


def test_links_that_are_not_followed_are_named(tmp_path: Path):
    (tmp_path / "real.png").touch()
    folder = tmp_path / "shop"
    (folder / "a").mkdir(parents=True)
    (folder / "a/1.png").symlink_to(tmp_path / "real.png")
    (folder / "a/z.png").symlink_to("gone")
    (folder / "b").symlink_to(tmp_path)
    found, passed = image_files.find(str(folder)), "passed over as links to folders, or as no files: a/z.png, b"
    assert found.files == [folder / "a/1.png"]
    assert found.note == f"{folder}: 1 image, {passed}"
    (folder / "a/1.png").unlink()
    with pytest.raises(FileNotFoundError, match=f"found no image in this folder, {passed}, expected"):
        image_files.find(str(folder))


def test_a_file_named_in_several_ways_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics/1.png").touch()
    (tmp_path / "pics/copy.png").symlink_to("1.png")
    (tmp_path / "link").symlink_to("pics")
    named = ["pics/1.png", "pics/../pics/1.png", tmp_path / "pics/1.png", "link", "link/1.*"]
    assert image_files.find_all(named)[0] == [Path("pics/1.png"), Path("link/copy.png")]


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("20.PNG", "'20.png' is there, which differs only in case"),
        ("raw/Pictures/0.png", "'pictures' is there, which differs only in case"),
        ("raw/pictures/0.jpg", "'0.png' is there, which differs only in its suffix"),
    ],
)
def test_the_nearest_query_is_named(project: Path, written: str, hint: str):
    with pytest.raises(FileNotFoundError, match=hint):
        tool.run(tool.parser().parse_args(["--query", written]))


def test_an_image_of_the_data_set_does_not_find_itself(project: Path, capsys: pytest.CaptureFixture):
    by_path = ask(capsys, "--query", "20.png", "--num", "23")["queries"][0]
    assert [r["database_row"] for r in by_path["results"]] == expected(project, 4)
    assert [r["rank"] for r in by_path["results"]] == list(range(1, 24))
    assert by_path["class"] == "U+0416"
    assert all(r["right"] == (r["class"] == "U+0416") for r in by_path["results"])
    assert ask(capsys, "--query", "row:20", "--num", "23")["queries"][0] == by_path
    assert ask(capsys, "--query", "raw/pictures/20.png", "--num", "23")["queries"][0] == by_path


@pytest.mark.parametrize("nested", ["", "set", "outer/set"])
def test_another_image_of_the_same_name_below_the_raw_folder(made: Path, tmp_path: Path, nested: str, monkeypatch):
    """Also if the data set's own folder is nested in the raw one, as archives nest it."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    pictures = Path("raw/pictures")
    if nested:
        pictures.rename("moved")
        (pictures / nested).parent.mkdir(parents=True)
        Path("moved").rename(pictures / nested)
    for name in ("new/16.png", "new/inner/16.png", "16.png"):
        if not (pictures / name).exists():
            (pictures / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pictures / nested / "39.png", pictures / name)
    finder = query.Finder(Database.load("tiny/resnet18"))
    others = ["new/16.png", "new/inner/16.png", *["16.png"] * bool(nested)]
    for name in others:
        (found,) = finder.find([str(pictures / name)])
        assert (found.name, found.class_name, found.row) == (str(pictures / name), "", -1)
    (own,) = finder.find([str(pictures / nested / "16.png")])
    assert (own.name, own.class_name, own.row) == ("16.png", "U+0416", 0)


def test_an_unknown_image_is_embedded(project: Path, capsys: pytest.CaptureFixture, tmp_path: Path):
    shutil.copy(project / "raw/pictures/20.png", tmp_path / "mine.png")
    found = ask(capsys, "--query", str(tmp_path / "mine.png"), "--num", "24")["queries"][0]
    assert [r["database_row"] for r in found["results"]][0] == 4
    assert sorted(r["database_row"] for r in found["results"]) == list(range(24))
    assert found["results"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert found["class"] == ""
    assert {r["right"] for r in found["results"]} == {None}


def test_an_image_of_another_split_is_embedded(project: Path, capsys: pytest.CaptureFixture):
    found = ask(capsys, "--query", "3.png", "--num", "24")["queries"][0]
    assert found["class"] == "001.Black_footed_Albatross"
    train, test = (np.load(project / f"embeddings/tiny/resnet18/{split}.npy") for split in ("train", "test"))
    similar = [r["similarity"] for r in found["results"]]
    np.testing.assert_allclose(similar, np.sort(test @ train[3])[::-1], atol=1e-5)


def test_a_folder_a_glob_and_several(project: Path, capsys: pytest.CaptureFixture, tmp_path: Path):
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.png", "sub/c.PNG", "[d].png"):
        shutil.copy(project / "raw/pictures/1.png", tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    names = [str(tmp_path / name) for name in ("[d].png", "a.png", "b.png", "sub/c.PNG")]
    arguments = ["--num", "1", "--query"]
    assert [q["query"] for q in ask(capsys, *arguments, str(tmp_path))["queries"]] == names
    assert [q["query"] for q in ask(capsys, *arguments, f"{tmp_path}/?.png", "row:0")["queries"]] == names[1:3] + [
        "0.png"
    ]
    assert [q["query"] for q in ask(capsys, *arguments, names[0])["queries"]] == names[:1]


def test_leftovers_are_no_queries(project: Path, capsys: pytest.CaptureFixture, tmp_path: Path):
    shutil.copy(project / "raw/pictures/1.png", tmp_path / "a.png")
    for name in ("._a.png", ".b.png.1f.tmp", "Thumbs.db", "__MACOSX/a.png", ".cache/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"of a system")
    for written in (tmp_path, tmp_path / "*", tmp_path / "**/*.png", tmp_path / "[_a.T]*"):
        found = ask(capsys, "--num", "1", "--query", str(written))["queries"]
        assert [q["query"] for q in found] == [str(tmp_path / "a.png")]
    shutil.copy(project / "raw/pictures/1.png", tmp_path / ".cache/c.png")
    for written in (".cache/c.png", ".cache", ".cache/*"):  # named by the user
        assert len(ask(capsys, "--num", "1", "--query", str(tmp_path / written))["queries"]) == 1


def test_an_accent_of_a_path_may_be_written_either_way(project: Path, capsys: pytest.CaptureFixture, tmp_path: Path):
    forms = [unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD")]
    for written, there in (forms, forms[::-1]):
        database = Database.load("tiny/resnet18")
        database.index.loc[0, "path"] = there
        assert [q.row for q in query.Finder(database).find([written])] == [0]


def test_row_n_is_a_row_of_the_packed_store(project: Path, capsys: pytest.CaptureFixture, tmp_path: Path):
    """Not the row of the database, which a result gives; an added image has the one but not the other."""
    database = Database.load("tiny/resnet18")
    database.add("raw/pictures/0.png")
    database.save(tmp_path / "saved")
    found = ask(capsys, "--database", str(tmp_path / "saved"), "--query", "row:20", "--num", "24")["queries"][0]
    assert found["query"] == "20.png"
    for result in found["results"]:
        assert set(result) == {"rank", "similarity", "class", "right", "path", "database_row"}
        assert database.index["path"][result["database_row"]] == result["path"]
    database.index = database.index[20:].reset_index(drop=True)
    database.parts, database.facts = [np.zeros((5, 8), np.float32)], {}
    with pytest.raises(ValueError, match="^row:0: query not found, expected row:N with N from 36 to 39$"):
        query.Finder(database).find(["row:0"])


def test_query_and_gallery_splits(project: Path, capsys: pytest.CaptureFixture):
    found = ask(capsys, "--database", "shop/resnet18", "--num", "24")
    assert found["split"] == "gallery"
    assert all(int(q["query"].removesuffix(".png")) < 16 for q in found["queries"])
    assert all(len(q["results"]) == 24 for q in found["queries"])
    assert ask(capsys, "--database", "shop/resnet18", "--split", "query", "--num", "15")["split"] == "query"


def test_original_option_names(project: Path, capsys: pytest.CaptureFixture):
    original = ["--query_img_name", "5.png", "--data_base", "tiny/resnet18", "--data_type", "train"]
    ours = ["--query", "5.png", "--database", "tiny/resnet18", "--split", "train", "--num", "2"]
    found = ask(capsys, *original, "--retrieval_num", "2")
    assert found == ask(capsys, *ours)
    assert found["split"] == "train"
    assert len(found["queries"][0]["results"]) == 2


def test_frames_are_green_and_red(project: Path, capsys: pytest.CaptureFixture, tmp_path: Path):
    found = ask(capsys, "--query", "row:20", "--num", "23", "--output", str(tmp_path / "out/r.png"))
    with Image.open(tmp_path / "out/r.png") as figure:
        colours = {tuple(colour) for colour in np.unique(np.asarray(figure).reshape(-1, 3), axis=0)}
    rights = {r["right"] for r in found["queries"][0]["results"]}
    assert rights == {True, False}
    assert (0x1A, 0x7F, 0x37) in colours
    assert (0xCF, 0x22, 0x2E) in colours


def test_classes_are_legible(project: Path, capsys: pytest.CaptureFixture):
    tool.run(tool.parser().parse_args(["--query", "row:20", "--num", "1"]))
    assert "query: 20.png, class: U+0416 Ж\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--database", "models/tiny/resnet18"], "no such database ('tiny/resnet18' is there)"),
        (["--database", "nope/resnet18"], "nope/resnet18: found no such database, expected one of shop/resnet18, tiny"),
        (["--split", "gallery"], "split: found 'gallery', expected one of train, test for tiny"),
        (["--num", "0"], "number of results: found 0, expected 1 to 23"),
        (["--num", "24"], "number of results: found 24, expected 1 to 23"),
        (["--query", "nowhere.png"], "nowhere.png: query not found, expected a path of the data set's index"),
        (["--query", "row:40"], "row:40: query not found, expected row:N with N from 0 to 39"),
        (["--query", "broken.png"], "broken.png: not readable as an image"),
        (["--query", "empty"], "empty: found no image in this folder"),
        (["--device", "cuda:77"], "device: found 'cuda:77'"),
    ],
)
def test_errors_are_one_line(
    project: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
):
    (project / "broken.png").write_bytes(b"no image")
    (project / "empty").mkdir(exist_ok=True)
    monkeypatch.setattr(sys, "argv", ["retrieve", *arguments])
    assert tool.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_the_figure_is_a_png(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        tool.parser().parse_args(["--output", "found.jpg"])
    assert "found 'found.jpg', expected a file name that ends in .png" in capsys.readouterr().err


def test_missing_model(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    make(root, tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree("models")
    monkeypatch.setattr(sys, "argv", ["retrieve", "--query", "row:0"])
    assert tool.main() == 1
    assert "models/tiny/resnet18/config.json: not found; run `dvc repro` (stage train) first" in capsys.readouterr().err
    # An image of the database needs no model.
    monkeypatch.setattr(sys, "argv", ["retrieve", "--query", "row:20"])
    assert tool.main() == 0
