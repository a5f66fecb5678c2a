"""The charts of the page: those of one run, and those that compare all results of a variant."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from lrec.report import chart, model_size
from lrec.report.ledger import COMPRESSED, Ledger

# Charts of the analyses: key, x axis, title.
ENSEMBLE_SIZE = "ensemble_size", "branches", "Recall@1 by ensemble size, percent"
COMPRESSION = "compression", "bytes", "Recall@1 by bytes of an embedding, percent"
# Charts over the cost of embedding an image, and over the cost of training: unit, x axis, title.
COMPUTE = (
    (1e6, "10⁶ multiply-accumulates per image", "Recall@1 by embedding compute, percent"),
    (1e12, "10¹² multiply-accumulates", "Recall@1 by training compute, percent"),
)
# Charts of the history of a training run: column, title.
TRAINING = (
    ("loss", "Training loss"),
    ("accuracy", "Training accuracy"),
    ("validation_recall_at_1", "Recall@1 of held-out training classes, percent"),
)


@dataclass(frozen=True)
class Comparison:
    """A comparison of the results of one variant: its name, the legend of all charts, and the charts."""

    variant: str
    legend: Markup
    charts: list[Markup]


def of_one(result: dict[str, Any], history: pd.DataFrame) -> list[Markup]:
    """Draw a run's training history, its recall before and after training, and its analyses."""
    drawn = [
        chart.lines([line], "epoch", title)
        for name, title in TRAINING
        if (line := _training(name, history, name)) is not None
    ]
    networks = [("trained", result), ("before training", result["untrained"])]
    recalls = [_recall(name, figures, number) for number, (name, figures) in enumerate(networks) if figures]
    drawn.append(chart.lines(recalls, "K", "Recall@K, percent", log=True, names=True))
    analysis = result.get("analysis") or {}
    if rows := analysis.get(ENSEMBLE_SIZE[0]):
        drawn.append(chart.lines([_sizes("all sets", rows)], *ENSEMBLE_SIZE[1:], log=True))
    if compressed := analysis.get(COMPRESSION[0]):
        best = front(compressed)
        curves = [_bytes("", best), _bytes("", [row for row in compressed if row not in best], joined=False)]
        drawn.append(chart.lines([c for c in curves if c.points], *COMPRESSION[1:], log=True, words=True))
    return drawn


def compared(known: Ledger, histories: dict[tuple[str, str], pd.DataFrame]) -> list[Comparison]:
    """Draw charts that compare the results of each variant that has several; each result has its own colour.

    Args:
        known: the ledger.
        histories: {(variant, name): table of epochs} of the listed runs.
    """
    found = []
    for variant, entries in known.items():
        if len(entries) < 2:
            continue
        of = {name: (entry.get("analysis") or {}) for name, entry in entries.items()}
        epochs = {name: histories[variant, name] for name in entries if (variant, name) in histories}
        key = ENSEMBLE_SIZE[0]
        colours = {name: colour for colour, name in enumerate(entries)}
        curves = [
            ([_recall(name, entry, colours[name]) for name, entry in entries.items()], "K", "Recall@K, percent"),
            ([_sizes(n, sizes, colours[n]) for n, a in of.items() if (sizes := a.get(key))], *ENSEMBLE_SIZE[1:]),
            ([_bytes(n, front(a[COMPRESSION[0]]), colours[n]) for n, a in of.items() if a], *COMPRESSION[1:]),
        ]
        charts = [chart.lines(lines, x, title, log=True) for lines, x, title in curves if lines]
        charts += _by_compute(entries, colours)
        for name, title in TRAINING:
            lines = [line for n, t in epochs.items() if (line := _training(n, t, name, colours[n])) is not None]
            charts += [chart.lines(lines, "epoch", title)] if len(lines) > 1 else []
        found.append(Comparison(variant, chart.legend(list(entries)), charts))
    return found


def front(rows: Sequence[dict[str, Any]], cost: str = "bytes", recall: str = "recall_at_1") -> list[dict[str, Any]]:
    """Return the Pareto points, by increasing cost: rows with a higher recall than all rows of at most their cost.

    Args:
        rows: rows to choose from, such as compressed embeddings.
        cost: key of the value that should be small.
        recall: key of the value that should be large.

    >>> rows = [("a", 8, 60), ("b", 2, 30), ("c", 4, 30), ("d", 4, 50), ("e", 16, 60)]
    >>> [row["code"] for row in front([dict(zip(("code", "bytes", "recall_at_1"), r)) for r in rows])]
    ['b', 'd', 'a']
    """
    kept: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row[cost], -row[recall])):
        if not kept or row[recall] > kept[-1][recall]:
            kept.append(row)
    return kept


def _by_compute(entries: dict[str, dict[str, Any]], colours: dict[str, int]) -> list[Markup]:
    """Draw each result's recall over its cost; the Pareto points are full dots with names."""
    costs = {name: model_size.compute(entry) for name, entry in entries.items()}
    drawn = []
    for number, (unit, x, title) in enumerate(COMPUTE):
        # Three digits are precise enough, and make readable ticks.
        points = [
            {
                "name": n,
                "cost": float(f"{costs[n][number] / unit:.3g}"),
                "recall": 100 * next(iter(e["recall"].values())),
            }
            for n, e in entries.items()
            if costs[n][number]  # untrained starting weights have no cost of training
        ]
        best = front(points, "cost", "recall")
        lines = [
            chart.Line(
                "",
                [(point["cost"], point["recall"])],
                colours[point["name"]],
                words=[point["name"]],
                joined=point in best,
            )
            for point in points
        ]
        drawn += [chart.lines(lines, x, title, log=True, words=True)] if lines else []
    return drawn


def _training(name: str, history: pd.DataFrame, column: str, colour: int = 0) -> chart.Line | None:
    if column not in history or history.empty:
        return None
    points = zip(history["epoch"].astype(float), history[column].astype(float), strict=True)
    return chart.Line(name, list(points), colour)


def _recall(name: str, figures: dict[str, Any], colour: int) -> chart.Line:
    return chart.Line(name, [(float(k), 100 * recall) for k, recall in figures["recall"].items()], colour)


def _sizes(name: str, rows: Sequence[dict[str, Any]], colour: int = 0) -> chart.Line:
    points = [(float(row["branches"]), row["recall_at_1"]) for row in rows]
    return chart.Line(name, points, colour, spreads=[row["recall_at_1_spread"] for row in rows])


def _bytes(name: str, compressed: Sequence[dict[str, Any]], colour: int = 0, *, joined: bool = True) -> chart.Line:
    points = [(float(row["bytes"]), row["recall_at_1"]) for row in compressed]
    words = [COMPRESSED.get(row["code"], row["code"]) for row in compressed]
    return chart.Line(name, points, colour, words=words, joined=joined)
