"""Settings that were given for a run: not as git or DVC recorded them."""

from pathlib import Path

import checkout
import pytest

from lrec.io import given

NOW = {"batch_size": 4, "seed": 0, "milestones": [0.5], "new": 1}
STAGE = "train@a-b"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_records_nothing_was_given():
    assert given.changed(NOW, "train", STAGE) == []


def test_against_the_last_commit(project: Path):
    checkout.call(project, "git", "init", "--quiet")
    (project / "params.yaml").write_text("train: {batch_size: 10, seed: 0, milestones: [0.5]}\n")
    checkout.commit(project, "settings")
    (project / "params.yaml").write_text("train: {batch_size: 4}\n")
    assert given.changed(NOW, "train", STAGE) == ["batch_size"]
    assert given.changed(NOW, "embed", STAGE) == []


@pytest.mark.parametrize(
    "content", ["stages: {train@a-b: {params: {params.yaml: {train: {seed: 1}}}}}", "[", "a: 1", ""]
)
def test_against_the_last_run(project: Path, content: str):
    (project / "dvc.lock").write_text(content)
    assert given.changed(NOW, "train", STAGE) == (["seed"] if "seed" in content else [])


def test_a_section_within_a_section(project: Path):
    lock = "stages: {report: {params: {params.yaml: {variants: {a: {seed: 1}, c: 3}}}}}"
    (project / "dvc.lock").write_text(lock)
    assert given.changed(NOW, "variants.a", "report") == ["seed"]
    assert given.changed(NOW, "variants.b", "report") == given.changed(NOW, "variants.c.d", "report") == []


def test_the_whole_file(project: Path):
    (project / "dvc.lock").write_text("stages: {report: {params: {params.yaml: {seed: 1}}}}")
    assert given.changed(NOW, "", "report") == ["seed"]
