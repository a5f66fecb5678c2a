"""What is said of a data set that is nearly right: the nearest thing that is there, and files that are passed over."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_sets import save_mat, touch, write

from lrec.datasets import car, cub, disk, folder, isc, links, names, reader, sop

EBAY = "image_id class_id super_class_id path\n"
TREE = ["train/a/1.jpg", "train/b/1.jpg", "test/c/1.jpg", "test/c/2.jpg"]


@pytest.mark.parametrize("nested", [False, True])
def test_cars_as_on_kaggle(tmp_path: Path, nested: bool) -> None:
    """cars_annos.mat beside the images of the other layout, which it does not describe."""
    save_mat(tmp_path / "cars_annos.mat", [("car_ims/000001.jpg", 1, 1, 2, 2, 1)])
    for half in ("cars_train", "cars_test"):
        touch(tmp_path, [f"{half}/{half}/00001.jpg" if nested else f"{half}/00001.jpg"])
    expected = (
        r"cars_annos\.mat lists the images of car_ims/, which is not there; .* of cars_train and cars_test are "
        r"numbered otherwise .* add cars_train_annos\.mat and cars_test_annos_withlabels\.mat, or the folder car_ims"
    )
    for list_missing in (False, True):
        with pytest.raises(FileNotFoundError, match=expected):
            car.read(tmp_path, list_missing)


def products(root: Path) -> None:
    write(root / "Ebay_train.txt", f"{EBAY}1 1 1 bicycle/a.JPG\n")
    write(root / "Ebay_test.txt", f"{EBAY}2 2 1 bicycle/b.JPG\n")
    touch(root, ["bicycle/a.JPG", "bicycle/b.JPG"])


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("bicycle/a.JPG", "bicycle/a.jpg", "'a.jpg' is there, which differs only in case"),
        ("bicycle/a.JPG", "bicycle/a.png", "'a.png' is there, which differs only in its suffix"),
        ("bicycle", "Bicycle", "'Bicycle' is there, which differs only in case"),
        ("bicycle", "images/bicycle", "images/bicycle/a.JPG is there, one folder deeper"),
        ("bicycle", "images.zip", "images.zip is there, not unpacked"),
        ("Ebay_test.txt", "ebay_test.txt", "'ebay_test.txt' is there, which differs only in case"),
    ],
)
def test_what_is_there_in_the_place_of_a_file(tmp_path: Path, old: str, new: str, hint: str) -> None:
    products(tmp_path)
    (tmp_path / new).parent.mkdir(exist_ok=True)
    if new.endswith(".zip"):
        shutil.rmtree(tmp_path / old)
        (tmp_path / new).touch()
    else:
        (tmp_path / old).rename(tmp_path / new)
    with pytest.raises(FileNotFoundError) as caught:
        sop.read(tmp_path)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("there", "hint"),
    [
        ("Images.txt", "'Images.txt' is there, which differs only in case"),
        ("images.csv", "'images.csv' is there, which differs only in its suffix"),
        ("a/b/c/images.txt", "a/b/c/images.txt is there, deeper"),
        ("CUB_200_2011.tgz", "CUB_200_2011.tgz is there, not unpacked"),
    ],
)
def test_what_is_there_in_the_place_of_annotations(tmp_path: Path, there: str, hint: str) -> None:
    touch(tmp_path, [there])
    with pytest.raises(FileNotFoundError) as caught:
        cub.read(tmp_path)
    assert hint in str(caught.value)


def test_clothes_that_are_not_unpacked(tmp_path: Path) -> None:
    write(tmp_path / "Eval/list_eval_partition.txt", "1\nimage_name item_id evaluation_status\nimg/a.jpg a train\n")
    touch(tmp_path, ["Img/img.zip"])
    with pytest.raises(FileNotFoundError, match=r"Img/img\.zip is there, not unpacked"):
        isc.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"), [("Photos", "'Photos' is there, which differs only in case"), ("x/photos", "one folder deeper")]
)
def test_what_is_there_in_the_place_of_the_folder(tmp_path: Path, name: str, hint: str) -> None:
    touch(tmp_path / name, TREE)
    with pytest.raises(FileNotFoundError, match=hint):
        reader.read("folder", tmp_path, "photos", 32)


@pytest.mark.parametrize(
    ("tree", "hint"),
    [
        (["Train/a/1.jpg", "Test/b/1.jpg"], "the split 'test' differs only in case"),
        (
            ["train/train/a/1.jpg", "train/train/b/1.jpg", "test/c/1.jpg"],
            "one folder deeper than expected; move them up",
        ),
        (["photos.zip"], "photos.zip is there, not unpacked"),
        (["set/train/a/1.jpg", "set/test/b/1.jpg", "other/x.txt"], "set has the splits, with other things around it"),
        ([*TREE, "train/a/2.heic"], "found '2.heic', expected images"),
    ],
)
def test_folders_of_ones_own_that_are_nearly_right(tmp_path: Path, tree: list[str], hint: str) -> None:
    touch(tmp_path, tree)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        folder.read(tmp_path)
    assert hint in str(caught.value)


LEFT = [
    "lost+found",
    "@eaDir",
    "__MACOSX",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    ".ipynb_checkpoints",
]


@pytest.mark.parametrize("name", LEFT)
def test_folders_that_systems_leave_are_left_out(tmp_path: Path, name: str) -> None:
    touch(tmp_path, TREE)
    expected = folder.read(tmp_path).samples
    for place in ("", "train", "test", "train/a", "test/c"):
        touch(tmp_path / place / name, ["1.jpg", "._1.jpg", "SYNOPHOTO_THUMB_M.jpg"])
    touch(
        tmp_path, ["._train", "train/._a", "train/a/._1.jpg", "train/a/Thumbs.db", "Icon\r", "train.dvc", "images.dvc"]
    )
    assert folder.read(tmp_path).samples == expected
    files, others = disk.files_below(tmp_path)
    assert [path.name for path in files] == ["1.jpg", "2.jpg", "1.jpg", "1.jpg"]
    assert others == []
    assert names.is_leftover(name)


def test_a_file_that_must_not_be_read_is_no_damaged_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, TREE)
    dataset = folder.read(tmp_path)

    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / TREE[0]))

    monkeypatch.setattr("PIL.Image.open", closed)
    with pytest.raises(PermissionError):
        dataset.load(dataset.samples[0])


def test_links_into_the_projects_own_cache_are_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `dvc checkout` makes them with cache.type symlink."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    touch(project / "raw/photos", TREE)
    touch(project, [".dvc/cache/files/md5/ab/cdef"])
    touch(elsewhere, [".dvc/cache/files/md5/ab/cdef"])
    monkeypatch.chdir(project)
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--force"], check=True)
    touch(project, [".dvc/cache/files/md5/ab/cdef"])
    links._cache.cache_clear()
    image = project / "raw/photos" / TREE[0]
    for target, fits in ((project, True), (elsewhere, False)):
        image.unlink()
        image.symlink_to(target / ".dvc/cache/files/md5/ab/cdef")
        if fits:
            assert len(folder.read(project / "raw/photos").samples) == len(TREE)
        else:
            with pytest.raises(ValueError, match="a symbolic link to .*elsewhere"):
                folder.read(project / "raw/photos")
