"""The ledger: what stays, what is replaced, what is refused."""

import json
from pathlib import Path

import pytest
from ledger_entries import SETTINGS, entry, full_size, of_size

from lrec.report import benchmarks, ledger
from stages import report


def test_the_ledger_keeps_what_is_no_longer_listed(tmp_path: Path):
    path = tmp_path / "ledger.json"
    known = ledger.read(path)
    assert known == {}
    ledger.upsert(known, entry(), {"seconds": 1})
    ledger.upsert(known, entry(variant="sop"), None)
    ledger.write(path, known)
    known = ledger.read(path)
    ledger.upsert(known, entry(backbone="resnet34"), None)
    assert sorted(known) == ["car_cropped", "sop"]
    ledger.upsert(known, of_size(16), None)
    assert list(ledger.ordered(known)["car_cropped"]) == ["resnet18 (M=4)", "resnet18 (M=16)", "resnet34 (M=4)"]


def test_other_starting_weights_do_not_replace_a_result():
    known: ledger.Ledger = {}
    starts = ["imagenet", "average.safetensors fa433323667f9e4d", "average.safetensors 84c0e27d89484cc3"]
    for weights in starts:
        ledger.upsert(known, entry(settings=SETTINGS | {"weights": weights}), None)
    assert list(known["car_cropped"]) == [
        "resnet18 (M=4)",
        "resnet18 (M=4, weights average fa43)",
        "resnet18 (M=4, weights average 84c0)",
    ]


def test_a_ledger_of_shorter_names_is_named_anew(tmp_path: Path):
    path = tmp_path / "ledger.json"
    old = {"car_cropped": {"resnet18": entry(), "resnet18 (features)": entry(kind="features")}}
    path.write_text(json.dumps(old))
    known = ledger.read(path)
    assert known == {"car_cropped": {"resnet18 (M=4)": entry(), "resnet18 (M=4, features)": entry(kind="features")}}
    ledger.write(path, known)
    assert ledger.read(path) == known


NOISE = {"1": 0.51, "2": 0.6, "4": 0.7, "8": 1.0}


@pytest.mark.parametrize(
    ("again", "kept"),
    [
        ({}, True),
        ({"recall": NOISE}, True),
        ({"recall": NOISE, "recall_at_1_interval": [0.54, 0.6]}, True),
        ({"recall": NOISE, "recall_at_1_interval": [0.56, 0.6]}, False),
        ({"recall": NOISE, "recall_at_1_interval": [0.4, 0.44]}, False),
        ({"recall": {"1": 0.5, "3": 0.6}}, False),
        ({"settings": SETTINGS | {"code": "other code"}}, False),
        ({"settings": SETTINGS | {"meta_classes": "other groups"}}, False),
        ({"embedding": {"kind": "logits", "dtype": "float16"}}, False),
        ({"evaluation": {"subsets": 6}}, False),
        ({"counts": {"train": [8054, 98], "test": [8130, 98]}}, False),
    ],
)
def test_a_reproduction_keeps_the_published_entry(again: dict, kept: bool):
    known: ledger.Ledger = {}
    assert ledger.upsert(known, entry(), {"seconds": 1})
    assert ledger.upsert(known, entry(**again), {"seconds": 2}) != kept
    expected = entry() | {"run": {"seconds": 1}} if kept else entry(**again) | {"run": {"seconds": 2}}
    assert known["car_cropped"]["resnet18 (M=4)"] == expected


@pytest.mark.parametrize("text", ["[]", '{"sop": []}', '{"sop": {"resnet18": {}}}', '{"sop": {"resnet18": 1}}'])
def test_a_damaged_ledger_is_not_overwritten(tmp_path: Path, text: str):
    path = tmp_path / "ledger.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="restore it with `git checkout"):
        ledger.read(path)


def test_a_metric_is_shown_once_a_result_gives_it_a_title(root: Path):
    shown = {"map_at_r": "MAP@R", "mean_reciprocal_rank": "MRR"}
    measured, older = full_size(mean_reciprocal_rank=0.987, titles=shown), of_size(4)
    assert report.flat(measured)["mean_reciprocal_rank"] == 98.7
    assert "mean_reciprocal_rank" not in report.flat(older)
    known = {"resnet18": measured, "resnet18 (M=4)": older}
    _, runs = benchmarks.recall_tables("car_cropped", known, root / "data/reference")
    place = list(runs.header).index("MRR")
    assert [row[place] for row in runs.rows] == ["98.7", "–"]
    assert [row[list(runs.header).index("MAP@R")] for row in runs.rows] == ["20.0", "20.0"]


@pytest.mark.parametrize("value", [None, 1.5, "0.5"])
def test_a_metric_with_a_title_is_a_share(tmp_path: Path, value: object):
    path = tmp_path / "ledger.json"
    entry = full_size(speed=value, titles={"speed": "Speed"})
    path.write_text(json.dumps({"car_cropped": {"resnet18": entry}}))
    with pytest.raises(ValueError, match="a fraction from 0 to 1 as speed, which `titles` names"):
        ledger.read(path)
