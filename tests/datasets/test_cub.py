"""CUB-200-2011: its splits, its corners, its errors."""

from pathlib import Path

import pytest
from synthetic_sets import check_box, draw_marked, shared, touch, write

from lrec.datasets import cub

PATHS = {1: "001.First/a.jpg", 2: "100.Second/b.jpg", 3: "101.Third/c.jpg", 4: "200.Fourth/d.jpg"}
FILES = {
    "images.txt": [f"{image} {path}" for image, path in PATHS.items()],
    "classes.txt": ["1 001.First", "100 100.Second", "101 101.Third", "200 200.Fourth"],
    "image_class_labels.txt": ["1 1", "2 100", "3 101", "4 200"],
    "bounding_boxes.txt": ["1 5.0 3.0 5.0 8.0", "2 0.0 0.0 9.0 9.0", "3 1.0 2.0 3.0 4.0", "4 60.0 27.0 325.0 304.0"],
}


def make(root: Path, **changed: list[str]) -> Path:
    """The synthetic set, with the lines of some files (by stem) replaced."""
    for name, lines in FILES.items():
        write(root / name, "\n".join(changed.get(name.removesuffix(".txt"), lines)) + "\n")
    touch(root / "images", PATHS.values())
    return root


def test_real_annotations_give_the_official_counts() -> None:
    dataset = cub.read(shared("annotations/cub_all_11788"), list_missing=True)
    assert dataset.counts() == cub.OFFICIAL == {"train": (5864, 100), "test": (5924, 100)}
    assert len(dataset.missing) == 11788
    first = dataset.samples[0]
    assert first.path == "images/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"
    assert (first.class_name, first.split, first.box) == ("001.Black_footed_Albatross", "train", (60, 27, 385, 331))


@pytest.mark.parametrize("outer", ["", "CUB_200_2011", "cub/CUB_200_2011"])
def test_layouts(tmp_path: Path, outer: str) -> None:
    make(tmp_path / outer)
    dataset = cub.read(tmp_path)
    assert dataset.root == tmp_path / outer
    assert [(s.path, s.class_name, s.split) for s in dataset.samples] == [
        ("images/001.First/a.jpg", "001.First", "train"),
        ("images/100.Second/b.jpg", "100.Second", "train"),
        ("images/101.Third/c.jpg", "101.Third", "test"),
        ("images/200.Fourth/d.jpg", "200.Fourth", "test"),
    ]


def test_class_names_sort_by_number(tmp_path: Path) -> None:
    classes = ["1 Zebra", "100 Ant", "101 Bee", "200 Cow"]
    names = [sample.class_name for sample in cub.read(make(tmp_path, classes=classes)).samples]
    assert names == sorted(names) == ["001.Zebra", "100.Ant", "101.Bee", "200.Cow"]


def test_box_is_right_to_the_pixel(tmp_path: Path) -> None:
    dataset = cub.read(make(tmp_path))
    sample = dataset.samples[0]
    draw_marked(tmp_path / sample.path)
    check_box(dataset, sample)


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("1 5.0 3.0 5.0 8.0", (5, 3, 10, 11)),
        ("1 5.9 3.1 4.0 7.5", (5, 3, 10, 11)),
        ("1 5.2 3.0 0.3 1.0", (5, 3, 6, 4)),
        ("1 -1 0 6 4", (-1, 0, 5, 4)),
    ],
)
def test_decimals_are_rounded_outwards(tmp_path: Path, line: str, box: tuple) -> None:
    dataset = cub.read(make(tmp_path, bounding_boxes=[line, *FILES["bounding_boxes.txt"][1:]]))
    assert dataset.samples[0].box == box


def replaced(name: str, number: int, line: str) -> dict[str, list[str]]:
    """One line of a file, counted from 1, replaced; line 5 is one more."""
    lines = [*FILES[f"{name}.txt"], ""]
    lines[number - 1] = line
    return {name: lines[:number] if number == 5 else lines[:4]}


BAD_LINES = {
    "images.txt, line 2: found 1 columns, expected 2: image_id path": ("images", 2, "2"),
    "images.txt, line 2: found 3 columns": ("images", 2, "2 a b.jpg"),
    "images.txt, line 2: found 0 columns": ("images", 2, ""),
    "images.txt, line 2: found 'x', expected image_id, an integer": ("images", 2, "x 100.Second/b.jpg"),
    "images.txt, line 2: found '1_0', expected image_id": ("images", 2, "1_0 100.Second/b.jpg"),
    "images.txt, line 2: found image_id 1 again, first in line 1": ("images", 2, "1 100.Second/b.jpg"),
    "images.txt, line 2: found path '001.First/a.jpg' again": ("images", 2, "2 001.First/a.jpg"),
    "images.txt, line 2: found the path 'images/../../b.jpg'": ("images", 2, "2 ../../b.jpg"),
    "image_class_labels.txt, line 2: found '201', expected the class, an integer from 1 to 200": (
        "image_class_labels", 2, "2 201",
    ),
    "image_class_labels.txt, line 2: found class 7, expected a class of classes.txt": ("image_class_labels", 5, "5 7"),
    "image_class_labels.txt, line 5: found image 5, expected an image of images.txt": ("image_class_labels", 5, "5 1"),
    "image_class_labels.txt, line 5: found image_id 1 again": ("image_class_labels", 5, "1 1"),
    "classes.txt, line 5: found class 7 without images": ("classes", 5, "7 007.Seventh"),
    "classes.txt, line 5: found class name '001.First' again": ("classes", 5, "7 001.First"),
    "bounding_boxes.txt, line 3: found a box of 0.0 by 4.0 pixels": ("bounding_boxes", 3, "3 1.0 2.0 0.0 4.0"),
    "bounding_boxes.txt, line 3: found a box of 3.0 by -4.0 pixels": ("bounding_boxes", 3, "3 1.0 2.0 3.0 -4.0"),
    "bounding_boxes.txt, line 3: found 'wide', expected pixels of a box, a number": (
        "bounding_boxes", 3, "3 1.0 2.0 wide 4.0",
    ),
    "bounding_boxes.txt, line 3: found 'nan', expected pixels of a box": ("bounding_boxes", 3, "3 1.0 nan 3.0 4.0"),
    "bounding_boxes.txt, line 3: found 'inf', expected pixels of a box": ("bounding_boxes", 3, "3 1.0 2.0 inf 4.0"),
    "bounding_boxes.txt, line 3: found 4 columns, expected 5": ("bounding_boxes", 3, "3 1.0 2.0 3.0"),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD_LINES)
def test_malformed_line(tmp_path: Path, message: str) -> None:
    name, number, line = BAD_LINES[message]
    if "class 7, expected" in message:
        changed = replaced(name, 2, "2 7")
        changed["classes"] = ["1 001.First", "101 101.Third", "200 200.Fourth"]
    else:
        changed = replaced(name, number, line)
    make(tmp_path, **changed)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        cub.read(tmp_path, list_missing=True)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["image_class_labels", "bounding_boxes"])
def test_image_without_annotation(tmp_path: Path, name: str) -> None:
    make(tmp_path, **{name: FILES[f"{name}.txt"][:3]})
    with pytest.raises(ValueError, match=rf"{name}\.txt: found no row for 1 images .* the first is image 4"):
        cub.read(tmp_path)


@pytest.mark.parametrize("name", ["classes", "image_class_labels", "bounding_boxes"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    (make(tmp_path) / f"{name}.txt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}\.txt: annotation file not found; unpack"):
        cub.read(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    make(tmp_path, images=[])
    with pytest.raises(ValueError, match=r"images\.txt.*found (0 columns|no rows)"):
        cub.read(tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (make(tmp_path) / "classes.txt").write_bytes(b"1 \xff\xfe\n")
    with pytest.raises(ValueError, match=r"classes\.txt: found bytes that are not UTF-8"):
        cub.read(tmp_path)


def test_windows_line_ends_are_read(tmp_path: Path) -> None:
    make(tmp_path)
    for name in FILES:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes().replace(b"\n", b"\r\n"))
    assert cub.read(tmp_path).samples[0].path == "images/001.First/a.jpg"


def test_missing_image(tmp_path: Path) -> None:
    (make(tmp_path) / "images/101.Third/c.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 4 images are missing, the first is images/101\.Third/c\.jpg"):
        cub.read(tmp_path)
