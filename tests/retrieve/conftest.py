"""A small project to search in, and the database of one of its runs."""

import shutil
from pathlib import Path

import pytest
from once import once
from retrieval_project import make

from lrec.retrieve import Database


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project; each module of tests has a copy of its own."""
    whole = once(tmp_path_factory, "retrieval_project", lambda folder: make(root, folder))
    return shutil.copytree(whole, tmp_path_factory.mktemp("project"), dirs_exist_ok=True)


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project of the test's own, as the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def database(made: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The database of the run tiny/resnet18, in its project as the current folder."""
    monkeypatch.chdir(made)
    return Database.load("tiny/resnet18")
