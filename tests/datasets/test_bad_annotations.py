"""Annotations of every layout, damaged: through the stage preprocess, and at random through the readers."""

import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline as tiny
from damage import Damage, cut, other, rows, swap
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_sets import draw_marked, save_mat, write

from lrec.datasets import reader

EBAY = "image_id class_id super_class_id path\n"
NAMES = [f"Maker Model {number}" for number in range(1, 197)]


def cars(root: Path) -> None:
    save_mat(root / "cars_annos.mat", [(f"car_ims/{c}.jpg", 1, 1, 9, 9, c) for c in (1, 98, 99, 196)], names=NAMES)


def birds(root: Path) -> None:
    classes = range(1, 201)
    write(root / "images.txt", "".join(f"{c} {c:03d}.Bird/{c}.jpg\n" for c in classes))
    write(root / "classes.txt", "".join(f"{c} {c:03d}.Bird_{c}\n" for c in classes))
    write(root / "image_class_labels.txt", "".join(f"{c} {c}\n" for c in classes))
    write(root / "bounding_boxes.txt", "".join(f"{c} 1.0 1.0 9.0 9.0\n" for c in classes))


def products(root: Path) -> None:
    write(root / "Ebay_train.txt", f"{EBAY}1 1 1 a/1.JPG\n2 1 1 a/2.JPG\n")
    write(root / "Ebay_test.txt", f"{EBAY}3 2 1 a/3.JPG\n4 2 1 a/4.JPG\n")


def clothes(root: Path) -> None:
    names = [f"img/a/id_{n}/1.jpg" for n in range(6)]
    status = ["train", "train", "query", "query", "gallery", "gallery"]
    items = ["id_0", "id_1", "id_2", "id_3", "id_2", "id_3"]
    listed = "".join(f"{name} {item} {kind}\n" for name, item, kind in zip(names, items, status, strict=True))
    write(root / "Eval/list_eval_partition.txt", f"6\nimage_name item_id evaluation_status\n{listed}")
    boxes = "".join(f"{name} 1 1 0 0 9 9\n" for name in names)
    write(root / "Anno/list_bbox_inshop.txt", f"6\nimage_name clothes_type pose_type x_1 y_1 x_2 y_2\n{boxes}")
    (root / "img").mkdir(parents=True, exist_ok=True)


def own(root: Path) -> None:
    lines = ["train/a.png,ant,train,0,0,9,9", "train/b.png,ant,train,0,0,9,9", "test/c.png,bee,test,0,0,9,9"]
    write(root / "images.csv", "\n".join(["path,class,split,x1,y1,x2,y2", *lines, ""]))


SETS: dict[str, Callable[[Path], None]] = {"car": cars, "cub": birds, "sop": products, "isc": clothes, "folder": own}
UTF16: Damage = lambda data: data.decode().encode("utf-16")  # noqa: E731 (a table's entry)
BINARY = bytes(range(256))


def mat_of(change: Callable[[bytes], bytes]) -> Damage:
    """Change the plain content of a .mat and compress it."""

    def damage(data: bytes) -> bytes:
        packed = zlib.compress(change(data[128:]))
        return data[:128] + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed

    return damage


# Layout, file, what is done to it, what the line says.
CASES: list[tuple[str, str, Damage, str]] = [
    *(("car", "cars_annos.mat", cut(share), r"cars_annos\.mat: ") for share in (0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999)),
    ("car", "cars_annos.mat", other(BINARY * 99), "not readable as a MATLAB 5 file"),
    ("car", "cars_annos.mat", other(b"MATLAB 7.3 MAT-file" + bytes(600)), "not readable as a MATLAB 5 file"),
    ("car", "cars_annos.mat", other(b"\x89HDF\r\n\x1a\n" + bytes(600)), "not readable as a MATLAB 5 file"),
    ("car", "cars_annos.mat", mat_of(lambda plain: bytes(300_000_000)), "larger than 268,435,456 bytes"),
    ("car", "cars_annos.mat", mat_of(lambda plain: plain[:-9]), r"cars_annos\.mat: not readable"),
    (
        "car",
        "cars_annos.mat",
        lambda data: data[:128] + b"\x0f\0\0\0\x20\0\0\0" + bytes(32),
        "not readable as a MATLAB",
    ),
    ("car", "cars_annos.mat", lambda data: data[:126] + b"XX" + data[128:], "not readable as a MATLAB 5 file"),
    ("car", "cars_annos.mat", swap("annotations", "Annotations"), "found no field relative_im_path in `annotations`"),
    ("car", "cars_annos.mat", swap("car_ims/98", "/etc/pas98"), r"annotation 2: found the path '/etc/pas98"),
    ("car", "cars_annos.mat", swap("car_ims/98", "../../ims/"), r"annotation 2: found the path '\.\./\.\./ims/"),
    ("car", "cars_annos.mat", swap("car_ims/98", "car\x1b[31m98"[:10]), r"annotation 2: found the path 'car\\x1b"),
    ("car", "cars_annos.mat", swap("car_ims/98", "car_ims/99"), "path 'car_ims/99.jpg' again"),
    ("car", "cars_annos.mat", swap("Maker Model 98", "Maker\x00Model\x1b98"), r"cars_annos\.mat|found the character"),
    ("cub", "images.txt", cut(0), "found no rows|1 columns|found 0 columns"),
    ("cub", "images.txt", cut(0.5), r"(images|image_class_labels)\.txt"),
    ("cub", "images.txt", other(BINARY), r"images\.txt: found bytes that are not UTF-8"),
    ("cub", "images.txt", UTF16, r"images\.txt: found bytes that are not UTF-8"),
    ("cub", "images.txt", swap("1 001", "one 001"), "line 1: found 'one', expected image_id"),
    ("cub", "images.txt", swap("1 001", "1.0 001"), "line 1: found '1.0', expected image_id"),
    ("cub", "images.txt", swap("1 001", "9" * 500 + " 001"), "line 1: found '999"),
    ("cub", "images.txt", swap("1 001", "-1 001"), "line 1: found '-1'"),
    ("cub", "images.txt", swap("1 001", "١ 001"), "line 1: found '١'"),
    ("cub", "images.txt", swap("2 002", "1 002"), "line 2: found image_id 1 again, first in line 1"),
    ("cub", "images.txt", swap("001.Bird/1.jpg", "001.Bird/1.jpg more"), "line 1: found 3 columns, expected 2"),
    ("cub", "images.txt", swap("001.Bird/1.jpg", "../../../etc/passwd"), "line 1: found the path 'images/../"),
    ("cub", "images.txt", swap("001.Bird/1.jpg", "001.Bird\\1.jpg"), "line 1: found the path"),
    ("cub", "images.txt", swap("001.Bird/1.jpg", "a\x1b]0;title\x07b.jpg"), "line 1: found the path"),
    ("cub", "images.txt", swap("001.Bird/1.jpg", "a\u202egpj.jpg"), r"line 1: found the path 'images/a\\u202e"),
    ("cub", "images.txt", swap("2 002", "\n2 002"), "line 2: found 0 columns, expected 2"),
    ("cub", "classes.txt", swap("1 001.Bird_1", "1 "), "line 1: found 1 columns"),
    ("cub", "classes.txt", swap("001.Bird_1\n", "002.Bird_2\n"), "class name '002.Bird_2' again"),
    ("cub", "classes.txt", swap("001.Bird_1\n", "001.Bird\x1b[2J\n"), r"found the character \\x1b in the name"),
    ("cub", "classes.txt", swap("001.Bird_1\n", "001." + "B" * 2000 + "\n"), "found a name of 2,004 characters"),
    ("cub", "classes.txt", rows(lambda lines: lines[:-1]), "found class 200, expected a class of classes.txt"),
    ("cub", "classes.txt", rows(lambda lines: [*lines, "201 201.New"]), "line 201: found '201'"),
    (
        "cub",
        "image_class_labels.txt",
        swap("1 1\n", "1 0\n"),
        "line 1: found '0', expected the class, an integer from 1",
    ),
    ("cub", "image_class_labels.txt", swap("1 1\n", "1 201\n"), "line 1: found '201'"),
    ("cub", "image_class_labels.txt", swap("1 1\n", "1 2\n"), "found class 1 without images"),
    ("cub", "image_class_labels.txt", swap("1 1\n", ""), "found no row for 1 images of images.txt"),
    ("cub", "bounding_boxes.txt", swap("1 1.0", "1 nan"), "line 1: found 'nan', expected pixels of a box, a number"),
    ("cub", "bounding_boxes.txt", swap("1 1.0", "1 inf"), "line 1: found 'inf'"),
    ("cub", "bounding_boxes.txt", swap("1 1.0", "1 1e300"), "line 1: found '1e300'"),
    ("cub", "bounding_boxes.txt", swap("9.0 9.0", "0.0 9.0"), "line 1: found a box of 0.0 by 9.0 pixels"),
    ("cub", "bounding_boxes.txt", swap("9.0 9.0", "-9.0 9.0"), "line 1: found a box of -9.0 by"),
    ("cub", "bounding_boxes.txt", swap("9.0 9.0", "9.0"), "line 1: found 4 columns, expected 5"),
    ("sop", "Ebay_train.txt", cut(0), r"Ebay_train\.txt: found no rows"),
    ("sop", "Ebay_train.txt", other(EBAY.encode()), r"Ebay_train\.txt: found no rows"),
    ("sop", "Ebay_train.txt", swap("image_id ", "id "), "line 1: found 'id class_id super_class_id path', expected"),
    ("sop", "Ebay_train.txt", swap("1 1 1 a/1.JPG", "1 1 13 a/1.JPG"), "line 2: found '13', expected super_class_id"),
    ("sop", "Ebay_train.txt", swap("1 1 1 a/1.JPG", "1 0 1 a/1.JPG"), "line 2: found '0', expected class_id"),
    ("sop", "Ebay_train.txt", swap("1 1 1 a/1.JPG", "1 1 1 a/3.JPG"), "path 'a/3.JPG' again"),
    ("sop", "Ebay_train.txt", swap("1 1 1 a/1.JPG", "1 2 1 a/1.JPG"), "1 classes in train and in another split"),
    ("sop", "Ebay_train.txt", swap("a/1.JPG", "/dev/zero"), "line 2: found the path '/dev/zero'"),
    ("sop", "Ebay_train.txt", swap("a/1.JPG", "C:/a.JPG"), "line 2: found the path 'C:/a.JPG'"),
    ("sop", "Ebay_train.txt", swap("a/1.JPG", "a/" + "b" * 300 + ".JPG"), "2 of 4 images|4 of 4 images are missing"),
    ("sop", "Ebay_test.txt", other(b"\xef\xbb\xbf" + BINARY), r"Ebay_test\.txt: found bytes that are not UTF-8"),
    ("sop", "Ebay_test.txt", lambda data: data.replace(b" ", b","), "line 1: found 'image_id,class_id"),
    ("isc", "Eval/list_eval_partition.txt", cut(0), r"list_eval_partition\.txt: found no rows"),
    ("isc", "Eval/list_eval_partition.txt", swap("6\n", "7\n"), "line 1: found '7' as the number of rows, expected 6"),
    ("isc", "Eval/list_eval_partition.txt", swap("6\n", "six\n"), "line 1: found 'six'"),
    ("isc", "Eval/list_eval_partition.txt", swap("6\n", "9" * 100 + "\n"), "line 1: found '999"),
    ("isc", "Eval/list_eval_partition.txt", swap("query", "quary"), "found 'quary', expected evaluation_status"),
    ("isc", "Eval/list_eval_partition.txt", swap("img/a", "../img"), "line 3: found image '../img"),
    ("isc", "Eval/list_eval_partition.txt", swap("img/a", "pic/a"), "line 3: found image 'pic/a"),
    (
        "isc",
        "Eval/list_eval_partition.txt",
        swap("id_0 train", "id_2 train"),
        "1 classes in train and in another split",
    ),
    ("isc", "Anno/list_bbox_inshop.txt", swap("0 0 9 9", "9 0 0 9"), r"line 3: found a box from \(9, 0\) to \(0, 9\)"),
    ("isc", "Anno/list_bbox_inshop.txt", swap("0 0 9 9", "0 0 9 x"), "line 3: found 'x', expected y_2"),
    ("isc", "Anno/list_bbox_inshop.txt", swap("0 0 9 9", "0 0 9"), "line 3: found 6 columns"),
    ("isc", "Anno/list_bbox_inshop.txt", swap("id_0/1", "id_9/1"), "without a box in list_bbox_inshop.txt"),
    ("folder", "images.csv", cut(0), r"images\.csv, line 1: found '', expected the header"),
    ("folder", "images.csv", swap("path,class", "class,path"), "line 1: found 'class,path,split"),
    ("folder", "images.csv", swap("path,", "path;"), "line 1: found 'path;class,split"),
    ("folder", "images.csv", swap("train/a.png", '"train/a.png'), "found no valid CSV"),
    ("folder", "images.csv", swap("train/a.png,ant", 'train/a.png,"a\nb"'), r"found the character \\x0a in the name"),
    (
        "folder",
        "images.csv",
        swap("train/a.png,ant", 'train/a.png,"a\x00b"'),
        r"found (the character \\x00|no valid CSV)",
    ),
    ("folder", "images.csv", swap("train/a.png,ant", "train/a.png,ant\u2066"), r"found the character \\u2066"),
    ("folder", "images.csv", swap("train/a.png,ant", "train/a.png,"), "line 2: found '', expected a class name"),
    (
        "folder",
        "images.csv",
        swap("train/a.png,ant", "train/a.png, ant"),
        "line 2: found ' ant', expected a class name",
    ),
    ("folder", "images.csv", swap("ant,train", "ant,training"), "line 2: found 'training', expected a split"),
    ("folder", "images.csv", swap("ant,train", "bee,train"), "1 classes in train and in another split"),
    ("folder", "images.csv", swap("train/b", "train/a"), "path 'train/a.png' again, first in line 2"),
    ("folder", "images.csv", swap("train/a.png", "train/a.exe"), "line 2: found 'train/a.exe', expected an image"),
    ("folder", "images.csv", swap("train/a.png", "../a.png"), r"line 2: found the path '\.\./a\.png'"),
    ("folder", "images.csv", swap("0,0,9,9", "0,0,9,1e3"), "line 2: found '1e3', expected y2"),
    ("folder", "images.csv", swap("0,0,9,9", "0,0,0,9"), r"line 2: found a box from \(0, 0\) to \(0, 9\)"),
    ("folder", "images.csv", swap("0,0,9,9", "0,0,9"), "line 2: found 6 columns, expected 7"),
    ("folder", "images.csv", swap("bee,test", "bee,train"), "found the splits train, expected train and test"),
    ("folder", "images.csv", swap("ant", "a" * 200_000), "found no valid CSV|found a name of 200,000 characters"),
    ("folder", "images.csv", UTF16, r"images\.csv: found bytes that are not UTF-8"),
]


@pytest.fixture
def raw(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LREC_DATA", raising=False)
    return tmp_path / "raw/tiny"


def settle(root: Path, folder: Path, layout: str) -> None:
    values = tiny.settings(root) | {"allow_partial": True}
    values["variants"]["tiny"] |= {"layout": layout}
    tiny.write_settings(folder, values)


def ids(case: tuple) -> str:
    return f"{case[0]}-{case[1]}-{re.sub(r'[^A-Za-z0-9 ]', '', case[3])[:40]}"


@pytest.mark.parametrize(("layout", "name", "damage", "message"), CASES, ids=map(ids, CASES))
def test_damaged(
    raw: Path, root: Path, capsys: pytest.CaptureFixture[str], layout: str, name: str, damage: Damage, message: str
) -> None:
    settle(root, raw.parents[1], layout)
    SETS[layout](raw)
    content = damage((raw / name).read_bytes())
    assert content != (raw / name).read_bytes()
    (raw / name).write_bytes(content)
    line = tiny.refused(tiny.STAGES["preprocess"], capsys)
    assert re.search(message, line), line
    assert line.startswith("raw/tiny")


@pytest.mark.parametrize("layout", SETS)
def test_the_sets_are_sound(raw: Path, layout: str) -> None:
    """But for their images: so each damage is what is refused."""
    SETS[layout](raw)
    dataset = reader.read(layout, raw.parent, "tiny", 32, list_missing=True)
    assert len(dataset.missing) == len(dataset.samples) > 2


BOXES = {
    "1 over the edge": ("0,0,9,9", "0,0,21,9"),
    "far out": ("0,0,9,9", "0,0,9,99"),
    "beside": ("0,0,9,9", "40,40,49,49"),
}


@pytest.mark.parametrize("name", BOXES)
def test_boxes(raw: Path, root: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    settle(root, raw.parents[1], "folder")
    values = tiny.settings(root)
    values["variants"]["tiny"]["crop"] = "box"
    tiny.write_settings(raw.parents[1], values)
    own(raw)
    with (raw / "images.csv").open("a") as stream:  # the fewest that are worked on
        stream.write("train/d.png,elk,train,0,0,9,9\ntest/e.png,bee,test,0,0,9,9\ntest/f.png,fly,test,0,0,9,9\n")
    for path in ("train/a.png", "train/b.png", "test/c.png", "train/d.png", "test/e.png", "test/f.png"):
        draw_marked(raw / path)
    (raw / "images.csv").write_bytes(swap(*BOXES[name])((raw / "images.csv").read_bytes()))
    if name == "1 over the edge":
        tiny.STAGES["preprocess"]()
        assert (raw.parents[1] / "data/processed/tiny/images.npy").is_file()
    else:
        assert "train/a.png: found a box from" in tiny.refused(tiny.STAGES["preprocess"], capsys)


def files_of(layout: str, folder: Path) -> Iterator[Path]:
    SETS[layout](folder)
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("layout", SETS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_at_random(tmp_path: Path, layout: str, data: st.DataObject) -> None:
    """Text put in, taken out and repeated anywhere: a set that is read, or one line of an expected error."""
    folder = tmp_path / "raw/tiny"
    path = data.draw(st.sampled_from(list(files_of(layout, folder))), label="file")
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)), label="start")
    end = data.draw(st.integers(start, min(start + 200, len(content))), label="end")
    inserted = data.draw(
        st.one_of(
            st.binary(max_size=20),
            st.text(max_size=10).map(lambda text: text.encode("utf-8", "surrogatepass")),
            st.sampled_from([b"\n", b",", b'"', b" ", b"\0", b"\r", b"-1", b"nan", b"../", b"9" * 400]),
            st.just(content[start:end] * 2),
        ),
        label="inserted",
    )
    path.write_bytes(content[:start] + inserted + content[end:])
    try:
        reader.read(layout, tmp_path / "raw", "tiny", 32, list_missing=True)
    except (ValueError, FileNotFoundError) as error:
        line = str(error)
    else:
        line = str(folder)
    assert str(folder) in line


def test_numbers_of_any_kind_in_a_mat(tmp_path: Path) -> None:
    values = [np.nan, np.inf, -1, 0, 2**40, 1e300, "1", [1, 2], 1.5]
    messages = []
    for column in range(1, 6):
        for value in values:
            row: list = ["car_ims/1.jpg", 1, 1, 9, 9, 1]
            row[column] = np.array(value) if isinstance(value, list) else value
            save_mat(tmp_path / "tiny/cars_annos.mat", [tuple(row)], names=NAMES)
            try:
                reader.read("car", tmp_path, "tiny", 32, list_missing=True)
            except ValueError as error:
                messages.append(str(error))
    assert len(messages) > 30
    assert all("cars_annos.mat, annotation 1: found" in message and "\n" not in message for message in messages)
