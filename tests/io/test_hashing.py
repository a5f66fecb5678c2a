"""Hashes change with what they stand for, and with nothing else."""

from pathlib import Path

import pytest

from lrec.io import hashing, provenance


def test_files_count_with_their_names_or_with_their_paths(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text("same")
    one, two = (tmp_path / folder / "same.py" for folder in ("a", "b"))
    assert hashing.of_files([one]) == hashing.of_files([two])
    assert hashing.of_files([one], tmp_path) != hashing.of_files([two], tmp_path)
    assert hashing.of_files([one, two], tmp_path) == hashing.of_files([two, one], tmp_path)
    two.write_text("other")
    assert hashing.of_files([one]) != hashing.of_files([two])


def test_a_value_counts_whatever_the_order_of_its_keys():
    assert hashing.of_value({"a": 1, "b": [2]}) == hashing.of_value({"b": [2], "a": 1})
    assert hashing.of_value({"a": 1}) != hashing.of_value({"a": 2})


def test_the_code_of_a_package_is_all_of_its_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever is loaded: a docstring in another package changes nothing."""
    for name in ("training/step.py", "report/page.py", "io/provenance.py"):
        (tmp_path / "lrec" / name).parent.mkdir(parents=True)
        (tmp_path / "lrec" / name).write_text("before")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "lrec/io/provenance.py"))
    before = provenance.code_digest(["training"])
    (tmp_path / "lrec/report/page.py").write_text("after")
    assert provenance.code_digest(["training"]) == before
    (tmp_path / "lrec/training/step.py").write_text("after")
    changed = provenance.code_digest(["training"])
    assert changed != before
    (tmp_path / "lrec/training/step.py").rename(tmp_path / "lrec/training/steps.py")
    assert provenance.code_digest(["training"]) != changed
