"""YAML means to this project what it means to DVC, which reads YAML 1.2 with ruamel.yaml."""

import math
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from lrec.io import strict_yaml

# Each scalar with its value; what YAML 1.1 reads otherwise stands first.
SCALARS: dict[str, Any] = {
    "010": 10,
    "-010": -10,
    "08": 8,
    "0o10": 8,
    "0o8": "0o8",
    "no": "no",
    "No": "No",
    "yes": "yes",
    "YES": "YES",
    "on": "on",
    "Off": "Off",
    "y": "y",
    "N": "N",
    "1:30": "1:30",
    "1:30.5": "1:30.5",
    "190:20:30": "190:20:30",
    "1e-4": 0.0001,
    "1e3": 1000.0,
    "1E+05": 100000.0,
    "1.5e3": 1500.0,
    "-2e-2": -0.02,
    "+12": 12,
    "-0": 0,
    "0": 0,
    "1_000": 1000,
    "0x1F": 31,
    "-0xff": -255,
    "0b101": 5,
    "1.": 1.0,
    ".5": 0.5,
    "-.5": -0.5,
    "0.0001": 0.0001,
    "1.5.2": "1.5.2",
    "1_0.5_0": 10.5,
    ".inf": math.inf,
    "-.INF": -math.inf,
    ".nan": math.nan,
    "inf": "inf",
    "nan": "nan",
    "true": True,
    "True": True,
    "FALSE": False,
    "tRue": "tRue",
    "null": None,
    "Null": None,
    "~": None,
    "": None,
    "none": "none",
    "None": "None",
    "'010'": "010",
    '"no"': "no",
    "2001-01-01": date(2001, 1, 1),
    "2001-1-1": "2001-1-1",
    "2001-12-14T21:59:43Z": datetime(2001, 12, 14, 21, 59, 43, tzinfo=UTC),
    "cuda:1": "cuda:1",
    "12 monkeys": "12 monkeys",
    "e3": "e3",
    "1e": "1e",
    "0o": "0o",
    ".": ".",
    "+": "+",
}


def ours(folder: Path, text: str) -> Any:
    (folder / "some.yaml").write_text(text, encoding="utf-8")
    return strict_yaml.read(folder / "some.yaml")


def dvcs(text: str) -> Any:
    """As dvc.utils.serialize reads a file."""
    return YAML(typ="safe").load(text)


def is_same(one: Any, other: Any) -> bool:
    both_nan = one != one and other != other
    return type(one) is type(other) and (both_nan or one == other)


def values(read: dict | list) -> list:
    return [part for pair in read.items() for part in pair] if isinstance(read, dict) else read


@pytest.mark.parametrize("scalar", SCALARS)
def test_a_scalar_means_what_it_means_to_dvc(tmp_path: Path, scalar: str) -> None:
    for text in (f"key: {scalar}", f"[{scalar or '~'}]", f"{scalar or '~'}: as a key", f"- {scalar} # a remark"):
        found, expected = ours(tmp_path, text), dvcs(text)
        assert all(map(is_same, values(found), values(expected)))
    assert is_same(ours(tmp_path, f"key: {scalar}")["key"], SCALARS[scalar])


def test_the_table_is_long_enough() -> None:
    assert len(SCALARS) >= 40


@settings(max_examples=400, deadline=None)
@given(st.text("0123456789_.eE+-xobnaNfFtTyYsrulLiI~ZT:", min_size=1, max_size=9))
def test_scalars_at_random(tmp_path_factory: pytest.TempPathFactory, scalar: str) -> None:
    """Read by both with the same value, or by neither."""
    try:
        expected = dvcs(f"key: {scalar}")
    except Exception:  # noqa: BLE001 (ruamel.yaml raises of many kinds)
        with pytest.raises(ValueError, match="not readable as YAML"):
            ours(tmp_path_factory.getbasetemp(), f"key: {scalar}")
        return
    found = ours(tmp_path_factory.getbasetemp(), f"key: {scalar}")
    assert all(map(is_same, values(found), values(expected)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "line 2: key 'a' given twice"),
        ("a: 1\n'a': 2", "key 'a' given twice"),
        ("10: x\n010: y", "line 2: key '010' given twice"),
        ("a: {b: 1, b: 2}", "key 'b' given twice"),
        ("%YAML 1.1\n---\na: 010", "found %YAML 1.1, expected 1.2"),
        ("a: =", "not readable as YAML"),
        ("a: !!python/name:os.system x", "not readable as YAML"),
        ("a: [1", "not readable as YAML"),
        ("a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> other\n", "line 2 is git's mark of a merge conflict"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: " + "[*b" + ", *b" * 2000 + "]", "found more than 10,000 entries"),
        ("#" * 2**18 + "\n", "expected at most 262,144"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"some\.yaml: .*") as caught:
        ours(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_aliases_and_merges_are_read(tmp_path: Path) -> None:
    text = "%YAML 1.2\n---\na: &a {x: 010, y: no}\nb:\n  <<: *a\n  y: yes\nc: *a\n"
    expected = {"a": {"x": 10, "y": "no"}, "b": {"x": 10, "y": "yes"}, "c": {"x": 10, "y": "no"}}
    assert ours(tmp_path, text) == dvcs(text) == expected
