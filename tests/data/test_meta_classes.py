"""Meta classes are balanced, unique and reproducible, for every request that can be met."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrec.data import meta_classes


@st.composite
def possible(draw) -> tuple[int, int, int]:
    """(classes, meta classes, branches) with 2 <= D <= C <= D^M."""
    size = draw(st.integers(2, 6))
    branches = draw(st.integers(1, 6))
    classes = draw(st.integers(size, min(size**branches, 60)))
    return classes, size, branches


def check(groups: np.ndarray, classes: int, size: int, branches: int) -> None:
    assert groups.shape == (branches, classes)
    assert groups.dtype == np.int64
    for row in groups:
        counts = np.bincount(row, minlength=size)
        assert len(counts) == size
        assert counts.max() - counts.min() <= 1
    assert len({tuple(code) for code in groups.T}) == classes


@given(possible(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_balanced_and_unique(request_: tuple[int, int, int], seed: int):
    groups = meta_classes.assign(*request_, seed)
    check(groups, *request_)
    np.testing.assert_array_equal(groups, meta_classes.assign(*request_, seed))


@given(possible(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_balanced_and_unique_where_codes_are_scarce(request_: tuple[int, int, int], seed: int):
    check(meta_classes._assign_tight(*request_, np.random.default_rng(seed)), *request_)


def test_every_code_used():
    check(meta_classes.assign(27, 3, 3, 0), 27, 3, 3)


def test_seeds_and_branches_differ():
    groups = meta_classes.assign(98, 12, 48, 0)
    assert (groups != meta_classes.assign(98, 12, 48, 1)).any()
    assert len({tuple(row) for row in groups}) == 48


def test_official_sizes():
    check(meta_classes.assign(11318, 512, 48, 0), 11318, 512, 48)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ((10, 11, 4), "found 11, expected 2 to 10"),
        ((10, 1, 4), "found 1, expected 2 to 10"),
        ((10, 3, 2), "9 different codes, expected at least 10"),
        ((10, 3, 0), "1 different codes"),
        ((10, 3, -1), "1 different codes"),
    ],
)
def test_impossible_requests(request_: tuple[int, int, int], message: str):
    with pytest.raises(ValueError, match=message):
        meta_classes.assign(*request_, 0)


NAMES = ["b, with comma", "a", "0012", "ü"]


def test_file_round_trip(tmp_path: Path):
    groups = meta_classes.assign(4, 2, 3, 0)
    meta_classes.write(tmp_path / "m.csv", NAMES, groups)
    np.testing.assert_array_equal(meta_classes.read(tmp_path / "m.csv", NAMES, 2, 3), groups)
    other_order = meta_classes.read(tmp_path / "m.csv", NAMES[::-1], 2, 3)
    np.testing.assert_array_equal(other_order, groups[:, ::-1])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("class,", "klass,", "columns klass"),
        ("branch_2", "branch_9", "3 branch columns, expected 3"),
        ("branch_0,branch_1", "branch_1,branch_0", r"expected 3 \(branch_0 to branch_2\)"),
        ("0012,", "0013,", "'0012' is in one of them only"),
        ("0012,", "0011,", "'0011' is in one of them only"),
        ("a,0", "a,7", "found meta classes 0-7, expected 0-1"),
        ("a,0", "a,2", "found meta classes 0-2, expected 0-1"),
        ("a,0", "a,-1", "found meta classes -1-1, expected 0-1"),
        ("a,0", "a,x", "expected a whole number"),
        ("a,0,1", "a,1,0", "two classes have the same code"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, old: str, new: str, message: str):
    path = tmp_path / "m.csv"
    meta_classes.write(path, NAMES, np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0]]))
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as raised:
        meta_classes.read(path, NAMES, 2, 3)
    assert str(path) in str(raised.value)


def test_many_classes_come_back(tmp_path: Path):
    names = [f"class {number}" for number in range(600)]
    groups = meta_classes.assign(600, 12, 3, 0)
    meta_classes.write(tmp_path / "m.csv", names, groups)
    np.testing.assert_array_equal(meta_classes.read(tmp_path / "m.csv", names, 12, 3), groups)


def test_a_grouping_of_ones_own_may_leave_meta_classes_out(tmp_path: Path):
    groups = meta_classes.assign(4, 2, 3, 0) + 1
    meta_classes.write(tmp_path / "m.csv", NAMES, groups)
    np.testing.assert_array_equal(meta_classes.read(tmp_path / "m.csv", NAMES, 3, 3), groups)


def test_one_column_too_many(tmp_path: Path):
    groups = meta_classes.assign(4, 2, 3, 0)
    meta_classes.write(tmp_path / "m.csv", NAMES, groups)
    table = pd.read_csv(tmp_path / "m.csv", dtype=str)
    table.insert(1, "also", 1)
    table.to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(ValueError, match="found 4 branch columns, expected 3"):
        meta_classes.read(tmp_path / "m.csv", NAMES, 2, 3)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"m\.csv: not found"):
        meta_classes.read(tmp_path / "m.csv", NAMES, 2, 3)
