"""The check command."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_sets import touch, write

from lrec.datasets import check, reader

REPOSITORY = Path(__file__).parents[2]


def noise(file: Path, seed: int, side: int = 40) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format="PNG")


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A raw root with a set of four different images of 40 pixels."""
    for seed, path in enumerate(["train/a/1.png", "train/a/2.png", "test/b/1.png", "test/b/2.png"]):
        noise(tmp_path / "mine" / path, seed)
    return tmp_path


def run(raw_root: Path, layout: str = "folder", folder: str = "mine", allow_partial: bool = False) -> None:
    check.run("mine", layout, raw_root, folder, 32, allow_partial, workers=2)


def test_sound_set(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(sound.rglob("*"))
    run(sound)
    output = capsys.readouterr().out
    assert output.splitlines() == [
        "mine: one folder per class under train, test",
        "  train: 2 images of 1 classes",
        "  test: 2 images of 1 classes",
        f"folder: {sound / 'mine'}",
        "official counts: none for this layout",
        "missing images: 0",
        "unreadable images, or boxes outside them: 0",
        "note: groups of images with the same bytes within a split: 0",
        "note: groups of images with the same bytes across splits: 0",
        "note: images smaller than 32 pixels: 0",
        "mine: no problems",
    ]
    assert sorted(sound.rglob("*")) == before


def test_every_unreadable_image_is_listed(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("8.png", "9.png"):
        (sound / "mine/test/b" / name).write_bytes((sound / "mine/test/b/1.png").read_bytes()[:900])
    touch(sound, ["mine/train/a/7.jpg"])
    with pytest.raises(ValueError, match=r"mine: 3 problem\(s\), listed above"):
        run(sound)
    output = capsys.readouterr().out
    assert "boxes outside them: 3\n  train/a/7.jpg: not readable" in output
    assert "  test/b/8.png: not readable" in output
    assert "  test/b/9.png: not readable" in output


def test_every_missing_image_is_listed(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["train/a/1.png,a,train", "gone/1.png,a,train", "test/b/1.png,b,test", "gone/2.png,b,test"]
    write(sound / "mine/images.csv", "\n".join(["path,class,split", *rows]))
    with pytest.raises(ValueError, match=r"mine: 2 problem\(s\)"):
        run(sound)
    assert "missing images: 2\n  gone/1.png\n  gone/2.png\nunreadable images, or boxes outside them: 0" in (
        capsys.readouterr().out
    )


def test_box_outside_its_image_is_a_problem(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["train/a/1.png,a,train,0,0,42,42", "test/b/1.png,b,test,0,0,43,40"]
    write(sound / "mine/images.csv", "\n".join(["path,class,split,x1,y1,x2,y2", *rows]))
    with pytest.raises(ValueError, match=r"mine: 1 problem\(s\)"):
        run(sound)
    assert "test/b/1.png: found a box from (0, 0) to (43, 40) in an image of 40x40 pixels" in capsys.readouterr().out


def test_duplicates_and_small_images_are_notes(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise(sound / "mine/train/a/3.png", 0)
    noise(sound / "mine/train/a/4.png", 1)
    noise(sound / "mine/test/b/3.png", 1)
    noise(sound / "mine/test/b/4.png", 9, side=31)
    run(sound)
    output = capsys.readouterr().out
    assert "within a split: 1\n  train/a/1.png = train/a/3.png\n" in output
    assert "across splits: 1\n  train/a/2.png = train/a/4.png = test/b/3.png\n" in output
    assert "smaller than 32 pixels: 1\n  test/b/4.png\n" in output
    assert output.endswith("mine: no problems\n")


def products(root: Path) -> None:
    header = "image_id class_id super_class_id path"
    write(root / "sop/Ebay_train.txt", f"{header}\n1 1 1 a.png\n")
    write(root / "sop/Ebay_test.txt", f"{header}\n2 2 1 b.png\n")
    noise(root / "sop/a.png", 0)
    noise(root / "sop/b.png", 1)


def test_other_counts_are_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    products(tmp_path)
    with pytest.raises(ValueError, match=r"mine: 1 problem\(s\)"):
        run(tmp_path, "sop", "sop")
    expected = "official counts: train: found 1 images of 1 classes, expected 59,551 of 11,318; test: found 1"
    assert expected in capsys.readouterr().out


def test_other_counts_are_a_note_when_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    products(tmp_path)
    run(tmp_path, "sop", "sop", allow_partial=True)
    assert "official counts: note (allow_partial is set), train: found 1 images" in capsys.readouterr().out


def test_archives_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    products(tmp_path)
    (tmp_path / "Stanford_Online_Products.zip").write_bytes(b"archive")
    (tmp_path / "sop/car_ims.tgz").write_bytes(b"other")
    monkeypatch.setitem(check.MD5, "Stanford_Online_Products.zip", hashlib.md5(b"archive").hexdigest())
    run(tmp_path, "sop", "sop", allow_partial=True)
    lines = capsys.readouterr().out.splitlines()
    assert f"md5 of {tmp_path / 'Stanford_Online_Products.zip'}: as known" in lines
    found, known = hashlib.md5(b"other").hexdigest(), check.MD5["car_ims.tgz"]
    assert f"md5 of {tmp_path / 'sop/car_ims.tgz'}: note: found {found}, the original has {known}" in lines


def test_all_images_in_order_whatever_the_threads(sound: Path) -> None:
    dataset = reader.read("folder", sound, "mine", 32)
    found = [check.examine_all(dataset, workers) for workers in (1, 4)]
    assert found[0] == found[1]
    assert [finding.sample for finding in found[0]] == dataset.samples


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    call = [sys.executable, "-m", "lrec.datasets", *arguments]
    return subprocess.run(call, cwd=folder, env=settings, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the repository's params.yaml."""
    (tmp_path / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    return tmp_path


def test_command_on_the_generated_set(project: Path) -> None:
    result = command(project, "check", "glyphs")
    assert (result.returncode, result.stderr) == (0, "")
    assert "nothing on disk to check" in result.stdout
    assert [path.name for path in project.iterdir()] == ["params.yaml"]


def test_command_fails_with_problems(project: Path) -> None:
    products(project / "raw")
    result = command(project, "check", "sop", LREC_DATA="raw")
    assert result.returncode == 1
    assert "expected 59,551 of 11,318" in result.stdout
    assert result.stderr == "error: sop: 1 problem(s), listed above; docs/datasets.md\n"


@pytest.mark.parametrize(
    ("variant", "message"),
    [("nope", "unknown variant 'nope'"), ("cub_cropped", "data/raw: no folder cub (nor CUB_200_2011")],
)
def test_command_fails_in_one_line(project: Path, variant: str, message: str) -> None:
    result = command(project, "check", variant, LREC_DATA="")
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_documentation_has_every_md5() -> None:
    text = (REPOSITORY / "docs/datasets.md").read_text(encoding="utf-8")
    assert [name for name, md5 in check.MD5.items() if name not in text or md5 not in text] == []


def test_a_set_too_small_to_train_on_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is wrong with its images, but the stage that comes next refuses it."""
    for seed, name in enumerate(("train/a/1.png", "test/b/1.png", "test/b/2.png")):
        noise(tmp_path / "set" / name, seed)
    check.run("mine", "folder", tmp_path, "set", 32)
    assert "WARNING: mine: train: found 1 image of 1 class, expected at least 2 classes" in capsys.readouterr().err
