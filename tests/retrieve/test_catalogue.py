"""One's own catalogue: a folder of images without classes, embedded with a database's model, searched and saved."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lrec.embedding.codes import Codes
from lrec.retrieve import Database, encoder
from lrec.retrieve import __main__ as tool
from lrec.retrieve.page import Searcher
from lrec.retrieve.query import Finder


@pytest.fixture
def catalogue(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six pictures in two folders, a file that is cut off, one that is no image, and one of another format."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    folder = Path("catalogue")
    (folder / "sub").mkdir(parents=True)
    for row in range(16, 22):
        shutil.copy(f"raw/pictures/{row}.png", folder / ("sub" if row > 19 else "") / f"{row}.png")
    (folder / "18 cut.png").write_bytes((folder / "18.png").read_bytes()[:900])
    (folder / "no.png").write_bytes(b"no image")
    (folder / "notes.txt").touch()
    return folder


LEFT_OUT = (
    r"left out 2 of 8 files that cannot be read: catalogue/18 cut\.png, catalogue/no\.png "
    r"\(the first: image file is truncated\)"
)


def ask(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[dict, str]:
    tool.run(tool.parser().parse_args(["--json", *arguments]))
    out, err = capsys.readouterr()
    return json.loads(out), err


@pytest.mark.parametrize("batch", [64, 2])
def test_in_python(catalogue: Path, batch: int, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoder, "_BATCH", batch)
    run = Database.load("tiny/resnet18")
    mine = run.of_images([catalogue, "catalogue/1?.png", catalogue / "16.png"])
    paths = [f"catalogue/{row}.png" for row in (16, 17, 18, 19)] + [f"catalogue/sub/{row}.png" for row in (20, 21)]
    assert mine.index.to_dict("list") == {"path": paths, "class": [""] * 6, "row": [-1] * 6}
    np.testing.assert_allclose(mine.parts[0], run.parts[0][:6], atol=1e-5)
    err = capsys.readouterr().err
    assert re.search(f"^WARNING: {LEFT_OUT}$", err, re.MULTILINE)
    assert "WARNING: catalogue: 8 images, passed over for their format: notes.txt\n" in err
    assert ("embed: " in err) == (batch == 2)  # the bar of more than a batch
    np.testing.assert_array_equal(mine.image(4), np.asarray(Image.open("raw/pictures/20.png")))


def test_images_are_prepared_a_batch_at_a_time(catalogue: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoder, "_BATCH", 2)
    sizes, whole = [], encoder.Encoder.encode
    monkeypatch.setattr(
        encoder.Encoder, "encode", lambda self, pixels: sizes.append(len(pixels)) or whole(self, pixels)
    )
    assert len(Database.load("tiny/resnet18").of_images(catalogue)) == 6
    assert max(sizes) == 2


def test_saved_with_codes_and_model(catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch):
    """The codes are fitted to the catalogue's own rows; the folder works where nothing else of the project is."""
    arguments = ["--database", "tiny/resnet18", "--images", "catalogue/*.png", "catalogue/sub", "--save", "saved"]
    assert tool.main([*arguments, "--codes", "binary", "--with-model"]) == 0
    assert capsys.readouterr().out == "saved: 6 images, 8 dimensions as binary codes of 1 bytes\n"
    run = Database.load("tiny/resnet18")
    expected = Codes.fit("binary", [np.array(run.parts[0][:6])])
    Path("saved").rename(tmp_path / "moved")
    catalogue.rename(tmp_path / "catalogue")
    shutil.rmtree(tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    saved = Database.load("moved")
    np.testing.assert_allclose(saved.codes.fitted, expected.fitted, atol=1e-6)
    assert saved.search("catalogue/17.png", 1)[0][0, 0] == 1
    again = saved.of_images("catalogue/sub")  # whole embeddings, whatever the database holds
    np.testing.assert_allclose(again.parts[0], run.parts[0][4:6], atol=1e-5)
    again.save("again")
    assert Database.load("again").search("catalogue/sub/21.png", 1)[1] == [[1]]


def test_a_name_that_is_not_text_is_left_out(catalogue: Path, capsys: pytest.CaptureFixture):
    """An index is UTF-8; such a name would otherwise lose all that was embedded when the index is written."""
    for name in (b"\xff.png", b"17\xe9.png"):
        shutil.copy(catalogue / "16.png", os.fsencode(catalogue) + b"/" + name)
    assert tool.main(["--database", "tiny/resnet18", "--images", "catalogue", "--save", "saved"]) == 0
    out, err = capsys.readouterr()
    assert out == "saved: 6 images, 8 dimensions\n"
    assert r"WARNING: left out 4 of 10 files that cannot be read: catalogue/17\udce9.png, catalogue/18 cut.png" in err
    assert "(the first: its name is not UTF-8 text; rename it)" in err
    database = Database.load("saved")
    with pytest.raises(ValueError, match="its name is not UTF-8 text; rename it"):
        database.add(os.fsdecode(os.fsencode(catalogue) + b"/\xff.png"))
    assert len(database) == 6


@pytest.mark.parametrize("given", ["absolute", "from another folder"])
def test_pictures_below_the_project_are_found_when_all_is_moved(
    catalogue: Path, tmp_path: Path, given: str, monkeypatch
):
    """However their folder was named; those outside stay where they are."""
    shutil.copytree(catalogue, tmp_path / "outside")
    run = Path("embeddings/tiny/resnet18").resolve()
    Path("notebooks").mkdir()
    pictures, mine = catalogue.absolute(), Path("mine").absolute()
    if given != "absolute":
        monkeypatch.chdir("notebooks")
        pictures = Path("../catalogue")
    whole = Database.load(run).of_images([pictures / "16.png", tmp_path / "outside/17.png"])
    assert whole.index["path"].tolist() == ["catalogue/16.png", str(tmp_path / "outside/17.png")]
    assert [asked.row for asked in Finder(whole).find([str(pictures / "16.png"), str(pictures / "17.png")])] == [0, -1]
    whole.save(mine, with_model=True)
    monkeypatch.chdir(tmp_path)
    Path("project").rename("moved")
    database = Database.load("moved/mine")
    assert [database.image(row) is not None for row in range(2)] == [True, True]


def test_a_moved_one_is_searched_by_its_own_rows(catalogue: Path, tmp_path: Path, capsys, monkeypatch):
    """Its embeddings are there; only the picture of the query is not."""
    Database.load("tiny/resnet18").of_images(catalogue).save("saved", with_model=True)
    (tmp_path / "elsewhere").mkdir()
    shutil.move("saved", tmp_path / "elsewhere/saved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    assert tool.main(["--database", "saved", "--query", "catalogue/17.png", "--num", "5"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("query: catalogue/17.png, class: unknown\n")
    assert out.endswith("figure: retrieval.png\n")


def test_a_folder_of_other_files_is_refused_before_anything_is_embedded(catalogue: Path, capsys, monkeypatch):
    monkeypatch.setattr(Database, "of_images", None)
    arguments = ["--database", "tiny/resnet18", "--images", "catalogue", "--save"]
    for there, found in (("mine/thesis.txt", "mine: found thesis.txt"), ("saved/model/x", "saved/model: found x")):
        Path(there).parent.mkdir(parents=True)
        Path(there).touch()
        assert tool.main([*arguments, there.partition("/")[0]]) == 1
        assert f"error: {found}, expected a new or empty folder" in capsys.readouterr().err
    Path("empty").mkdir()
    monkeypatch.chdir("empty")
    assert tool.main(["--database", "../tiny/resnet18", "--images", "../catalogue", "--save", "."]) == 1
    assert "error: .: the current folder cannot be replaced; name a new folder in it" in capsys.readouterr().err


def test_a_catalogue_does_not_take_an_index_beside_it_for_a_store(catalogue: Path):
    Path("index.csv").write_text("path,class,row\n")
    Path("images.npy").write_text("mine")
    assert tool.main(["--images", "catalogue", "--query", "raw/pictures/20.png"]) == 0


@pytest.mark.parametrize("whole", [True, False])
def test_beside_the_params_of_another_program(catalogue: Path, tmp_path: Path, whole: bool, monkeypatch, capsys):
    """A saved database is searched there; in its own project, a mistake in params.yaml is reported."""
    query = str(catalogue.absolute() / "17.png")
    run = Database.load("tiny/resnet18")
    (run.of_images(catalogue) if whole else run).save("saved", with_model=True)
    shutil.copytree("saved", tmp_path / "other/saved")
    for folder, status in ((tmp_path / "other", 0), (Path.cwd(), 1 - whole)):
        monkeypatch.chdir(folder)
        Path("params.yaml").write_text("prepare: {split: 0.2}\n")
        assert tool.main(["--database", "saved", "--query", query, "--num", "1", "--json"]) == status
    assert ("error: params.yaml: " in capsys.readouterr().err) != whole


def test_searched_on_the_command_line(catalogue: Path, capsys: pytest.CaptureFixture):
    """The images beside the results are drawn; results and queries have no class."""
    found, err = ask(capsys, "--images", "catalogue", "--query", "raw/pictures/20.png", "--output", "found.png")
    assert found["split"] is None
    (answer,) = found["queries"]
    assert [result["path"] for result in answer["results"]][0] == "catalogue/sub/20.png"
    assert {result["right"] for result in answer["results"]} == {None}
    assert "catalogue, with the model of tiny/resnet18: 6 images, 8 dimensions\n" in err
    with Image.open("found.png") as figure:
        assert figure.width > 7 * 150
    found, _ = ask(capsys, "--images", "catalogue")  # a few of its own images
    assert len(found["queries"]) == 4
    assert all(query["query"] not in [r["path"] for r in query["results"]] for query in found["queries"])


def test_a_catalogue_has_no_rows_to_name(catalogue: Path):
    """They would be those of the packed store."""
    finder = Finder(Database.load("tiny/resnet18").of_images(catalogue))
    with pytest.raises(
        FileNotFoundError,
        match=r"^row:1: query not found, expected a path .* \(such as catalogue/16.png\), or an image",
    ):
        finder.find(["row:1"])
    assert finder.named("row:1") is None


def test_with_faiss(catalogue: Path, capsys: pytest.CaptureFixture):
    pytest.importorskip("faiss", reason="faiss is an optional dependency: pip install faiss-cpu")
    _, err = ask(capsys, "--images", "catalogue", "--query", "raw/pictures/20.png", "--index", "flat")
    assert "faiss flat: 100.0% of the exact results" in err


def test_on_the_page(catalogue: Path):
    searcher = Searcher("tiny/resnet18", images=["catalogue"])
    assert searcher.splits == [""]
    found = searcher.answer(searcher.by_upload("20.png", Path("raw/pictures/20.png").read_bytes()), "", 2)
    assert found["results"][0]["path"] == "catalogue/sub/20.png"


def test_queries_that_cannot_be_read(catalogue: Path, capsys: pytest.CaptureFixture):
    """Left out of a folder and of a glob; an error where the file is named by itself."""
    for written in ("catalogue", "catalogue/**/*.png"):
        found, err = ask(capsys, "--query", "row:20", written, "raw/pictures/1.png", "--num", "1")
        paths = [query["query"] for query in found["queries"]]
        assert (len(paths), paths[0], paths[-1]) == (8, "20.png", "1.png")
        assert [query["results"][0]["database_row"] for query in found["queries"]][1:7] == list(range(6))
        assert re.search(LEFT_OUT.replace("8", "9", 1), err)  # with 1.png
    for written in (["catalogue/no.png"], ["catalogue", "catalogue/no.png"]):
        assert tool.main(["--query", *written]) == 1
        assert capsys.readouterr().err.startswith("error: catalogue/no.png: not readable as an image")
    assert tool.main(["--query", "catalogue/n*.png"]) == 1
    assert (
        "left out 1 of 1 file that cannot be read: catalogue/no.png (cannot identify image file)\n"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "nowhere"], "nowhere: found no such file, folder or glob"),
        (["--images", "Catalogue"], "'catalogue' is there, which differs only in case"),
        (["--images", "catalogue/no.png"], "found no image that can be read; left out 1 of 1 file that cannot be"),
        (["--images", "models"], "models: found no image in this folder, passed over for their format: "),
        (["--images", "catalogue", "--split", "test"], "--split: has no effect with --images"),
    ],
)
def test_errors(catalogue: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture):
    assert tool.main(arguments) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_the_server_of_the_page(catalogue: Path, root: Path):
    """It answers and refuses; it keeps the database that it opened, though another takes its folder."""
    pytest.importorskip("fastapi", reason="optional: pip install -r requirements-extra.txt")
    from fastapi.testclient import TestClient

    text = (root / "docs/retrieval.md").read_text(encoding="utf-8").partition("## In a web server")[2]
    program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    Database.load("tiny/resnet18").of_images(catalogue).save("catalogue.saved", with_model=True)
    exec(program.replace('"catalogue"', '"catalogue.saved"'), server := {"__name__": "server"})
    image = Path("raw/pictures/20.png").read_bytes()
    with TestClient(server["app"]) as client:
        for _ in range(2):
            found = client.post("/search", content=image).json()
            assert [len(found), found[0]] == [5, {"path": "catalogue/sub/20.png", "similarity": 1.0}]
            Database.load("tiny/resnet18").of_images("catalogue/16.png").save("catalogue.saved")
        refused = client.post("/search", content=image[:900])
    assert refused.status_code == 400
    assert refused.json() == {"detail": "900 bytes: not readable as an image: image file is truncated; replace it"}
    shutil.rmtree("catalogue.saved/model", ignore_errors=True)
    shutil.move("models", "moved")
    with pytest.raises(FileNotFoundError, match="the model that embeds images for this database"):
        exec(program.replace('"catalogue"', '"catalogue.saved"'), {"__name__": "server"})
