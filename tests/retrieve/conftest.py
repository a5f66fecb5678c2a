"""A small project to search in, made once for each module of tests."""

from pathlib import Path

import pytest
from retrieval_project import make


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    make(root, folder)
    return folder
