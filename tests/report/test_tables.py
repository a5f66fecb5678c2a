"""The rendered tables show the published figures digit by digit, and never pass a part for the whole."""

import json
from pathlib import Path

import pytest

from lrec.report import ledger, tables

SETTINGS = {
    "ensemble_size": 4,
    "meta_class_size": 12,
    "share": "layer1",
    "image_size": 96,
    "epochs": 3,
    "batch_size": 32,
    "weights": "w.pth 0123456789abcdef",
}


def entry(**changes) -> dict:
    recall = {"1": 0.50049, "2": 0.6, "4": 0.7, "8": 1.0}
    return {
        "variant": "car_cropped",
        "backbone": "resnet18",
        "kind": "logits",
        "embedding": {"kind": "logits", "dtype": "float32"},
        "evaluation": {"subsets": 5},
        "analysis": {},
        "recall": recall,
        "recall_at_1_interval": [0.45, 0.55],
        "map_at_r": 0.2,
        "r_precision": 0.3,
        "lone_queries": 0,
        "queries": 8131,
        "gallery": 8130,
        "untrained": {"recall": {key: value / 2 for key, value in recall.items()}},
        "counts": {"train": [8054, 98], "test": [8131, 98]},
        "official": {"train": [8054, 98], "test": [8131, 98]},
        "partial": False,
        "settings": SETTINGS,
    } | changes


def table(root: Path, entries: dict, variant: str = "car_cropped", ks=(1, 2, 4, 8)) -> str:
    return tables.recall_table(variant, entries, list(ks), root / "data/reference", {})


def row(text: str, backbone: str) -> list[str]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line]
    (found,) = [line for line in cells if line[0] == backbone]
    return found


def of_size(size: int, **changes) -> dict:
    return entry(**changes | {"settings": SETTINGS | {"ensemble_size": size}})


def test_three_sources_side_by_side(root: Path):
    text = table(root, {"resnet18": of_size(48)})
    assert row(text, "Backbone")[1:4] == ["reported", "clean reference", "ours"]
    assert row(text, "resnet18") == [
        "resnet18",
        "96.7 / 98.3 / 99.0 / 99.5",
        "94.33 / 96.96 / 98.32 / 99.07",
        "50.0 / 60.0 / 70.0 / 100.0",
        "25.0 / 30.0 / 35.0 / 50.0",
        "M 48, D 12, 96 px, 3 epochs, batch 32, weights w.pth",
        "",
    ]
    assert row(text, "resnet50")[3:] == ["not run", "not run", "", ""]


def test_a_model_at_hand_is_linked(root: Path):
    models = {"resnet18 (M=4)": Path("models/mine/resnet18")}
    text = tables.recall_table("mine", {"resnet18 (M=4)": entry()}, [1], root / "data/reference", models)
    assert text.splitlines()[-1] == "Model resnet18 (M=4): `dvc get <repository> models/mine/resnet18`"


def test_how_long_an_epoch_took(root: Path):
    run = {"seconds": 754 * 3, "device": "CPU, 2 threads, torch 2.15.0", "machine": "x86_64", "commit": "0123"}
    assert row(table(root, {"resnet18": of_size(48, run=run)}), "resnet18")[-1] == "12 min 34 s (CPU, 2 threads)"
    early = of_size(48, run=run | {"epochs": 2})
    assert row(table(root, {"resnet18": early}), "resnet18")[-1] == "18 min 51 s (CPU, 2 threads)"


def test_missing_references_say_so(root: Path):
    text = table(root, {}, "sop", (1, 10, 100, 1000))
    assert row(text, "resnet18")[1:4] == ["89.5 / 95.1 / 97.6 / 99.1", "not run", "not run"]
    assert row(table(root, {}, "isc", (1, 10)), "resnet18")[2] == "83.88 / 95.62"


def test_a_part_of_the_data_is_marked(root: Path):
    text = table(root, {"resnet18 (M=4)": entry(partial=True, counts={"train": [4052, 98], "test": [4092, 98]})})
    assert row(text, "resnet18 (M=4)")[3].endswith("†")
    assert "†" not in row(text, "resnet18")[3]
    assert "on 4,052 of 8,054 train images and 4,092 of 8,131 test images; not comparable" in text


def test_sizes_and_kinds_stand_below_each_other(root: Path):
    known: ledger.Ledger = {}
    for backbone, size, kind in [
        ("resnet34", 4, "logits"),
        ("resnet18", 16, "logits"),
        ("resnet18", 48, "features"),
        ("mobilenet_v2", 8, "logits"),
        ("resnet18", 4, "features"),
        ("resnet18", 4, "logits"),
        ("resnet18", 16, "features"),
    ]:
        ledger.upsert(known, of_size(size, backbone=backbone, kind=kind), None)
    text = table(root, known["car_cropped"])
    lines = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert lines[1:] == [
        "resnet18",
        "resnet18 (M=4)",
        "resnet18 (M=16)",
        "resnet18 (M=4, features)",
        "resnet18 (M=16, features)",
        "resnet18 (features)",
        "resnet34",
        "resnet34 (M=4)",
        "resnet50",
        "resnext50_32x4d",
        "mobilenet_v2 (M=8)",
    ]
    assert list(ledger.ordered(known)["car_cropped"])[1:4] == lines[2:5]
    # The published figures belong to the paper's ensemble alone.
    assert row(text, "resnet18")[1:4] == ["96.7 / 98.3 / 99.0 / 99.5", "94.33 / 96.96 / 98.32 / 99.07", "not run"]
    features = row(text, "resnet18 (M=4, features)")
    assert features[1:4] == ["", "", "50.0 / 60.0 / 70.0 / 100.0"]
    assert features[-2].endswith("weights w.pth, embedded features")


def test_a_chosen_epoch_is_said(root: Path):
    chosen = entry(settings=SETTINGS | {"kept_epoch": 2})
    assert ", 3 epochs (epoch 2 kept), " in row(table(root, {"resnet18 (M=4)": chosen}), "resnet18 (M=4)")[-2]


def test_another_share_is_said(root: Path):
    other = entry(settings=SETTINGS | {"share": "layer3"})
    assert row(table(root, {"resnet18 (M=4)": other}), "resnet18 (M=4)")[-2].endswith(", shared up to layer3")


def test_analyses_are_shown_where_they_were_made():
    analysis = {
        "images": 1234,
        "agreement": 0.25,
        "ensemble_size": [
            {"branches": 1, "recall_at_1": 40.04, "recall_at_1_spread": 2.06},
            {"branches": 2, "recall_at_1": 50.0, "recall_at_1_spread": 0.0},
        ],
        "compression": [{"code": "float32", "bytes": 2304, "recall_at_1": 50.0}],
    }
    wide = analysis | {
        "ensemble_size": [{"branches": 4, "recall_at_1": 60.0, "recall_at_1_spread": 0.0}],
        "compression": [{"code": "signs", "bytes": 3, "recall_at_1": 30.0}],
    }
    known = {"mine": {"a": {"analysis": analysis}, "b": {"analysis": {}}}, "sop": {"c": {"analysis": wide}}}
    sizes, costs = tables.ensemble_table(known), tables.compression_table(known)
    assert row(sizes, "Variant") == ["Variant", "Backbone", "M=1", "M=2", "M=4", "branches agree", "images"]
    assert row(sizes, "mine") == ["mine", "a", "40.0 ± 2.1", "50.0 ± 0.0", "", "25.0", "1,234"]
    assert row(sizes, "sop")[2:5] == ["", "", "60.0 ± 0.0"]
    assert row(costs, "mine") == ["mine", "a", "50.0 (2,304 B)", ""]
    assert row(costs, "sop") == ["sop", "c", "", "30.0 (3 B)"]
    assert tables.ensemble_table({"mine": {"b": {"analysis": {}}}}) == ""


def test_ones_own_data_has_no_reference_columns(root: Path):
    own = entry(variant="mine", official=None, untrained=None)
    text = table(root, {"resnet18 (M=4)": own}, "mine")
    assert row(text, "Backbone")[1] == "ours"
    assert row(text, "resnet18 (M=4)")[1:3] == ["50.0 / 60.0 / 70.0 / 100.0", "not run"]


def test_the_readme_keeps_its_prose():
    readme = f"# A\n\n{tables.BEGIN}\nold\n{tables.END}\n\nprose\n"
    once = tables.insert(readme, "new\n")
    assert once == f"# A\n\n{tables.BEGIN}\n\nnew\n\n{tables.END}\n\nprose\n"
    assert tables.insert(once, "new\n") == once


@pytest.mark.parametrize("readme", ["", tables.BEGIN, f"{tables.END}{tables.BEGIN}", f"{tables.BEGIN * 2}{tables.END}"])
def test_a_readme_without_markers_is_refused(readme: str):
    with pytest.raises(ValueError, match="once each, in this order"):
        tables.insert(readme, "new")


def test_the_readme_shows_the_committed_tables(root: Path):
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert tables.insert(readme, (root / "metrics/benchmarks.md").read_text(encoding="utf-8")) == readme


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
        ({"settings": SETTINGS | {"epochs": 4}}, False),
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
