"""In-shop Clothes Retrieval."""

from pathlib import Path

import pytest
from synthetic_sets import check_box, draw_marked, touch, write

from lrec.datasets import isc

IMAGES = {
    "img/WOMEN/Dresses/id_00000002/02_1_front.jpg": "id_00000002 train",
    "img/WOMEN/Dresses/id_00000002/02_2_side.jpg": "id_00000002 train",
    "img/MEN/Denim/id_00000080/01_1_front.jpg": "id_00000080 query",
    "img/MEN/Denim/id_00000080/01_7_additional.jpg": "id_00000080 gallery",
}
# The original pads its columns with spaces and its numbers with zeros.
PARTITION = [f"{name}{' ' * (50 - len(name))}{rest.replace(' ', '    ')}" for name, rest in IMAGES.items()]
BOXES = [f"{name}     3 1 005 003 010 011" for name in IMAGES]
PARTITION_HEADER = "image_name item_id evaluation_status"
BOX_HEADER = "image_name clothes_type pose_type x_1 y_1 x_2 y_2"


def make(
    root: Path,
    partition: list[str] = PARTITION,
    boxes: list[str] | None = BOXES,
    folders: tuple[str, str, str] = ("Eval/", "Anno/", "Img/"),
    count: str | None = None,
    images: str = "img",
) -> Path:
    evaluation, annotation, place = folders
    lines = [count or str(len(partition)), PARTITION_HEADER, *partition]
    write(root / f"{evaluation}list_eval_partition.txt", "\n".join(lines) + "\n")
    if boxes is not None:
        lines = [str(len(boxes)), BOX_HEADER, *boxes]
        write(root / f"{annotation}list_bbox_inshop.txt", "\n".join(lines) + "\n")
    touch(root / f"{place}{images}", [name.removeprefix("img/") for name in IMAGES])
    return root


@pytest.mark.parametrize(
    "folders", [("Eval/", "Anno/", "Img/"), ("", "", ""), ("Eval/", "Anno/", ""), ("", "", "Img/")]
)
@pytest.mark.parametrize("outer", ["", "In-shop Clothes Retrieval Benchmark"])
def test_layouts(tmp_path: Path, folders: tuple[str, str, str], outer: str) -> None:
    make(tmp_path / outer, folders=folders)
    dataset = isc.read(tmp_path)
    assert dataset.root == tmp_path / outer
    assert dataset.counts() == {"train": (2, 1), "query": (1, 1), "gallery": (1, 1)}
    assert dataset.official == {"train": (25882, 3997), "query": (14218, 3985), "gallery": (12612, 3985)}
    assert "with boxes" in dataset.found
    assert [(s.path, s.class_name, s.split) for s in dataset.samples] == [
        (f"{folders[2]}{name}", *rest.split()) for name, rest in IMAGES.items()
    ]


def test_box_is_right_to_the_pixel(tmp_path: Path) -> None:
    dataset = isc.read(make(tmp_path))
    sample = dataset.samples[0]
    draw_marked(tmp_path / sample.path)
    check_box(dataset, sample)


def test_boxes_may_be_absent(tmp_path: Path) -> None:
    dataset = isc.read(make(tmp_path, boxes=None))
    assert "without boxes" in dataset.found
    assert [sample.box for sample in dataset.samples] == [None] * 4


@pytest.mark.parametrize("place", ["Img/", ""])
def test_large_images_have_no_boxes(tmp_path: Path, place: str) -> None:
    make(tmp_path, folders=("Eval/", "Anno/", place), images="img_highres")
    dataset = isc.read(tmp_path, images="img_highres")
    assert dataset.samples[0].path == f"{place}img_highres/WOMEN/Dresses/id_00000002/02_1_front.jpg"
    assert {sample.box for sample in dataset.samples} == {None}


def test_missing_image_folder_names_the_other(tmp_path: Path) -> None:
    make(tmp_path, images="img_highres")
    with pytest.raises(FileNotFoundError, match=r"no folder Img/img or img, .* \(img_highres is there"):
        isc.read(tmp_path)


def test_unknown_image_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images: found 'huge', expected one of img, img_highres"):
        isc.read(make(tmp_path), images="huge")


BAD_LINES = {
    "line 4: found 2 columns, expected 3: image_name item_id evaluation_status": "img/a.jpg id_00000002",
    "line 4: found 0 columns": "",
    "line 4: found 'val', expected evaluation_status, one of train, query, gallery": "img/a.jpg id_00000002 val",
    "line 4: found image_name 'img/WOMEN/Dresses/id_00000002/02_1_front.jpg' again, first in line 3": PARTITION[0],
    "line 4: found 'a.jpg', expected an image_name that begins with img/": "a.jpg id_00000002 train",
    "line 4: found the path 'img/../../a.jpg'": "img/../../a.jpg id_00000002 train",
    "line 4: found the path '/img/a.jpg'": "/img/a.jpg id_00000002 train",
}


@pytest.mark.parametrize("message", BAD_LINES)
def test_malformed_line(tmp_path: Path, message: str) -> None:
    make(tmp_path, partition=[PARTITION[0], BAD_LINES[message], *PARTITION[2:]], boxes=None)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        isc.read(tmp_path, list_missing=True)
    assert f"list_eval_partition.txt, {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", ["5", "x", "4 4"])
def test_count_that_does_not_fit(tmp_path: Path, count: str) -> None:
    make(tmp_path, count=count)
    with pytest.raises(ValueError, match=r"list_eval_partition\.txt, line 1: found '"):
        isc.read(tmp_path)


BAD_BOXES = {
    r"list_bbox_inshop.txt, line 3: found a box from \(10, 3\) to \(5, 11\)": "3 1 010 003 005 011",
    "list_bbox_inshop.txt, line 3: found 'x', expected x_1": "3 1 x 003 005 011",
    "list_bbox_inshop.txt, line 3: found 6 columns, expected 7": "3 1 010 003 005",
}


@pytest.mark.parametrize("message", BAD_BOXES)
def test_malformed_box(tmp_path: Path, message: str) -> None:
    make(tmp_path, boxes=[f"{next(iter(IMAGES))} {BAD_BOXES[message]}", *BOXES[1:]])
    with pytest.raises(ValueError, match=message):
        isc.read(tmp_path)


def test_image_without_box(tmp_path: Path) -> None:
    make(tmp_path, boxes=BOXES[:3])
    with pytest.raises(ValueError, match=r"list_eval_partition\.txt, line 6: found image .* without a box"):
        isc.read(tmp_path)


def test_box_without_image(tmp_path: Path) -> None:
    make(tmp_path, boxes=[*BOXES, "img/b.jpg 3 1 1 1 2 2"])
    with pytest.raises(ValueError, match=r"list_bbox_inshop\.txt, line 7: found a box of image 'img/b\.jpg'"):
        isc.read(tmp_path)


def test_item_in_train_and_gallery(tmp_path: Path) -> None:
    make(tmp_path, partition=[*PARTITION[:3], PARTITION[3].replace("id_00000080    ", "id_00000002    ")])
    with pytest.raises(ValueError, match="found 1 classes in train and in another split, the first is 'id_00000002'"):
        isc.read(tmp_path)


def test_no_partition(tmp_path: Path) -> None:
    touch(tmp_path, ["img/a.jpg"])
    with pytest.raises(
        FileNotFoundError, match=r"found none of Eval/list_eval_partition\.txt, list_eval_partition\.txt"
    ):
        isc.read(tmp_path)
