"""Images that are packed again: no row of a run or of a saved database gets another image's name or picture."""

import json
from pathlib import Path

import numpy as np
import pytest
from retrieval_project import FILE

from lrec.data import store
from lrec.retrieve import Database, gallery, query, storage
from lrec.retrieve import __main__ as tool

PACKED = Path("data/processed/tiny")


def pack_again(names: bool = True) -> None:
    """Reverse the images, so that all counts stay the same; without their names only those of the split test."""
    packed, facts = store.open_store(PACKED), store.read_facts(PACKED)
    index, pixels = packed.index, np.array(packed.images)
    if names:
        index = index.assign(path=index["path"].to_numpy()[::-1], **{"class": index["class"][::-1].tolist()})
        pixels = pixels[::-1]
    else:
        pixels[packed.rows("test")] = pixels[packed.rows("test")][::-1]
    store.pack(PACKED, [lambda image=image: image for image in pixels], index, pixels.shape[1], dict(facts), 1)


@pytest.mark.parametrize("names", [True, False])
def test_a_run_whose_images_were_packed_again(project: Path, names: bool, capsys: pytest.CaptureFixture):
    pack_again(names)
    message = "embeddings/tiny/resnet18/embedding.json: its embeddings are of other packed images"
    with pytest.raises(ValueError, match=f"^{message}.*; run `dvc repro`$"):
        Database.load("tiny/resnet18")
    for main, arguments in (
        (tool.main, []),
        (tool.main, ["--save", "saved"]),
        (gallery.main, ["tiny/resnet18", "--to", "parquet"]),
    ):
        assert main(arguments) == 1
        assert f"error: {message}" in capsys.readouterr().err
    assert not Path("saved").exists()


def test_another_number_of_rows(project: Path):
    path = Path("embeddings/tiny/resnet18/test.npy")
    np.save(path, np.load(path)[:-1])
    with pytest.raises(
        ValueError, match=r"^embeddings/tiny/resnet18/test\.npy: found 23 embeddings, expected 24.*repro`$"
    ):
        Database.load("tiny/resnet18")
    np.save(path, np.zeros((24, 8), np.float32))
    Database.load("tiny/resnet18").save("saved")
    np.save("saved/embeddings.npy", np.zeros((25, 8), np.float32))
    with pytest.raises(
        ValueError, match=r"^saved/embeddings\.npy: found 25 embeddings, expected 24.* save the database again$"
    ):
        Database.load("saved")


def test_other_pictures_under_the_same_names(project: Path, capsys: pytest.CaptureFixture):
    Database.load("tiny/resnet18").save("saved")
    pack_again(names=False)
    assert Database.load("saved").image(0) is None
    assert "packed again since the database was saved, so no pictures are shown" in capsys.readouterr().err


def test_other_words_about_the_raw_data_change_nothing(project: Path):
    facts = json.loads((PACKED / store.DATASET).read_text())
    (PACKED / store.DATASET).write_text(json.dumps(facts | {"found": "in other words"}))
    Database.load("tiny/resnet18")


@pytest.mark.parametrize("earlier", [False, True])
def test_a_saved_database_shows_no_wrong_picture(project: Path, earlier: bool, capsys: pytest.CaptureFixture):
    """Also one that an earlier version saved, which does not say which images were packed."""
    database = Database.load("tiny/resnet18")
    pictures = [database.image(row) for row in range(24)]
    database.save("saved")
    if earlier:
        facts = json.loads(Path("saved", storage.FACTS).read_text())
        del facts["store_digest"]
        Path("saved", storage.FACTS).write_text(json.dumps(facts))
    saved = Database.load("saved")
    np.testing.assert_array_equal([saved.image(row) for row in range(24)], pictures)
    assert query.Finder(saved).named("0.png").row == -1  # of the split train
    pack_again()
    saved = Database.load("saved")
    assert [saved.image(row) for row in range(24)] == [None] * 24
    assert saved.search(FILE, 1)[1] == [[0]]
    assert query.Finder(saved).named("39.png").row == 23
    assert query.Finder(saved).named("0.png") is None
    assert tool.main(["--database", "saved", "--query", "row:20"]) == 0
    assert capsys.readouterr().out.startswith("query: 20.png, class: U+0416 ")
