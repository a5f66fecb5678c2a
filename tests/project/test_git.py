"""Living with git and DVC: raw data can be versioned, and no setting of git changes bytes that are hashed."""

import shutil
from pathlib import Path

import checkout
import numpy as np
import pytest
from PIL import Image

from lrec.datasets import links
from stages import preprocess


@pytest.fixture
def clone(root: Path, tmp_path: Path) -> Path:
    checkout.clone(root, tmp_path / "clone")
    checkout.commit(tmp_path / "clone", "as it is")
    return tmp_path / "clone"


def test_bytes_are_those_of_the_commit_under_any_setting(clone: Path, tmp_path: Path):
    options = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    checkout.call(tmp_path, "git", *options, "clone", "--quiet", str(clone), "other")
    for name in checkout.call(clone, "git", "ls-files").splitlines():
        assert (tmp_path / "other" / name).read_bytes() == (clone / name).read_bytes(), name


@pytest.mark.parametrize("place", ["data/raw/photos", "data/raw/photos/train"])
def test_raw_data_in_dvc(clone: Path, place: str, monkeypatch: pytest.MonkeyPatch):
    """Where the docs place them, and with links into the cache."""
    settings = (clone / "params.yaml").read_text(encoding="utf-8")
    block = (
        "  photos:\n    layout: folder\n    folder: photos\n"
        + settings.split("    folder: null\n")[1].split("  car_unc")[0]
    )
    block = block.replace("meta_class_size: 8", "meta_class_size: 2")
    (clone / "params.yaml").write_text(settings.replace("variants:\n", f"variants:\n{block}"), encoding="utf-8")
    for number, name in enumerate(("train/a", "train/b", "test/c", "test/d")):
        (clone / "data/raw/photos" / name).mkdir(parents=True)
        for image in range(2):
            pixels = np.full((32, 32, 3), 20 * number + image, np.uint8)
            Image.fromarray(pixels).save(clone / "data/raw/photos" / name / f"{image}.png")
    assert "data/raw" not in checkout.call(clone, "git", "status", "--short")
    checkout.call(clone, "dvc", "add", "--quiet", place)
    added = checkout.call(clone, "git", "status", "--short", "--untracked-files=all")
    assert f"?? {place}.dvc" in added.splitlines()
    assert "png" not in added
    checkout.call(clone, "dvc", "config", "--local", "cache.type", "symlink")
    shutil.rmtree(clone / place)
    checkout.call(clone, "dvc", "checkout", "--quiet", f"{place}.dvc")
    assert (clone / "data/raw/photos/train/a/0.png").is_symlink()
    monkeypatch.chdir(clone)
    links._cache.cache_clear()
    preprocess.main("photos")
    assert (clone / "data/processed/photos/images.npy").is_file()
