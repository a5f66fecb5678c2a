"""Settings that were given and do nothing are said by the stage that they would concern, in one line each."""

import functools
from pathlib import Path

import pytest
import tiny_pipeline as tiny
import yaml

from lrec.io import command


@pytest.mark.parametrize(
    ("stage", "given", "line"),
    [
        (
            "preprocess",
            {"data_root": "elsewhere"},
            "data_root: elsewhere has no effect while LREC_DATA is set to {raw}",
        ),
        (
            "meta_classes",
            {"meta_classes.seed": 3, "meta_classes.load_ids": "data/meta_classes/tiny.csv"},
            "meta_classes.seed: 3 has no effect while meta_classes.load_ids is data/meta_classes/tiny.csv",
        ),
        (
            "train",
            {"train.learning_rate": 0.5},
            "train.learning_rate: 0.5 has no effect on tiny, whose own block sets 0.001; "
            "set variants.tiny.train.learning_rate",
        ),
        ("embed", {"embed.dimensions": 9}, "embed.dimensions: 9 has no effect while embed.reduce is none"),
        (
            "evaluate",
            {"evaluate.analysis_images": 0, "evaluate.subsets": 2},
            "evaluate.subsets: 2 has no effect while evaluate.analysis_images is 0",
        ),
        (
            "report",
            {"variants.other.epochs": 9},
            "variants.other: epochs 9: no effect, since datasets is [tiny]; "
            "add other to datasets, or set it in variants.tiny",
        ),
    ],
)
def test_it_is_said(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    given: dict,
    line: str,
):
    monkeypatch.setenv("LREC_DATA", str(project / "raw"))
    settings = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    settings["variants"]["other"] = dict(settings["variants"]["tiny"])
    places = {"preprocess": "preprocess@tiny", "meta_classes": "meta_classes@tiny", "report": "report"}
    lock = {"stages": {places.get(stage, f"{stage}@tiny-mobilenet_v2"): {"params": {"params.yaml": settings}}}}
    tiny.replace(project / "dvc.lock", yaml.safe_dump(lock).encode())
    tiny.write_settings(project, settings)
    assert command.guard(tiny.STAGES[stage]) == 0
    assert "no effect" not in capsys.readouterr().err
    for key, value in given.items():
        *sections, last = key.split(".")
        functools.reduce(dict.__getitem__, sections, settings)[last] = value
    tiny.write_settings(project, settings)
    assert command.guard(tiny.STAGES[stage]) == 0
    said = [said for said in capsys.readouterr().err.splitlines() if "no effect" in said]
    assert said == [f"WARNING: {line.format(raw=project / 'raw')}"]
