"""One rule for names, leftovers and nesting, whichever way they come in."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_sets import touch, write

from lrec.datasets import disk, folder, isc, names, sop
from lrec.datasets.dataset import Dataset

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
EBAY = "image_id class_id super_class_id path\n"


def folders(root: Path, classes: dict[str, str]) -> Dataset:
    touch(root, [f"{split}/{name}/1.jpg" for name, split in classes.items()])
    return folder.read(root)


def table(root: Path, classes: dict[str, str]) -> Dataset:
    paths = {name: f"{number}.jpg" for number, name in enumerate(classes)}
    touch(root, paths.values())
    rows = [f"{paths[name]},{name},{split}" for name, split in classes.items()]
    write(root / "images.csv", "\n".join(["path,class,split", *rows]))
    return folder.read(root)


def clothes(root: Path, classes: dict[str, str]) -> Dataset:
    """In-shop, whose items are read from a list; it has query and gallery, and no blanks in a name."""
    splits = {name: {"test": "query"}.get(split, split) for name, split in classes.items()} | {"other": "gallery"}
    rows = [f"img/{number}.jpg {name} {split}" for number, (name, split) in enumerate(splits.items())]
    head = f"{len(rows)}\nimage_name item_id evaluation_status\n"
    write(root / "Eval/list_eval_partition.txt", head + "\n".join(rows))
    touch(root, [row.split(" ")[0] for row in rows])
    return isc.read(root)


LAYOUTS: dict[str, Callable[[Path, dict[str, str]], Dataset]] = {"folder": folders, "table": table, "isc": clothes}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_spellings_of_a_class_are_one(tmp_path: Path, layout: str) -> None:
    with pytest.raises(ValueError, match=f"1 classes in train and in another split, the first is '{COMPOSED}'"):
        LAYOUTS[layout](tmp_path, {COMPOSED: "train", DECOMPOSED: "test"})


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("splits", [("train", "test"), ("train", "train")])
def test_classes_that_differ_in_case_alone(tmp_path: Path, layout: str, splits: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="differs only in case from"):
        LAYOUTS[layout](tmp_path, {"BMW": splits[0], "bmw": splits[1], "other": "test"})


@pytest.mark.parametrize("layout", ["folder", "table"])
@pytest.mark.parametrize(
    ("name", "how"),
    [("Audi ", "blanks at its ends"), (" Audi", "blanks at its ends"), ("AUDI\u00a0", "case and blanks at its ends")],
)
def test_classes_that_differ_in_blanks_alone(tmp_path: Path, layout: str, name: str, how: str) -> None:
    with pytest.raises(
        ValueError, match=rf"found .*, expected a class name .* \(it differs only in {how} from 'Audi'\)"
    ):
        LAYOUTS[layout](tmp_path, {name: "test", "Audi": "train"})


@pytest.mark.parametrize("layout", ["folder", "table"])
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("Audi\u00a0A4", "blanks"),
        ("Audi  a4", "case and blanks"),
        ("Au\u200bdi A4", "characters of no width"),
        ("\ufeffAudi A4", "characters of no width"),
        ("\uff21udi A4", "the width of its letters"),
    ],
)
def test_classes_that_differ_in_what_a_reader_overlooks(tmp_path: Path, layout: str, name: str, how: str) -> None:
    with pytest.raises(ValueError, match=f"differs only in {how} from"):
        LAYOUTS[layout](tmp_path, {"Audi A4": "train", name: "test"})


@pytest.mark.parametrize("layout", ["folder", "table"])
def test_blanks_around_a_class(tmp_path: Path, layout: str) -> None:
    with pytest.raises(ValueError, match=r"found 'b ', expected a class name without spaces around it; rename"):
        LAYOUTS[layout](tmp_path, {"a": "train", "b ": "test"})


@pytest.mark.parametrize("layout", ["folder", "table"])
def test_names_that_differ_in_more_are_apart(tmp_path: Path, layout: str) -> None:
    """Words of their own: with an accent, with ss for a sharp s, with a blank inside."""
    classes = {"Maße": "train", "Masse": "train", "cafe": "test", COMPOSED: "test", "A 4": "test", "A4": "train"}
    assert {s.class_name for s in LAYOUTS[layout](tmp_path, classes).samples} == set(classes)


def test_the_lines_of_a_table_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images\.csv, line 3: found the class 'bmw', .* \(.*images\.csv, line 2\)"):
        table(tmp_path, {"BMW": "train", "bmw": "test"})


def test_query_and_gallery_meet_in_one_class(tmp_path: Path) -> None:
    touch(tmp_path, ["train/a/1.jpg", f"query/{COMPOSED}/1.jpg", f"gallery/{DECOMPOSED}/1.jpg"])
    dataset = folder.read(tmp_path)
    assert [s.class_name for s in dataset.samples] == ["a", COMPOSED, COMPOSED]
    assert all((tmp_path / sample.path).is_file() for sample in dataset.samples)


@pytest.mark.parametrize("written", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("there", [COMPOSED, DECOMPOSED])
def test_a_table_finds_files_in_either_spelling(tmp_path: Path, written: str, there: str) -> None:
    """A table from Windows, images unpacked from an archive of macOS."""
    touch(tmp_path, [f"{there}/{there}.jpg", f"{there}/b.jpg"])
    write(tmp_path / "images.csv", f"path,class,split\n{written}/{written}.jpg,a,train\n{written}/b.jpg,b,test\n")
    assert [s.path for s in folder.read(tmp_path).samples] == [f"{there}/{there}.jpg", f"{there}/b.jpg"]


def test_a_file_in_both_spellings_of_a_table_is_there_twice(tmp_path: Path) -> None:
    touch(tmp_path, [f"{COMPOSED}.jpg"])
    write(tmp_path / "images.csv", f"path,class,split\n{COMPOSED}.jpg,a,train\n{DECOMPOSED}.jpg,b,test\n")
    with pytest.raises(ValueError, match=r"line 3: found path .* again, first in line 2"):
        folder.read(tmp_path)


def test_a_folder_of_params_is_found_in_either_spelling(tmp_path: Path) -> None:
    (tmp_path / DECOMPOSED).mkdir()
    assert disk.locate(tmp_path, COMPOSED, ()) == tmp_path / DECOMPOSED


LEFTOVERS = [".a.jpg", "._a.jpg", ".1.jpg.4f2a.tmp", "Thumbs.db", "desktop.ini", "__MACOSX"]


@pytest.mark.parametrize("name", LEFTOVERS)
def test_leftovers_are_left_out_of_every_listing(tmp_path: Path, name: str) -> None:
    touch(tmp_path, ["1.jpg", name, "sub/2.jpg", f"sub/{name}", ".cache/3.jpg", "sub/__MacOSX/4.jpg"])
    assert disk.listed(tmp_path) == (["sub"], ["1.jpg"])
    assert disk.files_below(tmp_path) == ([tmp_path / "1.jpg", tmp_path / "sub/2.jpg"], [])


@pytest.mark.parametrize("outer", [".trash", "__MACOSX"])
def test_no_set_is_found_in_leftovers(tmp_path: Path, outer: str) -> None:
    write(tmp_path / outer / "Ebay_train.txt", f"{EBAY}1 1 1 a.JPG\n")
    with pytest.raises(FileNotFoundError, match=r"found none of Ebay_train\.txt"):
        sop.read(tmp_path)


@pytest.mark.parametrize("path", ["._a.jpg", "__MACOSX/a.jpg", ".thumbs/a.jpg"])
def test_a_table_may_not_list_leftovers(tmp_path: Path, path: str) -> None:
    touch(tmp_path, [path, "b.jpg"])
    write(tmp_path / "images.csv", f"path,class,split\n{path},a,train\nb.jpg,b,test\n")
    with pytest.raises(ValueError, match="line 2: found .*, expected an image that is neither hidden nor left"):
        folder.read(tmp_path)


TREE = ["train/a/1.jpg", "test/b/1.jpg"]


@pytest.mark.parametrize("nesting", ["shoes", "shoes/shoes", "a/b"])
def test_a_nested_set_is_found(tmp_path: Path, nesting: str) -> None:
    touch(tmp_path, [f"{nesting}/{path}" for path in TREE])
    touch(tmp_path, ["README.txt", "__MACOSX/shoes/._x", ".DS_Store"])
    assert folder.read(tmp_path).root == tmp_path / nesting
    assert len(folder.read(tmp_path).samples) == 2


def test_a_nested_table_is_found(tmp_path: Path) -> None:
    touch(tmp_path, ["shoes/1.jpg", "shoes/2.jpg"])
    write(tmp_path / "shoes/images.csv", "path,class,split\n1.jpg,a,train\n2.jpg,b,test\n")
    assert [s.path for s in folder.read(tmp_path).samples] == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize("stray", ["other/1.jpg", "shoes2/train/a/1.jpg", "notes.doc"])
def test_nothing_beside_a_nested_set_goes_unread(tmp_path: Path, stray: str) -> None:
    touch(tmp_path, [stray, *(f"shoes/{path}" for path in TREE)])
    with pytest.raises(ValueError, match=r"found .*'shoes'.*, expected train, test, query, gallery or one table"):
        folder.read(tmp_path)


def test_a_set_nested_too_deep_is_not_found(tmp_path: Path) -> None:
    touch(tmp_path, [f"1/2/3/{path}" for path in TREE])
    with pytest.raises(ValueError, match="found '1', expected train"):
        folder.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "found ''"), ("a\x1b", r"found the character \\x1b"), ("a" * 1001, "found a name of 1,001 characters")],
)
def test_the_rules_of_a_single_name(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^here: {message}"):
        names.require_classes({"fine": "here", name: "here"})
