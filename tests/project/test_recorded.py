"""Figures with an interval on the pages are those that metrics/ records, and so are the others of their rows."""

import re
from pathlib import Path

import pandas as pd
import pytest

from lrec import paths
from lrec.report import ledger

FIGURE = re.compile(r"(\d+\.\d)\*{0,2} \((\d+\.\d-\d+\.\d)\)")
BESIDE = {"whitened to 512": "whitened_recall_at_1", "MAP@R": "map_at_r"}  # columns of the same row


@pytest.fixture(scope="module")
def recorded(root: Path) -> pd.DataFrame:
    study = pd.read_csv(root / "metrics/study.csv").dropna(subset="recall_at_1")
    runs = [
        {
            "recall_at_1": 100 * entry["recall"]["1"],
            "interval": "-".join(f"{100 * end:.1f}" for end in entry["recall_at_1_interval"]),
            "map_at_r": 100 * entry["map_at_r"],
            "whitened_recall_at_1": compressed.get("pca 512 whitened"),
        }
        for entries in ledger.read(root / paths.LEDGER).values()
        for entry in entries.values()
        for compressed in [{code["code"]: code["recall_at_1"] for code in entry["analysis"].get("compression", [])}]
    ]
    return pd.concat([study[list(runs[0])], pd.DataFrame(runs)])


def agree(values: pd.Series, shown: str) -> pd.Series:
    return (values - float(shown)).abs() < 0.056  # the study has two digits, a page one


def rows(text: str) -> list[tuple[list[str], list[str]]]:
    """Return the cells of each row of the tables, with those of its table's first row."""
    found, head = [], []
    for line in text.splitlines():
        cells = [cell.strip("* ") for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        found += [(head, cells)] if head and cells else []
        head = (head or cells) if cells else []
    return found


@pytest.mark.parametrize("page", ["docs/ensemble.md", "docs/shipping.md", "docs/study.md"])
def test_figures_are_recorded(root: Path, recorded: pd.DataFrame, page: str):
    text = (root / page).read_text(encoding="utf-8")
    for recall, interval in FIGURE.findall(text):
        assert ((recorded["interval"] == interval) & agree(recorded["recall_at_1"], recall)).any(), (recall, interval)
    for head, cells in rows(text):
        if "R@1" not in head or not (found := FIGURE.match(cells[head.index("R@1")])):
            continue
        same = recorded[(recorded["interval"] == found[2]) & agree(recorded["recall_at_1"], found[1])]
        for title, key in BESIDE.items():
            if title in head and (shown := cells[head.index(title)]):
                assert agree(same[key], shown).any(), cells


def test_another_figure_is_noticed(root: Path, recorded: pd.DataFrame):
    text = (root / "docs/ensemble.md").read_text(encoding="utf-8")
    head, cells = next(row for row in rows(text) if row[1][0].endswith(": recommended"))
    assert [head.index(title) for title in ("R@1", *BESIDE)] == [5, 6, 7]
    recall, interval = FIGURE.match(cells[5]).groups()
    same = recorded[(recorded["interval"] == interval) & agree(recorded["recall_at_1"], recall)]
    assert agree(same["map_at_r"], cells[7]).any()
    assert not agree(same["map_at_r"], f"{float(cells[7]) + 0.2:.1f}").any()
