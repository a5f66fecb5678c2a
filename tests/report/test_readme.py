"""The README's tables: the original's shape, all reported values, ours only where they are comparable."""

import re
from pathlib import Path

import pandas as pd
import pytest
from ledger_entries import SETTINGS, entry, full_size, of_size

from lrec import paths, reference
from lrec.report import benchmarks, ledger, naming, readme
from lrec.report.tables import Table, markdown
from stages import report


def made(root: Path, known: ledger.Ledger) -> dict[str, Table]:
    """Return the tables by title; own runs below a benchmark as "" and its title."""
    found: dict[str, Table] = {}
    title = ""
    for table in readme.tables(known, root / paths.REFERENCE):
        title = table.title or title
        found[title if table.title else f"own {title}"] = table
    return found


def test_seven_tables_in_the_originals_shape(root: Path):
    found = made(root, {})
    assert list(found) == ["Model parameters", *(benchmarks.heading(variant) for variant in reference.VARIANTS)]
    table = found["Stanford Online Products (sop)"]
    assert list(table.header) == ["Backbone", "R@1", "R@10", "R@100", "R@1000"]
    assert table.rows[0] == ["resnet18", "89.5 / – / –", "95.1 / – / –", "97.6 / – / –", "99.1 / – / –"]
    assert found["CARS196, uncropped (car_uncropped)"].rows[0][1] == "93.4 / 89.9 / –"


def test_all_reported_values_are_there(root: Path):
    """Each in its cell, and the clean reference's beside it, to one decimal."""
    found = made(root, ledger.read(root / paths.LEDGER))
    tables = {variant: found[benchmarks.heading(variant)] for variant in reference.VARIANTS}
    of = {pair: variant for variant, pair in reference.VARIANTS.items()}
    reported = pd.read_csv(root / paths.REFERENCE / "reported_recall.csv")
    clean = pd.read_csv(root / paths.REFERENCE / "clean_recall.csv", dtype={"recall_percent": str})
    places = ["dataset", "crop", "backbone", "k"]
    known = clean.set_index(places)["recall_percent"].to_dict()
    assert len(reported) == 104
    for line in reported.itertuples():
        table = tables[of[line.dataset, line.crop]]
        (row,) = [row for row in table.rows if row[0] == line.backbone]
        first, second, _ = row[list(table.header).index(f"R@{line.k}")].split(" / ")
        assert float(first) == line.recall_percent
        expected = known.get((line.dataset, line.crop, line.backbone, line.k))
        assert (second == "–") == (expected is None)
        if expected:
            assert abs(float(second) - float(expected)) <= 0.0501
    assert sum(cell.count(" / ") == 2 for table in tables.values() for row in table.rows for cell in row) == 104


def test_ours_stands_in_its_cell_only_when_it_is_comparable(root: Path):
    title = "CARS196, cropped (car_cropped)"
    comparable = made(root, {"car_cropped": {"resnet18": full_size()}})
    assert comparable[title].rows[0] == [
        "resnet18",
        *("96.7 / 94.3 / 50.0", "98.3 / 97.0 / 60.0", "99.0 / 98.3 / 70.0", "99.5 / 99.1 / 100.0"),
    ]
    assert f"own {title}" not in comparable
    for other in (full_size(partial=True), full_size(kind="features"), of_size(4)):
        found = made(root, {"car_cropped": {naming.name(other): other}})
        assert found[title].rows == made(root, {})[title].rows
        assert len(found[f"own {title}"].rows) == 1


def test_another_backbone_has_a_row_once_it_was_run_in_full(root: Path):
    known = {"car_cropped": {"convnext_tiny": full_size(backbone="convnext_tiny")}}
    table = made(root, known)["CARS196, cropped (car_cropped)"]
    assert [row[0] for row in table.rows] == ["resnet18", "resnet34", "resnet50", "resnext50_32x4d", "convnext_tiny"]
    assert table.rows[-1][1] == "– / – / 50.0"


def test_at_most_six_own_runs_the_best_first(root: Path):
    known: ledger.Ledger = {}
    for size in range(1, 9):
        part = {"partial": True} if size == 7 else {}
        ledger.upsert(known, of_size(size, recall={"1": size / 10, "2": 0.9}, **part), None)
    table = made(root, known)["own CARS196, cropped (car_cropped)"]
    assert list(table.header) == ["Backbone", "R@1", "R@2"]
    assert table.rows[:2] == [["resnet18 (M=8)", "80.0", "90.0"], ["resnet18 (M=7, partial) †", "70.0", "90.0"]]
    assert len(table.rows) == 6
    assert "the best 6 of 8 (all: metrics/benchmarks.md)" in table.intro
    (note,) = table.notes
    assert note.startswith("† on ")
    assert note.endswith("not comparable with the full benchmark.")


def test_the_built_in_set_has_a_line_and_sets_of_ones_own_none(root: Path):
    own = entry(variant="mine", official=None, settings=SETTINGS, recall={"1": 0.25, "10": 0.5})
    larger = own | {"settings": SETTINGS | {"ensemble_size": 8}, "recall": {"1": 0.3}}
    known: ledger.Ledger = {}
    for result in (own, larger, own | {"variant": "glyphs"}):
        ledger.upsert(known, result, None)
    found = made(root, known)
    assert list(found) == list(made(root, {}))
    assert list(found.values())[-1].notes == [
        "The built-in set (glyphs): R@1 in percent, resnet18 (M=4) 25.0 (all: metrics/benchmarks.md).",
    ]


def test_tables_of_the_readme_are_short(root: Path):
    """Cells hold figures and names; settings, times and folders are in metrics/benchmarks.md."""
    for table in readme.tables(ledger.read(root / paths.LEDGER), root / paths.REFERENCE)[1:]:
        assert len(table.rows) <= 6
        for row in table.rows:
            assert all(re.fullmatch(r"(\d+\.\d|–)( / (\d+\.\d|–)){0,2}", cell) for cell in row[1:]), row


def test_the_readme_keeps_its_prose():
    text = f"# A\n\n{readme.BEGIN}\nold\n{readme.END}\n\nprose\n"
    once = readme.insert(text, "new\n")
    assert once == f"# A\n\n{readme.BEGIN}\n\nnew\n\n{readme.END}\n\nprose\n"
    assert readme.insert(once, "new\n") == once


@pytest.mark.parametrize("text", ["", readme.BEGIN, f"{readme.END}{readme.BEGIN}", f"{readme.BEGIN * 2}{readme.END}"])
def test_a_readme_without_markers_is_refused(text: str):
    with pytest.raises(ValueError, match="once each, in this order"):
        readme.insert(text, "new")


def test_the_committed_tables_are_those_of_the_ledger(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(root)
    report.compare(paths.README.read_text(encoding="utf-8"), ledger.read(paths.LEDGER))


def test_a_check_notices_what_is_not_of_the_ledger(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    paths.REFERENCE.parent.mkdir(parents=True)
    paths.REFERENCE.symlink_to(root / paths.REFERENCE)
    known = ledger.read(root / paths.LEDGER)
    text = (root / paths.README).read_text(encoding="utf-8")
    paths.TABLES.parent.mkdir()
    paths.TABLES.write_text(markdown(benchmarks.tables(known, paths.REFERENCE)), encoding="utf-8")
    report.compare(text, known)
    with pytest.raises(ValueError, match=r"^README\.md: its tables differ from metrics/benchmarks\.json"):
        report.compare(text.replace("93.4 / 89.9", "93.4 / 89.8"), known)
    paths.TABLES.write_text(paths.TABLES.read_text(encoding="utf-8").replace("89.85", "89.86"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^metrics/benchmarks\.md: its tables differ from"):
        report.compare(text, known)
    known["glyphs"]["resnet18 (M=4)"]["recall"]["1"] = 0.5
    with pytest.raises(ValueError, match=r"^README\.md: "):
        report.compare(text, known)
