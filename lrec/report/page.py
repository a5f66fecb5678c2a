"""What the report says: everything is gathered here, and rendered by page.html."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from lrec import ledger, model, tables
from lrec.class_names import readable
from lrec.report import chart, sections

_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class Combination:
    """A listed combination, as its stages left it.

    Attributes:
        result: of the stage evaluate.
        history: of the stage train, one row per epoch.
        gallery: of the stage evaluate, gallery.json.
        folder: where the gallery's pictures are.
    """

    result: dict[str, Any]
    history: pd.DataFrame
    gallery: dict[str, Any]
    folder: Path


def render(combinations: list[Combination], known: ledger.Ledger, markdown: str, pictures: list[Path]) -> str:
    """Return the page as HTML that loads nothing.

    Args:
        combinations: the listed ones.
        known: the ledger.
        markdown: the benchmark tables.
        pictures: the figures to show, PNG.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"readable": readable, "embedded": embedded}
    return environment.get_template("page.html").render(
        combinations=[_shown(combination) for combination in combinations],
        tables=sections.parse(markdown),
        pictures=pictures,
        runs=[_run(entry) for backbones in known.values() for entry in backbones.values()],
    )


def embedded(path: Path) -> Markup:
    """Return a picture as a data URI."""
    return Markup("data:{};base64,{}").format(_TYPES[path.suffix], base64.b64encode(path.read_bytes()).decode())


def _shown(combination: Combination) -> dict[str, Any]:
    result = combination.result
    return {
        "name": f"{result['variant']}/{ledger.name(result)}",
        "facts": _facts(result),
        "charts": [*_training(combination.history), _recalls(result), *_analyses(result.get("analysis") or {})],
        "gallery": combination.gallery,
        "folder": combination.folder,
        "partial": result["partial"],
    }


def _facts(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of the figures at the head of a combination."""
    low, high = result["recall_at_1_interval"]
    facts = [
        ("Recall@1", f"{100 * result['recall']['1']:.1f}%") if "1" in result["recall"] else None,
        ("95% interval, classes resampled", f"{100 * low:.1f} to {100 * high:.1f}%"),
        ("MAP@R", f"{100 * result['map_at_r']:.1f}%"),
        ("queries, searched in", f"{result['queries']:,} in {result['gallery']:,}"),
        ("queries without a match", f"{result['lone_queries']:,}"),
    ]
    return [fact for fact in facts if fact]


def _training(history: pd.DataFrame) -> list[Markup]:
    epochs = history["epoch"].astype(float)
    return [
        chart.lines(
            [chart.Line(name, list(zip(epochs, history[name].astype(float), strict=True)))], "epoch", title, names=False
        )
        for name, title in (("loss", "Training loss"), ("accuracy", "Training accuracy"))
        if name in history
    ]


def _recalls(result: dict[str, Any]) -> Markup:
    curves = [
        chart.Line(name, [(float(k), 100 * share) for k, share in found["recall"].items()])
        for name, found in (("trained", result), ("untrained", result["untrained"]))
        if found
    ]
    return chart.lines(curves, "k", "Recall@k, percent", log=True)


def _analyses(analysis: dict[str, Any]) -> list[Markup]:
    """What the ensemble buys and what an embedding costs, where the result says so."""
    drawn = []
    for key, x, title in (
        ("ensemble_size", "branches", "Recall@1 by ensemble size, percent"),
        ("compression", "bytes", "Recall@1 by bytes of an embedding, percent"),
    ):
        if found := sorted(analysis.get(key) or [], key=lambda row: (row[x], row["recall_at_1"])):
            best = {float(row[x]): row["recall_at_1"] for row in found}  # the best code of each size
            drawn.append(chart.lines([chart.Line(x, list(best.items()))], x, title, log=True, names=False))
    return drawn


def _run(entry: dict[str, Any]) -> dict[str, Any]:
    """One line of the table of runs."""
    used, run = entry["settings"], entry.get("run") or {}
    shape = entry["backbone"], used["ensemble_size"], used["meta_class_size"]
    untold = "not recorded"
    return {
        "name": f"{entry['variant']}/{ledger.name(entry)}",
        "recall": " / ".join(f"{100 * share:.1f}" for share in entry["recall"].values()),
        "at": " / ".join(entry["recall"]),
        "partial": entry["partial"],
        "parameters": f"{model.count_parameters(*shape, share=used['share']):,}",
        "macs": f"{model.count_macs(*shape, used['image_size'], used['share']) / 1e9:.3g}",
        "time": tables.duration(run["seconds"]) if "seconds" in run else untold,
        "hardware": ", ".join(run[key] for key in ("device", "machine") if run.get(key)) or untold,
        "commit": run.get("commit") or untold,
        "settings": used,
    }
