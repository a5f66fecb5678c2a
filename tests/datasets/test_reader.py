"""Finding data sets, keeping paths inside them, and comparing counts."""

import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_sets import draw_marked, touch, write

from lrec.datasets import check, disk, glyphs, reader
from lrec.datasets.dataset import Dataset, Sample

TREE = ["train/a/1.jpg", "test/b/1.jpg"]
EBAY = "image_id class_id super_class_id path\n"


def products(root: Path) -> None:
    write(root / "Ebay_train.txt", f"{EBAY}1 1 1 a.JPG\n")
    write(root / "Ebay_test.txt", f"{EBAY}2 2 1 b.JPG\n")
    touch(root, ["a.JPG", "b.JPG"])


@pytest.mark.parametrize("name", ["sop", "Stanford_Online_Products", "SOP/Stanford_Online_Products"])
def test_usual_names_are_found(tmp_path: Path, name: str) -> None:
    products(tmp_path / name)
    dataset = reader.read("sop", tmp_path, "sop", 32)
    assert dataset.root == tmp_path / name
    assert len(dataset.samples) == 2


def test_named_folder_wins(tmp_path: Path) -> None:
    products(tmp_path / "SOP")
    products(tmp_path / "mine")
    assert reader.read("sop", tmp_path, "mine", 32).root == tmp_path / "mine"


def test_missing_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    pattern = r"no folder car \(nor CARS196, cars196.*stanford_cars.*data_root.*LREC_DATA.*docs/datasets\.md"
    with pytest.raises(FileNotFoundError, match=pattern):
        reader.read("car", tmp_path, "car", 32)


def test_own_folder_has_no_other_names(tmp_path: Path) -> None:
    touch(tmp_path / "set", TREE)
    assert len(reader.read("folder", tmp_path, "set", 32).samples) == 2
    with pytest.raises(FileNotFoundError, match="no folder other in it;"):
        reader.read("folder", tmp_path, "other", 32)


@pytest.mark.parametrize("folder", ["../set", "/set", "a/../../set"])
def test_folder_outside_the_raw_root(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ValueError, match="folder in params.yaml, .* expected one that stays inside"):
        reader.read("folder", tmp_path, folder, 32)


@pytest.mark.parametrize(
    ("layout", "folder", "message"), [("cars", "x", "found 'cars', expected one of"), ("car", None, "found no folder")]
)
def test_wrong_arguments(tmp_path: Path, layout: str, folder: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reader.read(layout, tmp_path, folder, 32)


def test_glyphs_need_no_folder(tmp_path: Path) -> None:
    dataset = reader.read("glyphs", tmp_path / "nowhere", None, 32)
    assert dataset.load(dataset.samples[0]).size == (32, 32)


@pytest.mark.parametrize("heavy", ["torch", "matplotlib", "lrec.params"])
def test_readers_load_nothing_heavy(heavy: str) -> None:
    """Not even the set that is drawn with matplotlib's fonts."""
    code = (
        "import sys; from pathlib import Path; from lrec.datasets import reader; "
        "d = reader.read('glyphs', Path(), None, 32); d.load(d.samples[0]); "
        f"sys.exit({heavy!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_fonts_are_those_of_matplotlib() -> None:
    import matplotlib

    for face in glyphs.FACES:
        assert glyphs.font_file(face) == Path(matplotlib.get_data_path()) / "fonts/ttf" / f"{face}.ttf"
        assert glyphs.font_file(face).is_file()


def test_a_new_layout_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found under its other name, read, checked."""

    def read(root: Path, list_missing: bool = False) -> Dataset:
        samples = [Sample("1.png", "a", "train"), Sample("2.png", "b", "test")]
        return disk.assemble(root, "flat", samples, None, list_missing)

    monkeypatch.setitem(reader.LAYOUTS, "flat", reader.Layout(read, ("flat_images",)))
    for name in ("1.png", "2.png"):
        draw_marked(tmp_path / "flat_images" / name)
    assert reader.read("flat", tmp_path, "mine", 32).root == tmp_path / "flat_images"
    check.run("mine", "flat", tmp_path, "mine", 32)
    with pytest.raises(ValueError, match=r"found 'flatter', expected one of glyphs, .*folder, flat$"):
        reader.read("flatter", tmp_path, "mine", 32)


def made(official: dict[str, tuple[int, int]] | None) -> Dataset:
    samples = [Sample("1", "a", "train"), Sample("2", "a", "train"), Sample("3", "b", "test")]
    return Dataset(Path(), "made", samples, official, lambda sample: None)


@pytest.mark.parametrize("official", [None, {"train": (2, 1), "test": (1, 1)}])
@pytest.mark.parametrize("allow_partial", [False, True])
def test_complete_sets_pass(official: dict | None, allow_partial: bool) -> None:
    assert reader.verify(made(official), "set", allow_partial) is False


@pytest.mark.parametrize(
    ("official", "message"),
    [
        (
            {"train": (8054, 98), "test": (1, 1)},
            "set: train: found 2 images of 1 classes, expected 8,054 of 98; complete",
        ),
        ({"train": (2, 1), "test": (1, 2)}, "set: test: found 1 images of 1 classes, expected 1 of 2;"),
        ({"train": (2, 1), "query": (1, 1)}, "query: found 0 images of 0 classes, expected 1 of 1; test: found 1"),
        ({"train": (3, 1), "test": (2, 1)}, "expected 3 of 1; test: found 1 images of 1 classes, expected 2 of 1; "),
    ],
)
def test_different_counts_are_refused_unless_allowed(official: dict, message: str) -> None:
    with pytest.raises(ValueError, match="allow_partial: true in params.yaml") as caught:
        reader.verify(made(official), "set", False)
    assert message in str(caught.value)
    assert reader.verify(made(official), "set", True) is True


@pytest.mark.parametrize(
    ("path", "plain"), [("a/b.jpg", "a/b.jpg"), ("./a//b.jpg", "a/b.jpg"), ("a/./..b.jpg", "a/..b.jpg")]
)
def test_plain_paths(path: str, plain: str) -> None:
    assert disk.inside(path, "here") == plain


@pytest.mark.parametrize("path", ["", ".", "..", "../a", "a/../b", "/a", "//a", "C:/a", "c:a", "a\\b", "a\0b", "a\nb"])
def test_hostile_paths(path: str) -> None:
    with pytest.raises(ValueError, match="list.txt, line 3: found the path .*, expected one that stays inside"):
        disk.inside(path, "list.txt, line 3")


def test_file_link_that_leaves_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["secret.jpg", *(f"set/{path}" for path in TREE)])
    (tmp_path / "set/train/a/2.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(
        ValueError, match=r"train/a/2\.jpg: a symbolic link to .*secret\.jpg, expected it to stay inside"
    ):
        reader.read("folder", tmp_path, "set", 32)


def test_folder_link_that_leaves_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["else/1.jpg", *(f"set/{path}" for path in TREE)])
    (tmp_path / "set/train/c").symlink_to(tmp_path / "else")
    with pytest.raises(ValueError, match=r"train/c: a symbolic link to .*else, expected it to stay inside"):
        reader.read("folder", tmp_path, "set", 32)


def test_folder_whose_name_begins_alike_is_outside(tmp_path: Path) -> None:
    touch(tmp_path, ["set2/1.jpg", *(f"set/{path}" for path in TREE)])
    (tmp_path / "set/train/c").symlink_to(tmp_path / "set2")
    with pytest.raises(ValueError, match="expected it to stay inside"):
        reader.read("folder", tmp_path, "set", 32)


def test_links_inside_and_a_linked_root_are_read(tmp_path: Path) -> None:
    touch(tmp_path / "disk", TREE)
    (tmp_path / "disk/train/a/2.jpg").symlink_to("1.jpg")
    (tmp_path / "set").symlink_to(tmp_path / "disk")
    assert len(reader.read("folder", tmp_path, "set", 32).samples) == 3


def test_broken_link_is_missing(tmp_path: Path) -> None:
    touch(tmp_path / "set", TREE)
    (tmp_path / "set/train/a/2.jpg").symlink_to("gone.jpg")
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images are missing, the first is train/a/2\.jpg"):
        reader.read("folder", tmp_path, "set", 32)


@pytest.mark.parametrize("path", ["9" * 400 + "/1.jpg", "a/" + "9" * 400, "a/" * 3000 + "1.jpg"])
def test_a_name_longer_than_the_system_takes_is_missing(tmp_path: Path, path: str) -> None:
    touch(tmp_path, ["a/1.jpg"])
    assert disk.present(tmp_path, ["a/1.jpg", path]) == {"a/1.jpg": "a/1.jpg"}


def test_folder_in_the_place_of_an_image_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a/1.jpg").mkdir(parents=True)
    touch(tmp_path, ["a/2.jpg"])
    assert disk.present(tmp_path, ["a/1.jpg", "a/2.jpg", "b/1.jpg"]) == {"a/2.jpg": "a/2.jpg"}


def test_set_nested_too_deep_is_not_found(tmp_path: Path) -> None:
    products(tmp_path / "sop/1/2")
    assert reader.read("sop", tmp_path, "sop", 32).root == tmp_path / "sop/1/2"
    products(tmp_path / "SOP/1/2/3")
    with pytest.raises(FileNotFoundError, match=r"found none of Ebay_train\.txt"):
        reader.read("sop", tmp_path, "SOP", 32)


def of_counts(**classes: list[int]) -> Dataset:
    """A data set with so many images in each class of a split; query and gallery share their classes."""
    samples = [
        Sample(f"{split}/{number}/{image}.jpg", f"{'train' if split == 'train' else 'test'} {number}", split)
        for split, sizes in classes.items()
        for number, size in enumerate(sizes)
        for image in range(size)
    ]
    return Dataset(Path(), "made", samples, None, lambda sample: None)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"train": [6], "test": [6, 6]}, "mine: train: found 6 images of 1 class, expected at least 2 classes; .* add"),
        ({"train": [1], "test": [6, 6]}, "mine: train: found 1 image of 1 class, expected at least 2 classes"),
        ({"train": [2, 2], "test": [1]}, "mine: test: found 1 image of 1 class, expected at least 2 images; .* add"),
    ],
)
def test_sets_that_are_too_small_are_refused(classes: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reader.require_enough(of_counts(**classes), "mine")


@pytest.mark.parametrize(
    ("classes", "warning"),
    [
        ({"train": [1, 1], "test": [2, 1]}, ""),
        ({"train": [1, 1], "test": [1, 1]}, "no query has another image of its class to find"),
        ({"train": [1, 1], "test": [5]}, "all images searched are of one class"),
        ({"train": [1, 1], "query": [1, 1], "gallery": [1, 1]}, ""),
        ({"train": [1, 1], "query": [1], "gallery": [1]}, "all images searched are of one class"),
        ({"train": [1, 1], "query": [1], "gallery": [0, 1]}, "no query has another image of its class to find"),
    ],
)
def test_recalls_that_will_mean_nothing_are_announced(classes: dict[str, list[int]], warning: str) -> None:
    lines = reader.require_enough(of_counts(**classes), "mine")
    assert [line.partition(", so")[0] for line in lines] == ([warning] if warning else [])
