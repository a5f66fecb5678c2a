"""What the report says: everything is gathered here, and rendered by page.html."""

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
from lrec.report import curves, ledger, model_size, sections, tables

_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}


class Shown(TypedDict):
    """The picture of an example; `image` is a file beside examples.json."""

    path: str
    image: Annotated[str, Field(pattern=r"^[0-9]+\.(png|jpg)$")]


# `class` is no name in Python's syntax.
Query = TypedDict("Query", {**Shown.__annotations__, "class": str, "best_rank": int, "results": list["Found"]})
Found = TypedDict("Found", {**Shown.__annotations__, "class": str, "similarity": float, "right": bool})


class Examples(TypedDict):
    """What examples.json must say."""

    sections: dict[Annotated[str, Field(pattern="^(hardest|typical)$")], list[Query]]


@dataclass(frozen=True)
class Combination:
    """A listed combination, as its stages left it.

    Attributes:
        result: of the stage evaluate.
        history: of the stage train, one row per epoch.
        examples: of the stage evaluate, examples.json.
        folder: where their pictures are.
    """

    result: dict[str, Any]
    history: pd.DataFrame
    examples: dict[str, Any]
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
    environment.filters |= {"readable": readable, "embedded": embedded, "is_wide": is_wide, "code": code}
    histories = {(c.result["variant"], ledger.name(c.result)): c.history for c in combinations}
    return environment.get_template("page.html").render(
        combinations=[_shown(combination) for combination in combinations],
        comparisons=curves.compared(known, histories),
        tables=sections.parse(markdown),
        pictures=pictures,
        runs=[_run(entry) for backbones in known.values() for entry in backbones.values()],
    )


def read_examples(path: Path) -> dict[str, Any]:
    """Read the examples.json of a combination, whose pictures must lie beside it.

    Raises:
        FileNotFoundError: it, or a picture, is not there.
        ValueError: it is damaged.
    """
    found = reading.read_json(path, "evaluate", Examples)
    shown = [query for section in found["sections"].values() for query in section]
    for picture in [*shown, *(result for query in shown for result in query["results"])]:
        if not (path.parent / picture["image"]).is_file():
            raise FileNotFoundError(f"{path.parent / picture['image']}: not found; run `dvc repro` (stage evaluate)")
    return found


def embedded(path: Path) -> Markup:
    """Return a picture as a data URI."""
    return Markup("data:{};base64,{}").format(_TYPES[path.suffix], base64.b64encode(path.read_bytes()).decode())


def is_wide(path: Path) -> bool:
    """Whether a picture needs the page's whole width."""
    with Image.open(path) as picture:
        return picture.width > 1.5 * picture.height


def code(text: str) -> Markup:
    """Return a paragraph of the tables' Markdown, whose only markup is `code`.

    >>> code("a `b<c>` d")
    Markup('a <code>b&lt;c&gt;</code> d')
    """
    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>" if n % 2 else "{}").format(part) for n, part in enumerate(parts))


def _shown(combination: Combination) -> dict[str, Any]:
    result = combination.result
    return {
        "name": f"{result['variant']}/{ledger.name(result)}",
        "facts": _facts(result),
        "charts": curves.of_one(result, combination.history),
        "examples": combination.examples,
        "folder": combination.folder,
        "partial": result["partial"],
    }


def _facts(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of the figures at the head of a combination."""
    low, high = result["recall_at_1_interval"]
    parameters, macs = _size(result)
    facts = [
        ("Recall@1", f"{100 * result['recall']['1']:.1f}%") if "1" in result["recall"] else None,
        ("95% interval, by classes", f"{100 * low:.1f} to {100 * high:.1f}%"),
        ("MAP@R", f"{100 * result['map_at_r']:.1f}%"),
        ("queries, searched in", f"{result['queries']:,} in {result['gallery']:,}"),
        ("queries without a match", f"{result['lone_queries']:,}"),
        ("parameters", f"{parameters / 1e6:,.1f} M"),
        ("GMACs per image", f"{macs / 1e9:.3g}"),
    ]
    return [fact for fact in facts if fact]


def _size(entry: dict[str, Any]) -> tuple[int, int]:
    """Parameters and multiply-accumulates per image of an entry's ensemble."""
    used = entry["settings"]
    shape = entry["backbone"], used["ensemble_size"], used["meta_class_size"]
    return (
        model_size.count_parameters(*shape, share=used["share"]),
        model_size.count_macs(*shape, used["image_size"], used["share"]),
    )


def _run(entry: dict[str, Any]) -> dict[str, Any]:
    """One line of the table of runs."""
    used, run = entry["settings"], entry.get("run") or {}
    parameters, macs = _size(entry)
    untold = "not recorded"
    return {
        "name": f"{entry['variant']}/{ledger.name(entry)}",
        "recall": " / ".join(f"{100 * share:.1f}" for share in entry["recall"].values()),
        "at": " / ".join(entry["recall"]),
        "partial": entry["partial"],
        "parameters": f"{parameters:,}",
        "macs": f"{macs / 1e9:.3g}",
        "time": tables.duration(run["seconds"]) if "seconds" in run else untold,
        "hardware": ", ".join(run[key] for key in ("device", "machine") if run.get(key)) or untold,
        "commit": run.get("commit") or untold,
        "settings": used,
    }
