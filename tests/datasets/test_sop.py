"""Stanford Online Products."""

from pathlib import Path

import pytest
from synthetic_sets import touch, write

from lrec.datasets import sop

HEADER = "image_id class_id super_class_id path"
TRAIN = [
    "1 1 1 bicycle_final/111085122871_0.JPG",
    "2 1 1 bicycle_final/111085122871_1.JPG",
    "3 2 2 cabinet_final/a.JPG",
]
TEST = ["4 11319 1 bicycle_final/251952414262_0.JPG", "5 11319 1 bicycle_final/251952414262_1.JPG"]


def make(root: Path, train: list[str] = TRAIN, test: list[str] = TEST, header: str = HEADER) -> Path:
    for split, lines in (("train", train), ("test", test)):
        write(root / f"Ebay_{split}.txt", "\n".join([header, *lines]) + "\n")
    touch(root, [line.split()[-1] for line in TRAIN + TEST])
    return root


@pytest.mark.parametrize("outer", ["", "Stanford_Online_Products"])
def test_samples(tmp_path: Path, outer: str) -> None:
    make(tmp_path / outer)
    dataset = sop.read(tmp_path)
    assert dataset.root == tmp_path / outer
    assert dataset.official == {"train": (59551, 11318), "test": (60502, 11316)}
    assert dataset.counts() == {"train": (3, 2), "test": (2, 1)}
    assert [(s.path, s.class_name, s.split, s.box) for s in dataset.samples[1:4]] == [
        ("bicycle_final/111085122871_1.JPG", "00001", "train", None),
        ("cabinet_final/a.JPG", "00002", "train", None),
        ("bicycle_final/251952414262_0.JPG", "11319", "test", None),
    ]


BAD_LINES = {
    "Ebay_train.txt, line 3: found 3 columns, expected 4: image_id class_id super_class_id path": "2 1 bicycle_final/b",
    "Ebay_train.txt, line 3: found 5 columns": "2 1 1 a b.JPG",
    "Ebay_train.txt, line 3: found 'x', expected class_id, an integer from 1": "2 x 1 a.JPG",
    "Ebay_train.txt, line 3: found '0', expected class_id": "2 0 1 a.JPG",
    "Ebay_train.txt, line 3: found '-1', expected image_id": "-1 1 1 a.JPG",
    "Ebay_train.txt, line 3: found '13', expected super_class_id, an integer from 1 to 12": "2 1 13 a.JPG",
    "Ebay_train.txt, line 3: found image_id 1 again, first in line 2": "1 1 1 a.JPG",
    "Ebay_train.txt, line 3: found path 'bicycle_final/111085122871_0.JPG' again": f"2 1 1 {TRAIN[0].split()[-1]}",
    "Ebay_train.txt, line 3: found the path '../a.JPG'": "2 1 1 ../a.JPG",
    "Ebay_train.txt, line 3: found the path '/a.JPG'": "2 1 1 /a.JPG",
}


@pytest.mark.parametrize("message", BAD_LINES)
def test_malformed_line(tmp_path: Path, message: str) -> None:
    make(tmp_path, train=[TRAIN[0], BAD_LINES[message], TRAIN[2]])
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        sop.read(tmp_path, list_missing=True)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_image_in_both_lists(tmp_path: Path) -> None:
    make(tmp_path, test=[TEST[0], f"6 11320 1 {TRAIN[0].split()[-1]}"])
    with pytest.raises(
        ValueError, match=r"Ebay_test\.txt, line 3: found path .* again, first in Ebay_train\.txt, line 2"
    ):
        sop.read(tmp_path)


def test_class_in_both_splits(tmp_path: Path) -> None:
    make(tmp_path, test=[TEST[0].replace("11319", "2")])
    with pytest.raises(ValueError, match="found 1 classes in train and in another split, the first is '00002'"):
        sop.read(tmp_path)


def test_wrong_header(tmp_path: Path) -> None:
    make(tmp_path, header="id class path super")
    with pytest.raises(ValueError, match=r"Ebay_train\.txt, line 1: found 'id class path super', expected the header"):
        sop.read(tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_list(tmp_path: Path, split: str) -> None:
    (make(tmp_path) / f"Ebay_{split}.txt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"Ebay_{split}\.txt: annotation file not found"):
        sop.read(tmp_path)


def test_list_without_rows(tmp_path: Path) -> None:
    make(tmp_path, test=[])
    with pytest.raises(ValueError, match=r"Ebay_test\.txt: found no rows"):
        sop.read(tmp_path)


def test_missing_image(tmp_path: Path) -> None:
    (make(tmp_path) / "cabinet_final/a.JPG").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 5 images are missing, the first is cabinet_final/a\.JPG"):
        sop.read(tmp_path)
