"""What an error says of something missing: the nearest thing that is there, and the reason."""

import os
import unicodedata
from pathlib import Path

import pytest

from lrec.io import missing

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Birds/001.jpg", f"{DECOMPOSED}/x.png", "weights.safetensors", "my set/a.jpg", "outer/cars/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("gone")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("birds/001.jpg", "no folder 'birds' in {}, but 'Birds' is there, which differs only in case"),
        ("Birds/001.JPG", "'001.jpg' is there, which differs only in case"),
        ("Birds/001.png", "'001.jpg' is there, which differs only in its suffix"),
        ("Birds/002.jpg", ""),  # another number is another file
        (f"{COMPOSED}/x.png", f"'{DECOMPOSED}' is there, which differs only in the Unicode form of its accents"),
        ("my_set", "'my set' is there, which differs only in blanks"),
        ("weights.pth", "'weights.safetensors' is there, which differs only in its suffix"),
        ("wieghts.safetensors", "'weights.safetensors' is there"),
        ("cars/1.jpg", "{}/outer/cars/1.jpg is there, one folder deeper"),
        ("outer/x/cars/1.jpg", "{}/outer/cars/1.jpg is there, one folder higher"),
        ("weights.safetensors/a", "{}/weights.safetensors is a file, not a folder"),
        ("link", "it is a link to gone, which is not there"),
        ("link/a", "{}/link is a link to gone, which is not there"),
        ("empty", "it is a folder"),
        ("empty/a", "{}/empty is empty"),
        ("nothing/like/it", "there is no folder {}/nothing"),
        ("zzz", ""),
    ],
)
def test_the_nearest_thing_is_named(folder: Path, path: str, hint: str) -> None:
    found = missing.hint(folder / path)
    assert hint.format(folder) in found
    assert bool(found) == bool(hint)


def test_what_must_not_be_looked_into_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions do not hold for the user that runs tests in a container."""

    def closed(path: Path, real=os.stat) -> os.stat_result:
        if str(path).startswith(f"{folder}/Birds/"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "stat", closed)
    assert missing.hint(folder / "Birds/001.jpg") == f" (no permission to look into {folder}/Birds)"
    monkeypatch.undo()

    def unlisted(path: Path, real=os.listdir) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", unlisted)
    assert missing.hint(folder / "a") == f" (no permission to look into {folder})"


def test_the_folder_to_run_in_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "params.yaml").touch()
    missing.require_project(folder / "params.yaml")
    monkeypatch.chdir(folder / "Birds")
    with pytest.raises(FileNotFoundError, match=f"run from the repository's root, {folder}$"):
        missing.require_project()
