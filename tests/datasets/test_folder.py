"""Data sets of the user's own: folders and tables."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from synthetic_sets import check_box, draw_marked, shared, touch, write

from lrec import schema
from lrec.datasets import decoding, folder

TREE = ["train/b/2.JPG", "train/b/1.png", "train/a/x.jpeg", "test/c/1.jpg", "test/c/2.webp", "test/d/1.tif"]


def test_real_folders() -> None:
    dataset = folder.read(shared("omniglot"))
    assert dataset.official is None
    assert dataset.counts() == {"train": (2720, 136), "test": (2120, 106)}
    image = np.asarray(dataset.load(dataset.samples[0]))
    assert image.shape == (105, 105, 3)
    assert set(np.unique(image)) == {0, 255}


def test_folders_in_sorted_order(tmp_path: Path) -> None:
    touch(tmp_path, TREE)
    samples = folder.read(tmp_path).samples
    assert [(s.path, s.class_name, s.split) for s in samples] == [
        ("train/a/x.jpeg", "a", "train"),
        ("train/b/1.png", "b", "train"),
        ("train/b/2.JPG", "b", "train"),
        ("test/c/1.jpg", "c", "test"),
        ("test/c/2.webp", "c", "test"),
        ("test/d/1.tif", "d", "test"),
    ]


def test_query_and_gallery(tmp_path: Path) -> None:
    touch(tmp_path, ["train/a/1.jpg", "query/b/1.jpg", "gallery/b/1.jpg", "gallery/c/1.jpg"])
    assert folder.read(tmp_path).counts() == {"train": (1, 1), "query": (1, 1), "gallery": (2, 2)}


def test_what_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, TREE)
    touch(tmp_path, ["README.txt", "LICENSE", ".hidden", ".git/x", "train/.DS_Store", "train/b/Thumbs.db"])
    touch(tmp_path, ["__MACOSX/train/b/._1.png", "train/b/._1.png", "test/desktop.ini"])
    assert len(folder.read(tmp_path).samples) == len(TREE)


STRAYS = {
    "train/b: found 'notes.txt', expected images": ["train/b/notes.txt"],
    "train/b: found 'README.txt', expected images": ["train/b/README.txt"],
    "train/b: found 'deeper', expected images": ["train/b/deeper/1.jpg"],
    "train: found '1.jpg', expected one folder per class": ["train/1.jpg"],
    ": found 'valid', expected train, test, query, gallery or one table": ["valid/e/1.jpg"],
    ": found 'labels.csv', expected train": ["labels.csv"],
    ": found 'archive.zip', expected train": ["archive.zip"],
    "test/c: found '3.avi', '4.avi', '5.avi' and 2 more, expected images": [f"test/c/{n}.avi" for n in range(3, 8)],
}


@pytest.mark.parametrize("message", STRAYS)
def test_other_files_are_refused(tmp_path: Path, message: str) -> None:
    touch(tmp_path, TREE + STRAYS[message])
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        folder.read(tmp_path)
    assert message in str(caught.value)


def test_empty_class(tmp_path: Path) -> None:
    touch(tmp_path, TREE)
    (tmp_path / "train/empty").mkdir()
    with pytest.raises(ValueError, match="train/empty: found no images, expected at least one"):
        folder.read(tmp_path)


def test_overlapping_classes(tmp_path: Path) -> None:
    touch(tmp_path, [*TREE, "test/b/1.jpg"])
    with pytest.raises(ValueError, match="found 1 classes in train and in another split, the first is 'b'"):
        folder.read(tmp_path)


@pytest.mark.parametrize(
    ("tree", "found"),
    [
        (["train/a/1.jpg"], "train"),
        (["test/a/1.jpg"], "test"),
        (["train/a/1.jpg", "query/b/1.jpg"], "train, query"),
        (["train/a/1.jpg", "test/b/1.jpg", "query/c/1.jpg", "gallery/c/1.jpg"], "train, test, query, gallery"),
    ],
)
def test_incomplete_splits(tmp_path: Path, tree: list[str], found: str) -> None:
    touch(tmp_path, tree)
    with pytest.raises(
        ValueError, match=f"found the splits {found}, expected train and test, or .*; .*, see docs/own-photos.md"
    ):
        folder.read(tmp_path)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found the splits none, expected train and test"):
        folder.read(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone: no such folder"):
        folder.read(tmp_path / "gone")


ROWS = ["pics/1.jpg,Ford Model T,train", '"pics/2, again.jpg","Citroën ""DS""",train', "pics/3.png,Fiat,test"]


def table(root: Path, rows: list[str], header: str = "path,class,split", name: str = "images.csv") -> Path:
    write(root / name, "\n".join([header, *rows]) + "\n")
    touch(root, ["pics/1.jpg", "pics/2, again.jpg", "pics/3.png"])
    return root


@pytest.mark.parametrize("name", ["images.csv", "my set.csv"])
def test_table(tmp_path: Path, name: str) -> None:
    dataset = folder.read(table(tmp_path, ROWS, name=name))
    assert dataset.found == f"table {name}"
    assert [(s.path, s.class_name, s.split, s.box) for s in dataset.samples] == [
        ("pics/1.jpg", "Ford Model T", "train", None),
        ("pics/2, again.jpg", 'Citroën "DS"', "train", None),
        ("pics/3.png", "Fiat", "test", None),
    ]


def test_table_as_spreadsheets_save_it(tmp_path: Path) -> None:
    table(tmp_path, ROWS)
    text = (tmp_path / "images.csv").read_text(encoding="utf-8")
    (tmp_path / "images.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert folder.read(tmp_path).samples[2].split == "test"


def test_images_csv_is_preferred(tmp_path: Path) -> None:
    touch(tmp_path, [*TREE, "other.csv"])
    assert folder.read(table(tmp_path, ROWS)).found == "table images.csv"


def test_two_tables_are_ambiguous(tmp_path: Path) -> None:
    table(tmp_path, ROWS, name="a.csv")
    table(tmp_path, ROWS, name="b.csv")
    with pytest.raises(ValueError, match=r"or one table images\.csv; move"):
        folder.read(tmp_path)


def test_box_of_a_table_is_right_to_the_pixel(tmp_path: Path) -> None:
    rows = ["pics/1.jpg,a,train,5,3,10,11", "pics/3.png,b,test,0,0,1,1"]
    dataset = folder.read(table(tmp_path, rows, "path,class,split,x1,y1,x2,y2"))
    sample = dataset.samples[0]
    draw_marked(tmp_path / sample.path)
    check_box(dataset, sample)


BAD_ROWS = {
    "line 2: found 2 columns, expected 3: path,class,split": "pics/1.jpg,a",
    "line 2: found 4 columns": "pics/1.jpg,a,train,",
    "line 2: found 0 columns": "",
    "line 2: found 'valid', expected a split": "pics/1.jpg,a,valid",
    "line 2: found '', expected a class name": "pics/1.jpg,,train",
    "line 2: found ' a', expected a class name": "pics/1.jpg, a,train",
    "line 2: found 'pics/1.txt', expected an image": "pics/1.txt,a,train",
    "line 2: found the path '../1.jpg'": "../1.jpg,a,train",
    "line 2: found the path '/1.jpg'": "/1.jpg,a,train",
    "line 2: found the path ''": ",a,train",
    "line 3: found path 'pics/2, again.jpg' again, first in line 2": '"pics/./2, again.jpg",a,train',
    "images.csv, line 2: found no valid CSV": 'pics/1.jpg,"a"b,train',
}


@pytest.mark.parametrize("message", BAD_ROWS)
def test_malformed_row(tmp_path: Path, message: str) -> None:
    table(tmp_path, [BAD_ROWS[message], *ROWS[1:]])
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        folder.read(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("corners", "message"), [("9,3,5,11", "a box from"), ("-1,3,5,11", "'-1', expected x1"), ("1.5,3,5,11", "'1.5'")]
)
def test_malformed_box(tmp_path: Path, corners: str, message: str) -> None:
    table(tmp_path, [f"pics/1.jpg,a,train,{corners}", "pics/3.png,b,test,0,0,1,1"], "path,class,split,x1,y1,x2,y2")
    with pytest.raises(ValueError, match=rf"images\.csv, line 2: found {message}"):
        folder.read(tmp_path)


@pytest.mark.parametrize("header", ["path,split,class", "path,class,split,x1", ""])
def test_wrong_header(tmp_path: Path, header: str) -> None:
    with pytest.raises(ValueError, match=r"images\.csv, line 1: found .*, expected the header 'path,class,split'"):
        folder.read(table(tmp_path, ROWS, header))


def test_class_in_two_splits_of_a_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the first is 'Fiat'"):
        folder.read(table(tmp_path, [*ROWS, "pics/4.jpg,Fiat,train"]))


def test_missing_image_of_a_table(tmp_path: Path) -> None:
    table(tmp_path, [*ROWS, "pics/4.jpg,Fiat,test"])
    with pytest.raises(FileNotFoundError, match=r"1 of 4 images are missing, the first is pics/4\.jpg"):
        folder.read(tmp_path)
    assert folder.read(tmp_path, list_missing=True).missing == ("pics/4.jpg",)


def test_documentation_holds(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/own-photos.md").read_text(encoding="utf-8")
    block = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    variant = schema.Variant.model_validate(block["photos"])
    assert (variant.layout, variant.folder) == ("folder", "photos")
    example = text.partition("    path,class,split\n")[2].partition("\n\n")[0]
    rows = [line.strip() for line in example.splitlines()]
    write(tmp_path / "images.csv", "\n".join(["path,class,split", *rows]))
    assert folder.read(tmp_path, list_missing=True).counts() == {"train": (1, 1), "test": (1, 1)}
    listed = text.partition("Images are ")[2].partition(". Hidden")[0].split()
    assert tuple(listed) == decoding.SUFFIXES
