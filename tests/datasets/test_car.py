"""CARS196: its layouts, its corners, its errors."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from synthetic_sets import check_box, draw_marked, save_mat, shared, touch

from lrec.datasets import car, decoding, reader

NAMES = [f"Maker Model {number}" for number in range(1, 197)]
# Corners of RED_BOX as the official files count them: from 1, inclusive.
OFFICIAL_CORNERS = (6, 4, 10, 11)


def combined(root: Path, folders: tuple[str, ...] = ("car_ims",)) -> list[tuple]:
    """cars_annos.mat with images of classes 1, 98, 99 and 196 in each folder; the images are empty."""
    rows = [(f"{folder}/{c:06d}.jpg", *OFFICIAL_CORNERS, c) for folder in folders for c in (1, 98, 99, 196)]
    save_mat(root / "cars_annos.mat", rows, names=NAMES)
    touch(root, [row[0] for row in rows])
    return rows


def kit(root: Path, place: str = "devkit", nested: bool = False, labels: str = car.TEST[0]) -> None:
    """cars_train/ and cars_test/ whose file names repeat, with the development kit's annotations."""
    rows = {"train": [("00001.jpg", 1, 1, 2, 2, 1), ("00002.jpg", 1, 1, 2, 2, 150)]}
    rows["test"] = [("00001.jpg", 1, 1, 3, 3, 98), ("00002.jpg", 1, 1, 2, 2, 99)]
    save_mat(root / place / car.TRAIN[0], rows["train"], "fname")
    save_mat(root / labels, rows["test"], "fname")
    for split, images in rows.items():
        folder = f"cars_{split}/cars_{split}" if nested else f"cars_{split}"
        touch(root, [f"{folder}/{row[0]}" for row in images])


def test_real_annotations_give_the_official_counts(tmp_path: Path) -> None:
    shutil.copyfile(shared("annotations/cars_annos_all_16185.mat"), tmp_path / "cars_annos.mat")
    dataset = car.read(tmp_path, list_missing=True)
    assert dataset.counts() == car.OFFICIAL == {"train": (8054, 98), "test": (8131, 98)}
    assert len(dataset.missing) == len({sample.path for sample in dataset.samples}) == 16185


def test_real_development_kit(tmp_path: Path) -> None:
    (tmp_path / "devkit").mkdir()
    for name in ("cars_train_annos.mat", "cars_meta.mat"):
        shutil.copyfile(shared(f"car/devkit/{name}"), tmp_path / "devkit" / name)
    save_mat(tmp_path / car.TEST[0], [("00001.jpg", 30, 52, 246, 147, 181)], "fname")
    dataset = car.read(tmp_path, list_missing=True)
    assert dataset.counts() == {"train": (4052, 98), "test": (4093, 98)}
    assert dataset.samples[0].class_name == "014 Audi TTS Coupe 2012"
    assert dataset.samples[0].box == (38, 115, 569, 375)


def test_real_half_set_opens() -> None:
    dataset = car.read(shared("car"))
    assert dataset.counts() == {"train": (4052, 98), "test": (4092, 98)}
    for sample in dataset.samples[:: len(dataset.samples) // 20]:
        pixels = decoding.crop_and_resize(dataset.load(sample), sample.box, 32, "squash")
        assert pixels.std() > 0


def test_combined_layout(tmp_path: Path) -> None:
    combined(tmp_path)
    dataset = car.read(tmp_path)
    assert "cars_annos.mat, images under car_ims" in dataset.found
    assert [(s.path, s.class_name, s.split) for s in dataset.samples] == [
        ("car_ims/000001.jpg", "001 Maker Model 1", "train"),
        ("car_ims/000098.jpg", "098 Maker Model 98", "train"),
        ("car_ims/000099.jpg", "099 Maker Model 99", "test"),
        ("car_ims/000196.jpg", "196 Maker Model 196", "test"),
    ]


def test_combined_layout_with_two_folders_of_equal_names(tmp_path: Path) -> None:
    combined(tmp_path, ("cars_train", "cars_test"))
    dataset = car.read(tmp_path)
    assert len({sample.path for sample in dataset.samples}) == 8


def test_combined_wins_over_the_kit(tmp_path: Path) -> None:
    kit(tmp_path)
    combined(tmp_path)
    assert "cars_annos.mat" in car.read(tmp_path).found


def test_kit_is_read_when_the_folder_of_the_combined_file_is_absent(tmp_path: Path) -> None:
    combined(tmp_path)
    shutil.rmtree(tmp_path / "car_ims")
    kit(tmp_path, nested=True)
    dataset = car.read(tmp_path)
    assert "cars_train_annos.mat and cars_test_annos_withlabels.mat" in dataset.found
    assert dataset.samples[0].path == "cars_train/cars_train/00001.jpg"


@pytest.mark.parametrize("place", ["devkit", "", "car_devkit/devkit"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("labels", [car.TEST[0], f"devkit/{car.TEST[0]}", "cars_test_annos_withlabels (1).mat"])
def test_kit_layout(tmp_path: Path, place: str, nested: bool, labels: str) -> None:
    kit(tmp_path, place, nested, labels)
    dataset = car.read(tmp_path)
    assert [(s.path.rpartition("cars_")[2], s.class_name, s.split) for s in dataset.samples] == [
        ("train/00001.jpg", "001", "train"),
        ("train/00002.jpg", "150", "test"),
        ("test/00001.jpg", "098", "train"),
        ("test/00002.jpg", "099", "test"),
    ]
    assert dataset.samples[2].box == (0, 0, 3, 3)


@pytest.mark.parametrize("outer", ["stanford_cars", "a/b"])
def test_nested_set_is_found(tmp_path: Path, outer: str) -> None:
    kit(tmp_path / outer)
    assert car.read(tmp_path).root == tmp_path / outer


def test_box_is_right_to_the_pixel(tmp_path: Path) -> None:
    save_mat(tmp_path / "cars_annos.mat", [("car_ims/1.jpg", *OFFICIAL_CORNERS, 1)], names=NAMES)
    draw_marked(tmp_path / "car_ims/1.jpg")
    dataset = car.read(tmp_path)
    sample = dataset.samples[0]
    check_box(dataset, sample)


def test_smallest_corners_do_not_wrap(tmp_path: Path) -> None:
    # 0 as uint8 less one would be 255; a corner one pixel over the edge is clipped later.
    save_mat(tmp_path / "cars_annos.mat", [("car_ims/1.jpg", 0, 1, 5, 5, 1)])
    touch(tmp_path, ["car_ims/1.jpg"])
    assert car.read(tmp_path).samples[0].box == (-1, 0, 5, 5)


BAD_ROWS = {
    "class 197, expected 1 to 196": ("car_ims/2.jpg", 1, 1, 2, 2, 197),
    "class 0, expected": ("car_ims/2.jpg", 1, 1, 2, 2, 0),
    r"a box from \(9, 1\) to \(2, 2\)": ("car_ims/2.jpg", 9, 1, 2, 2, 3),
    r"a box from \(1, 9\) to \(2, 2\)": ("car_ims/2.jpg", 1, 9, 2, 2, 3),
    "'abc' as bbox_x1, expected an integer": ("car_ims/2.jpg", "abc", 1, 2, 2, 3),
    "1.5 as bbox_x2, expected an integer": ("car_ims/2.jpg", 1, 1, 1.5, 2, 3),
    "nan as bbox_y2, expected an integer": ("car_ims/2.jpg", 1, 1, 2, float("nan"), 3),
    r"\[1, 2\] as class, expected an integer": ("car_ims/2.jpg", 1, 1, 2, 2, np.array([1, 2])),
    "7 as its path, expected text": (7, 1, 1, 2, 2, 3),
    "path 'car_ims/1.jpg' again, first in annotation 1": ("car_ims/1.jpg", 1, 1, 2, 2, 3),
    "path 'car_ims/1.jpg' again,": ("car_ims/./1.jpg", 1, 1, 2, 2, 3),
    r"the path '\.\./2\.jpg', expected one that stays inside": ("../2.jpg", 1, 1, 2, 2, 3),
    "the path '/etc/2.jpg', expected one that stays inside": ("/etc/2.jpg", 1, 1, 2, 2, 3),
}


@pytest.mark.parametrize("message", BAD_ROWS)
def test_malformed_annotation(tmp_path: Path, message: str) -> None:
    save_mat(tmp_path / "cars_annos.mat", [("car_ims/1.jpg", 1, 1, 2, 2, 1), BAD_ROWS[message]])
    touch(tmp_path, ["car_ims/1.jpg", "car_ims/2.jpg"])
    with pytest.raises(ValueError, match=rf"cars_annos\.mat, annotation 2: found {message}"):
        car.read(tmp_path)


@pytest.mark.parametrize(("absent", "kept"), [("cars_test", car.TRAIN[0]), ("cars_train", car.TEST[0])])
def test_half_of_the_kit(tmp_path: Path, absent: str, kept: str) -> None:
    """Its counts are not the official ones: a run stops, or marks its results."""
    kit(tmp_path)
    save_mat(tmp_path / "devkit" / car.META, [], "fname", NAMES)
    whole = car.read(tmp_path)
    (tmp_path / (car.TEST[0] if absent == "cars_test" else f"devkit/{car.TRAIN[0]}")).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"no cars_t.*\.mat .* of {absent} with .*has none\).*docs/datasets\.md"
    ):
        car.read(tmp_path)
    shutil.rmtree(tmp_path / absent)
    half = car.read(tmp_path)
    assert half.found == f"CARS196, {kept} alone"
    assert half.samples == [sample for sample in whole.samples if not sample.path.startswith(absent)] != []
    assert "Maker Model" in half.samples[0].class_name
    with pytest.raises(ValueError, match="expected 8,054 of 98.*or set allow_partial: true"):
        reader.verify(half, "car_cropped", allow_partial=False)


def test_no_annotations(tmp_path: Path) -> None:
    touch(tmp_path, ["cars_train/00001.jpg"])
    with pytest.raises(FileNotFoundError, match=r"found none of cars_annos\.mat"):
        car.read(tmp_path)


def test_missing_images(tmp_path: Path) -> None:
    combined(tmp_path)
    (tmp_path / "car_ims/000098.jpg").unlink()
    (tmp_path / "car_ims/000196.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"2 of 4 images are missing, the first is car_ims/000098\.jpg"):
        car.read(tmp_path)
    assert car.read(tmp_path, list_missing=True).missing == ("car_ims/000098.jpg", "car_ims/000196.jpg")


def test_missing_fields(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "cars_annos.mat", {"annotations": np.zeros((1, 2), [("class", object)])})
    with pytest.raises(ValueError, match=r"cars_annos\.mat: found no field relative_im_path in `annotations`"):
        car.read(tmp_path)


def test_other_variables(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "cars_annos.mat", {"x": np.ones(3)})
    with pytest.raises(ValueError, match=r"cars_annos\.mat: found no field relative_im_path"):
        car.read(tmp_path)


def test_wrong_number_of_class_names(tmp_path: Path) -> None:
    save_mat(tmp_path / "cars_annos.mat", [("car_ims/1.jpg", 1, 1, 2, 2, 1)], names=NAMES[:5])
    with pytest.raises(ValueError, match=r"cars_annos\.mat: found class_names with 5 entries, expected 196 names"):
        car.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>" * 20, b"MATLAB 7.3 MAT-file" + bytes(200)])
def test_what_is_no_mat_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cars_annos.mat").write_bytes(content)
    with pytest.raises(ValueError, match=r"cars_annos\.mat: not readable as a MATLAB 5 file"):
        car.read(tmp_path)


def test_damaged_mat_gives_one_clear_error(tmp_path: Path) -> None:
    combined(tmp_path)
    file = tmp_path / "cars_annos.mat"
    data = file.read_bytes()
    generator = np.random.default_rng(0)
    damaged = [data[:length] for length in range(0, len(data), len(data) // 40)]
    for _ in range(150):
        copy = bytearray(data)
        copy[generator.integers(128, 2000)] = generator.integers(256)
        damaged.append(bytes(copy))
    errors = []
    for content in damaged:
        file.write_bytes(content)
        try:
            car.read(tmp_path, list_missing=True)
        except ValueError as error:
            errors.append(str(error))
    assert len(errors) > 40  # every truncated one at least
    assert all("cars_annos.mat" in error and "\n" not in error for error in errors)
