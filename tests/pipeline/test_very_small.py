"""None, one and two of everything: it works, or is refused before any work."""

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline as tiny
from PIL import Image

from lrec.io import command
from lrec.retrieve import Database


def pictures(raw: Path, sizes: dict[str, list[int]]) -> None:
    shutil.rmtree(raw, ignore_errors=True)
    generator = np.random.default_rng(0)
    for split, images in sizes.items():
        for number, count in enumerate(images):
            place = raw / split / f"{'train' if split == 'train' else 'test'} {number}"
            place.mkdir(parents=True)
            for image in range(count):
                pixels = generator.integers(0, 256, (36, 36, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{image}.png")


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(root / "data/reference", "data/reference")
    marks = "<!-- benchmarks: written by the stage report -->\n<!-- end of benchmarks -->\n"
    Path("README.md").write_text(marks, encoding="utf-8")
    tiny.write_settings(tmp_path, tiny.settings(root))
    return tmp_path


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train": [6], "test": [6, 6]}, "tiny: train: found 6 images of 1 class, expected at least 2 classes"),
        ({"train": [3, 3], "test": [1]}, "tiny: test: found 1 image of 1 class, expected at least 2 images"),
    ],
)
def test_refused_before_any_work(
    project: Path, capsys: pytest.CaptureFixture[str], sizes: dict[str, list[int]], message: str
):
    pictures(project / tiny.RAW, sizes)
    assert message in tiny.refused(tiny.STAGES["preprocess"], capsys)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "meta_class_size",
            4,
            "variants.tiny.meta_class_size: found 4, expected 2 to 3, the number of training classes",
        ),
        (
            "ensemble_size",
            1,
            "variants.tiny.ensemble_size 1 with meta_class_size 2 gives 2 different codes, expected at",
        ),
    ],
)
def test_sizes_that_do_not_fit_the_data(
    project: Path, root: Path, capsys: pytest.CaptureFixture[str], key: str, value: int, message: str
):
    pictures(project / tiny.RAW, {"train": [2, 2, 2], "test": [2, 2]})
    settings = tiny.settings(root)
    settings["variants"]["tiny"][key] = value
    tiny.write_settings(project, settings)
    assert message in tiny.refused(tiny.STAGES["preprocess"], capsys)


ONE_CLASS, LONE = "all images searched are of one class", "no query has another image of its class to find"


@pytest.mark.parametrize(
    ("sizes", "branches", "reason"),
    [
        ({"train": [1, 1], "test": [2, 1]}, 1, ""),
        ({"train": [1, 1], "test": [1, 1]}, 2, LONE),
        ({"train": [2, 1], "test": [2]}, 2, ONE_CLASS),
        ({"train": [1, 2], "query": [1], "gallery": [1]}, 2, ONE_CLASS),
        ({"train": [1, 2], "query": [1, 1], "gallery": [1, 1]}, 1, ""),
    ],
)
def test_from_end_to_end(
    project: Path,
    root: Path,
    capsys: pytest.CaptureFixture[str],
    sizes: dict[str, list[int]],
    branches: int,
    reason: str,
):
    pictures(project / tiny.RAW, sizes)
    settings = tiny.settings(root)
    settings["variants"]["tiny"]["ensemble_size"] = branches
    tiny.write_settings(project, settings)
    for name, stage in tiny.STAGES.items():
        assert command.guard(functools.partial(stage), debug=True) == 0, name
        err = capsys.readouterr().err
        assert (reason in err if reason else "WARNING" not in err) or name not in ("preprocess", "evaluate")
    shown = Path("metrics/benchmarks.md").read_text(encoding="utf-8")
    assert reason in shown if reason else "‡" not in shown
    assert "‡" not in Path("README.md").read_text(encoding="utf-8")  # which has no set of one's own
    assert ("These recalls mean nothing" in Path("report/index.html").read_text(encoding="utf-8")) == bool(reason)
    assert len(Database.load("/".join(tiny.COMBINATION))) == sum(sizes.get("gallery") or sizes["test"])
