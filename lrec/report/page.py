"""The HTML report: gathers the content that the template page.html renders."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jinja2
import pandas as pd
from markupsafe import Markup
from PIL import Image
from pydantic import Field
from typing_extensions import TypedDict

from lrec.class_names import readable
from lrec.io import reading
from lrec.io.text import boxed
from lrec.model import saved
from lrec.model.classifiers import Classifier
from lrec.report import benchmarks, curves, ledger, model_size, naming
from lrec.report.tables import Table, html

_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}


class Shown(TypedDict):
    """An image of an example; `image` is the name of a file in the folder of examples.json."""

    path: str
    image: Annotated[str, Field(pattern=r"^[0-9]+\.(png|jpg)$")]


# A class body cannot declare a key named `class`.
Query = TypedDict("Query", {**Shown.__annotations__, "class": str, "best_rank": int, "results": list["Found"]})
Found = TypedDict("Found", {**Shown.__annotations__, "class": str, "similarity": float, "right": bool})


class Examples(TypedDict):
    """The keys that examples.json must have."""

    sections: dict[Annotated[str, Field(pattern="^(hardest|typical)$")], list[Query]]


@dataclass(frozen=True)
class Listed:
    """The outputs of a run that params.yaml lists.

    Attributes:
        result: result.json of the stage evaluate.
        history: the table of the stage train, one row per epoch.
        examples: examples.json of the stage evaluate.
        folder: the folder with the images of the examples.
    """

    result: dict[str, Any]
    history: pd.DataFrame
    examples: dict[str, Any]
    folder: Path


def render(listed: list[Listed], known: ledger.Ledger, tables: list[Table], figures: list[Path]) -> str:
    """Return the page as self-contained HTML.

    Args:
        listed: the runs of params.yaml.
        known: the ledger.
        tables: the tables of the benchmarks.
        figures: the PNG files to show.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"readable": readable, "boxed": boxed, "embedded": embedded, "is_wide": is_wide}
    histories = {(run.result["variant"], naming.name(run.result)): run.history for run in listed}
    entries = {f"{variant}/{name}": entry for variant, named in known.items() for name, entry in named.items()}
    return environment.get_template("page.html").render(
        listed=[_shown(run) for run in listed],
        comparisons=curves.compared(known, histories),
        tables=[html(table) for table in tables],
        figures=figures,
        runs=html(run_table(entries)),
        settings={name: _details(entry) for name, entry in entries.items()},
    )


def read_examples(path: Path) -> dict[str, Any]:
    """Read the examples.json of a run; its images must be in the same folder.

    Raises:
        FileNotFoundError: the file or an image is missing.
        ValueError: the file is damaged.
    """
    found = reading.read_json(path, "evaluate", Examples)
    shown = [query for section in found["sections"].values() for query in section]
    for example in [*shown, *(result for query in shown for result in query["results"])]:
        if not (path.parent / example["image"]).is_file():
            raise FileNotFoundError(f"{path.parent / example['image']}: not found; run `dvc repro` (stage evaluate)")
    return found


def embedded(path: Path) -> Markup:
    """Return an image as a data URI."""
    return Markup("data:{};base64,{}").format(_TYPES[path.suffix], base64.b64encode(path.read_bytes()).decode())


def is_wide(path: Path) -> bool:
    """Return whether a figure needs the whole width of the page."""
    with Image.open(path) as image:
        return image.width > 1.5 * image.height


def run_table(entries: dict[str, dict[str, Any]]) -> Table:
    """Return the table of all runs, from {name: entry of the ledger}."""
    rows = []
    for name, entry in entries.items():
        parameters, macs = _size(entry)
        record, untold = entry.get("run") or {}, "not recorded"
        commit = record.get("commit") or untold
        rows.append(
            [
                benchmarks.marked(name, entry),
                " / ".join(f"{100 * recall:.1f}" for recall in entry["recall"].values()),
                " / ".join(entry["recall"]),
                f"{parameters:,}",
                f"{macs / 1e9:.3g}",
                benchmarks.duration(record["seconds"]) if "seconds" in record else untold,
                ", ".join(record[key] for key in ("device", "machine") if record.get(key)) or untold,
                commit if commit == untold else commit[:10] + ("+" if commit.endswith("+") else ""),
            ]
        )
    header = ["run", "Recall@K, percent", "K", "parameters", "GMACs per image", "training time", "hardware", "commit"]
    notes = ["† on a part of the data set."] if any(entry["partial"] for entry in entries.values()) else []
    reasons = dict.fromkeys(filter(None, map(ledger.meaningless, entries.values())))
    notes += [f"‡ means nothing: {reason}." for reason in reasons]
    intro = "Every run of the ledger. A multiply-accumulate is two floating-point operations."
    return Table("", header, rows, intro, notes)


def _details(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a run's settings and its full commit hash."""
    commit = (entry.get("run") or {}).get("commit")
    return entry["settings"] | ({"commit": commit} if commit else {})


def _shown(run: Listed) -> dict[str, Any]:
    return {
        "name": f"{run.result['variant']}/{naming.name(run.result)}",
        "facts": _facts(run.result),
        "charts": curves.of_one(run.result, run.history),
        "examples": run.examples,
        "folder": run.folder,
        "partial": run.result["partial"],
        "meaningless": ledger.meaningless(run.result),
    }


def _facts(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return names and values of the figures at the top of a run's section."""
    low, high = result["recall_at_1_interval"]
    parameters, macs = _size(result)
    facts = [
        ("Recall@1", f"{100 * result['recall']['1']:.1f}%") if "1" in result["recall"] else None,
        ("class-bootstrap 95 % interval", f"{100 * low:.1f} to {100 * high:.1f}%"),
        *((title, f"{100 * result[key]:.1f}%") for key, title in ledger.titles(result).items()),
        ("queries / gallery images", f"{result['queries']:,} / {result['gallery']:,}"),
        ("queries without positives", f"{result['lone_queries']:,}"),
        ("parameters", f"{parameters / 1e6:,.1f} M"),
        ("GMACs per image", f"{macs / 1e9:.3g}"),
    ]
    return [fact for fact in facts if fact]


def _size(entry: dict[str, Any]) -> tuple[int, int]:
    """Return parameters and multiply-accumulates per image of an entry's ensemble."""
    used = entry["settings"]
    shape = entry["backbone"], used["ensemble_size"], saved.outputs(used)
    return (
        model_size.count_parameters(*shape, used["share"], Classifier(used.get("classifier", "linear"))),
        model_size.count_macs(*shape, used["image_size"], used["share"]),
    )
