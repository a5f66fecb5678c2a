"""metrics/benchmarks.md shows the published figures digit by digit, and never passes a part for the whole."""

from pathlib import Path

from ledger_entries import SETTINGS, entry, full_size, of_size

from lrec import paths
from lrec.model.backbones import BACKBONES
from lrec.report import benchmarks, ledger, model_size, naming, page, readme
from lrec.report.tables import Table, markdown


def made(root: Path, entries: dict, variant: str = "car_cropped") -> tuple[Table, Table]:
    recalls, runs = benchmarks.recall_tables(variant, entries, root / "data/reference")
    return recalls, runs


def row(table: Table, name: str) -> list[str]:
    (found,) = [list(line) for line in (table.header, *table.rows) if line[0] == name]
    return found


def test_three_sources_side_by_side(root: Path):
    used = SETTINGS | {"ensemble_size": 48, "weights": "resnet18.pth 0123456789abcdef"}
    recalls, runs = made(root, {"resnet18": entry(settings=used)})
    image = model_size.count_macs("resnet18", 48, 12, 256)
    assert row(recalls, "Backbone")[1:4] == ["reported", "clean reference", "ours"]
    assert row(recalls, "resnet18") == [
        "resnet18",
        "96.7 / 98.3 / 99.0 / 99.5",
        "94.33 / 96.96 / 98.32 / 99.07",
        "50.0 / 60.0 / 70.0 / 100.0",
        "25.0 / 30.0 / 35.0 / 50.0",
    ]
    assert row(runs, "resnet18") == [
        "resnet18",
        *("20.0", "30.0"),
        *(f"{image / 1e6:,.0f}", f"{3 * image * 8054 * 20 / 1e12:,.1f}"),
        "M 48, D 12, 256 px, 20 epochs, batch 10, weights resnet18.pth",
        "",
    ]
    assert row(recalls, "resnet50")[3:] == ["–", "–"]
    assert [line[0] for line in runs.rows] == ["resnet18"]


def test_models_at_hand_are_listed():
    models = {"mine": {"resnet18 (M=4)": Path("models/mine/resnet18")}}
    table = benchmarks.model_table(models)
    assert table.rows == [["mine", "resnet18 (M=4)", "models/mine/resnet18"]]
    assert "dvc get REPOSITORY FOLDER" in table.intro


def test_how_long_an_epoch_took(root: Path):
    run = {"seconds": 754 * 20, "device": "CPU, 2 threads, torch 2.15.0", "machine": "x86_64", "commit": "0123"}
    _, runs = made(root, {"resnet18": of_size(48, run=run)})
    assert row(runs, "resnet18")[-1] == "12 min 34 s (CPU, 2 threads)"
    _, early = made(root, {"resnet18": of_size(48, run=run | {"epochs": 10})})
    assert row(early, "resnet18")[-1] == "25 min 8 s (CPU, 2 threads)"


def test_missing_references_say_so(root: Path):
    recalls, runs = made(root, {}, "sop")
    assert recalls.intro.startswith("Recall@1 / 10 / 100 / 1000,")
    assert row(recalls, "resnet18")[1:4] == ["89.5 / 95.1 / 97.6 / 99.1", "–", "–"]
    assert runs.rows == []
    assert row(made(root, {}, "isc")[0], "resnet18")[2].startswith("83.88 / 95.62 / ")


def test_a_part_of_the_data_is_marked(root: Path):
    part = entry(partial=True, counts={"train": [4052, 98], "test": [4092, 98]})
    recalls, runs = made(root, {"resnet18 (M=4)": part})
    assert row(recalls, "resnet18 (M=4)")[3].endswith("†")
    assert row(runs, "resnet18 (M=4) †")
    assert "†" not in row(recalls, "resnet18")[3]
    (note,) = recalls.notes
    assert note.startswith("† on 4,052 of 8,054 train images and 4,092 of 8,131 test images; not comparable")
    other = of_size(8, partial=True, counts={"train": [4052, 98], "test": [9, 3]})
    both, _ = made(root, {"resnet18 (M=4)": part, "resnet18 (M=8)": other})
    assert [note.split(" on ")[0] for note in both.notes] == ["† resnet18 (M=4):", "† resnet18 (M=8):"]


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
    recalls, runs = made(root, known["car_cropped"])
    names = [line[0] for line in recalls.rows]
    assert names == [
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
    assert list(ledger.ordered(known)["car_cropped"])[1:4] == names[1:4]
    # The published figures belong to the original's ensemble alone.
    assert row(recalls, "resnet18")[1:4] == ["96.7 / 98.3 / 99.0 / 99.5", "94.33 / 96.96 / 98.32 / 99.07", "–"]
    assert row(recalls, "resnet18 (M=4, features)")[1:4] == ["", "", "50.0 / 60.0 / 70.0 / 100.0"]
    assert row(runs, "resnet18 (M=4, features)")[-2].endswith("weights imagenet, embedded features")


def test_a_chosen_epoch_is_said(root: Path):
    _, runs = made(root, {"resnet18 (M=4)": entry(settings=SETTINGS | {"kept_epoch": 2})})
    assert ", 20 epochs (epoch 2 kept), " in row(runs, "resnet18 (M=4)")[-2]


def test_another_shared_depth_is_said(root: Path):
    _, runs = made(root, {"resnet18 (M=4)": entry(settings=SETTINGS | {"share": "layer3"})})
    assert row(runs, "resnet18 (M=4)")[-2].endswith(", shared up to layer3")


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
        "compression": [
            {"code": "float32", "bytes": 96, "recall_at_1": 60.0},
            {"code": "signs", "bytes": 3, "recall_at_1": 30.0},
        ],
    }
    known = {
        "mine": {
            "a": {"kind": "logits", "analysis": analysis},
            "b": {"kind": "logits", "analysis": {}},
            "d": {"kind": "logits", "analysis": wide},
        },
        "sop": {"c": {"kind": "features", "analysis": wide}},
    }
    sizes = benchmarks.ensemble_table(known)
    assert row(sizes, "Variant") == ["Variant", "Backbone", "M=1", "M=2", "M=4", "branches agree", "images"]
    assert sizes.rows[0] == ["mine", "a", "40.0 ± 2.1", "50.0 ± 0.0", "", "25.0", "1,234"]
    assert row(sizes, "sop")[2:5] == ["", "", "60.0 ± 0.0"]
    mine, sop = benchmarks.compression_tables(known)
    assert mine.title == "Compressed embeddings of mine: logits"
    assert sop.title == "Compressed embeddings of sop: features"
    assert list(mine.header) == ["Embedding", "a", "d"]
    assert mine.rows == [["float32", "50.0 (2,304 B)", "60.0 (96 B)"], ["binary", "", "30.0 (3 B)"]]
    assert row(sop, "binary") == ["binary", "30.0 (3 B)"]
    assert benchmarks.ensemble_table({"mine": {"b": {"analysis": {}}}}).rows == []


def test_a_reduced_embedding_has_its_own_row_and_no_branches(root: Path):
    reduced = {"kind": "features", "embedding": {"reduce": "whitened", "dimensions": 512}}
    analysis = {"images": 9, "compression": [{"code": "float32", "bytes": 2048, "recall_at_1": 50.0}]}
    some = entry(**reduced, analysis=analysis)
    name = "resnet18 (M=4, features, whitened 512)"
    assert naming.name(some) == name
    assert naming.metric(some) == "resnet18 (features, whitened)"
    assert not naming.is_full_size(full_size(embedding={"reduce": "pca", "dimensions": 64}))
    assert not naming.is_full_size(full_size(embedding={"precision": "int8"}))
    recalls, runs = made(root, {name: some})
    assert row(recalls, name)[1:3] == ["", ""]
    assert row(runs, name)[-2].endswith(", embedded features, whitened 512")
    known = {"mine": {name: some}}
    assert benchmarks.ensemble_table(known).rows == []
    (table,) = benchmarks.compression_tables(known)
    assert table.rows == [["float32", "50.0 (2,048 B)"]]


def test_ones_own_data_has_no_reference_columns(root: Path):
    own = entry(variant="mine", official=None, untrained=None)
    known = {"mine": {"resnet18 (M=4)": own}}
    tables = benchmarks.tables(known, root / "data/reference")
    (table,) = [table for table in tables if table.title == "mine"]
    assert row(table, "Backbone")[1:] == ["ours"]
    assert row(table, "resnet18 (M=4)")[1:] == ["50.0 / 60.0 / 70.0 / 100.0"]


def test_columns_that_nobody_filled_are_not_shown(root: Path):
    for table in benchmarks.tables(ledger.read(root / paths.LEDGER), root / paths.REFERENCE):
        for place in range(len(table.header)):
            assert any(line[place] not in ("", "–") for line in table.rows), (table.title, table.header[place])
    assert "not run" not in markdown(benchmarks.tables({}, root / paths.REFERENCE))


def test_every_backbone_has_its_parameters():
    table = benchmarks.parameter_table()
    assert [line[0] for line in table.rows] == list(BACKBONES)
    assert all(float(cell.replace(",", "")) > 0 for line in table.rows for cell in line[1:])


def test_recalls_without_meaning_are_marked(root: Path):
    counts = {"train": [8, 2], "test": [9, 1]}
    entries = {"resnet18": of_size(4, counts=counts, official=None), "resnet50": of_size(4)}
    recalls, runs = made(root, entries, "mine")
    assert [line[0] for line in runs.rows] == ["resnet18 ‡", "resnet50"]
    assert recalls.notes == [
        "‡ means nothing: all images searched are of one class, so every result is right whatever the embeddings are."
    ]
    alone = of_size(4, lone_queries=9, queries=9, partial=True)
    recalls, runs = made(root, {"resnet18": alone})
    assert "resnet18 † ‡" in [line[0] for line in runs.rows]
    assert "‡ means nothing: no query has another image of its class to find" in recalls.notes[-1]
    assert page.run_table({"resnet18": alone}).notes[-1].startswith("‡ means nothing: no query has")
    assert "‡" in markdown(readme.tables({readme.BUILT_IN: entries}, root / "data/reference"))
