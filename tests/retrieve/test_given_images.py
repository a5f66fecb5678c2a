"""What a database is given: an image or several in any form, names of their classes, and what is neither."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from retrieval_project import FILE

from lrec.retrieve import Database


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


LARGE = _png(Image.new("1", (20_000, 20_000)))  # Pillow refuses it when it is opened


def test_search_takes_embeddings_tensors_and_images(database: Database):
    expected = database.search(np.array(database.parts[0][:2]), 3)
    assert expected[1][:, 0].tolist() == [0, 1]
    pixels = np.stack([database.image(0), database.image(1)])
    images = [Image.fromarray(p) for p in pixels]
    files = ["raw/pictures/16.png", Path("raw/pictures/17.png")]
    for queries in (torch.from_numpy(np.array(database.parts[0][:2])), pixels, images, files):
        scores, rows = database.search(queries, 3)
        np.testing.assert_array_equal(rows, expected[1])
        np.testing.assert_allclose(scores, expected[0], atol=1e-5)
    for single in (pixels[0], images[0], files[0], files[1]):
        assert database.search(single, 3)[0].shape == (1, 3)


SINGLE = {
    "text": lambda database: FILE,
    "bytes": lambda database: Path(FILE).read_bytes(),
    "binary file": lambda database: io.BytesIO(Path(FILE).read_bytes()),
    "path": lambda database: Path(FILE),
    "opened": lambda database: Image.open(FILE),
    "pixels": lambda database: database.image(0),
    "tensor of pixels": lambda database: torch.from_numpy(database.image(0)),
    "embedding": lambda database: np.array(database.parts[0][0]),
    "tensor": lambda database: torch.from_numpy(np.array(database.parts[0][0])).double(),
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_and_a_list_of_one_are_alike(database: Database, tmp_path: Path, name: str):
    one = SINGLE[name](database)
    for given in (one, [one], (one,)):
        scores, rows = database.search(given, 2, exclude=3)
        assert rows[:, 0].tolist() == [0]
        assert scores.shape == (1, 2)
        grown = Database.load("tiny/resnet18")
        assert grown.add(given, "new").tolist() == [24]
        assert (len(grown), sum(map(len, grown.parts))) == (25, 25)
        assert grown.index["class"].iloc[24] == "new"
        assert grown.index["path"].iloc[24] == (FILE if name in ("text", "path") else "")
        grown.save(tmp_path / "saved")
        loaded = Database.load(tmp_path / "saved")
        np.testing.assert_allclose(loaded.embedding(24), database.embedding(0), atol=1e-5)


def test_bytes_that_are_cut_off(database: Database):
    content = Path(FILE).read_bytes()[:-200]
    for given, name in ((content, f"{len(content):,} bytes"), (io.BytesIO(content), "open file")):
        with pytest.raises(
            ValueError, match=rf"^{name}: not readable as an image: image file is truncated; replace it$"
        ):
            database.search(given, 1)


def test_an_open_file_stays_open(database: Database):
    with open(FILE, "rb") as file:
        assert database.search([file, Path(FILE).read_bytes()], 1)[1].tolist() == [[0], [0]]
        assert file.seek(0) == 0


def test_several_in_any_form(database: Database):
    files = [f"raw/pictures/{row}.png" for row in range(16, 19)]
    embedded = [np.array(row) for row in database.parts[0][:3]]
    for given in (files, tuple(files), np.array(files), pd.Series(files), iter(files), embedded, np.stack(embedded)):
        assert database.search(given, 1)[1].tolist() == [[0], [1], [2]]
    assert database.add(np.stack([database.image(row) for row in range(3)])).tolist() == [24, 25, 26]
    assert database.add([]).tolist() == []
    assert database.encoder.embed(files[0]).shape == (1, 8)


def test_an_opened_image_is_embedded_as_its_file(database: Database, tmp_path: Path):
    """Rotated by EXIF, transparent, 16-bit grey: what Pillow alone converts to other pixels."""
    pixels = database.image(5)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "exif.jpg", exif=exif)
    alpha = np.where(pixels.mean(2) > 120, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "clear.png")
    Image.fromarray((pixels.mean(2) * 257).astype(np.uint16)).save(tmp_path / "deep.png")
    for name in ("exif.jpg", "clear.png", "deep.png"):
        with Image.open(tmp_path / name) as opened:
            np.testing.assert_array_equal(database.embed(opened), database.embed(tmp_path / name), err_msg=name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "image: found NoneType, expected a file, its bytes, an opened image or"),
        (7, "image: found int"),
        ([7], "image: found int"),
        ([[FILE]], "image: found list"),
        (np.zeros((12, 12), np.uint8), r"image: found uint8 of shape \(12, 12\)"),
        (np.zeros(3, np.float32), r"shape \(1, 3\), expected \([NQ], 8\)"),
        (np.float32(3), "image: found float32"),
        (np.array(3.0), r"shape \(1, 1\), expected \([NQ], 8\)"),
        ("raw/pictures", "image not found"),
        (np.zeros((9, 9, 3)), r"images: found float64 of shape \(9, 9, 3\), expected \(H, W, 3\) uint8 from 0 to 255"),
        (np.zeros((2, 9, 9, 3), np.float32), r"images: found float32 of shape \(2, 9, 9, 3\)"),
        (np.full((1, 8), np.nan, np.float32), "found a value that is not finite"),
        (
            io.BytesIO(b"a\nb"),
            "^open file: not readable as an image: cannot identify .*, expected one of JPEG, PNG",
        ),
        (b"", "^0 bytes: not readable as an image: cannot identify .*, expected one of JPEG, PNG"),
        (np.zeros((0, 100, 3), np.uint8), r"image: found uint8 of shape \(0, 100, 3\), .*with at least one pixel"),
        (Image.new("RGB", (0, 5)), "^opened image: not readable as an image: 0x5 pixels, expected at least one"),
        (LARGE, r"^[\d,]+ bytes: not readable as an image: .*400000000 pixels.* exceeds limit.*; replace it$"),
        (io.StringIO("text"), "image: found StringIO, expected a file, its bytes, an opened image"),
        (Path("raw/pictures/3.png").read_bytes, "image: found method"),
    ],
)
def test_what_is_no_image(database: Database, given, message: str):
    for use in (database.add, lambda given: database.search(given, 1)):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            use(given)
    assert (len(database), sum(map(len, database.parts))) == (24, 24)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("ab", "classes: found 1, expected 2, one per image"),
        (["a"], "classes: found 1, expected 2"),
        (["a", 7], "classes: found 7, expected a name"),
        (7, "classes: found 7, expected a name per image"),
        (float("nan"), "classes: found nan, expected a name per image"),
        (["a", "b "], "classes: found 'b ', expected a class name without spaces around it"),
        (["BMW", "bmw"], "classes: found the class 'bmw', which differs only in case from 'BMW'"),
        (["", "u+0416"], "classes: found the class 'u.0416', which differs only in case from 'U.0416'"),
        (["a", "b\x1b"], r"classes: found the character \\x1b"),
    ],
)
def test_classes_keep_the_rules_of_a_data_set(database: Database, classes, message: str):
    with pytest.raises(ValueError, match=message):
        database.add([FILE, FILE], classes)
    assert (len(database), len(database.parts)) == (24, 1)


@pytest.mark.parametrize("codes", [None, "int8"])
def test_added_embeddings_are_like_the_models(database: Database, tmp_path: Path, codes: str | None):
    """Five times as long, a row would be the first result of most queries; a query may have any length."""
    database.save(tmp_path / "saved", codes=codes)
    database = Database.load(tmp_path / "saved")
    row = np.load("embeddings/tiny/resnet18/test.npy")[3]
    for wrong, found in ((5 * row, "5"), (0 * row, "0"), (np.full(8, 1e39), "inf"), (np.full(8, 1e30), "2.828e.30")):
        with pytest.raises(ValueError, match=f"^embeddings: row 1: found the norm {found}, expected 1, .* the norm$"):
            database.add(np.stack([row, wrong]))
    assert (len(database), len(database.parts)) == (24, 1)
    assert database.add(row.astype(np.float16)).tolist() == [24]
    assert database.search(5 * row, 1)[1].shape == (1, 1)


@pytest.mark.parametrize(("dtype", "large"), [(np.float32, 1e39), (np.float16, 1e5)])
def test_numbers_too_large_for_the_dtype(database: Database, dtype: type, large: float):
    """Without a model, embeddings of any norm may be added; infinities would fail every later search."""
    bare = Database(np.array(database.parts[0], dtype), database.index, {})
    with pytest.raises(ValueError, match=f"^embeddings: found a value that is not finite in {np.dtype(dtype)}"):
        bare.add(np.full((1, 8), large))
    assert bare.add(np.full((1, 8), 100.0)).tolist() == [24]
    with pytest.raises(ValueError, match="^queries: found a value that is not finite"):
        bare.search(np.full((1, 8), 1e39), 1)


def test_an_accent_of_a_class_is_kept_in_one_form(database: Database):
    database.add([FILE, FILE, FILE], ["cafe\u0301", "caf\u00e9", None])
    assert database.index["class"].tolist()[-3:] == ["caf\u00e9", "caf\u00e9", ""]
