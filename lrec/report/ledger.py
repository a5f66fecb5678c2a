"""The ledger: the last result of every run, including runs that params.yaml no longer lists, and titles of metrics.

Results with different settings, such as ensemble size or kind of embedding, are separate entries.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from lrec import reference
from lrec.io import files, provenance, reading, splits
from lrec.model.backbones import BACKBONES, SHARES
from lrec.model.kinds import KINDS
from lrec.report import naming

Ledger = dict[str, dict[str, dict[str, Any]]]
# Titles of the metrics other than recall, for results of earlier versions, which do not contain them.
EARLIER = {"map_at_r": "MAP@R", "r_precision": "R-precision"}
# Names of compressed embeddings in results of earlier versions, and their present names.
COMPRESSED = {"signs": "binary"}

Fraction = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1, le=10**6)]
Recall = Annotated[dict[Annotated[str, Field(pattern="^[1-9][0-9]{0,9}$")], Fraction], Field(min_length=1)]
Counts = dict[str, Annotated[list[Count], Field(min_length=2, max_length=2)]]


class Untrained(TypedDict):
    """The figures of the network before training that the tables show."""

    recall: Recall


class Settings(TypedDict):
    """The settings of a training run that the tables show."""

    ensemble_size: Size
    meta_class_size: Size
    outputs: NotRequired[Size]
    image_size: Size
    epochs: Count
    batch_size: Size
    weights: Annotated[str, Field(min_length=1)]
    share: Annotated[str, Field(pattern=f"^({'|'.join(SHARES)})$")]
    classifier: NotRequired[Literal["linear", "cosine"]]
    loss: NotRequired[Annotated[str, Field(pattern="^[a-z0-9_]+$")]]
    teacher: NotRequired[str | None]
    warmup_epochs: NotRequired[Annotated[float, Field(ge=0)]]


class BranchSet(TypedDict):
    """Recall at 1, in percent, of sets with the same number of branches."""

    branches: Size
    recall_at_1: Percent
    recall_at_1_spread: Percent


class Compressed(TypedDict):
    """Recall at 1 of a compressed embedding, in percent, and its bytes per image."""

    code: str
    bytes: Size
    recall_at_1: Percent


class Analysis(TypedDict, total=False):
    """The analyses of a result: all or none; for reduced embeddings, only those that do not need single branches."""

    images: Count
    agreement: Fraction
    ensemble_size: list[BranchSet]
    compression: list[Compressed]


def _all_or_none(analysis: dict[str, Any]) -> dict[str, Any]:
    absent = Analysis.__annotations__.keys() - analysis.keys()
    if analysis and absent not in (set(), {"agreement", "ensemble_size"}):
        raise ValueError(f"{', '.join(Analysis.__annotations__)}, or nothing")
    return analysis


class Embedding(TypedDict, total=False):
    """The settings of the embedding that the tables show."""

    reduce: Annotated[str, Field(pattern="^[a-z]+$")]
    dimensions: Size


class Result(TypedDict):
    """The keys of a result that tables and page need; results have others as well."""

    variant: Annotated[str, Field(pattern="^[A-Za-z0-9_]+$")]
    backbone: Annotated[str, Field(pattern=f"^({'|'.join(BACKBONES)})$")]
    kind: Literal[tuple(KINDS)]
    recall: Recall
    recall_at_1_interval: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    map_at_r: Fraction
    r_precision: Fraction
    titles: NotRequired[dict[str, str]]
    queries: Count
    lone_queries: Count
    gallery: Count
    untrained: Untrained | None
    counts: Counts
    official: Counts | None
    partial: bool
    embedding: Embedding
    evaluation: dict[str, Any]
    analysis: Annotated[Analysis, AfterValidator(_all_or_none)]
    settings: Settings
    run: NotRequired[provenance.Run | None]


def titles(entry: dict[str, Any]) -> dict[str, str]:
    """Return the metrics of a result, other than recall, that are shown in percent: {key: title}."""
    return entry.get("titles", EARLIER)


def meaningless(entry: dict[str, Any]) -> str:
    """Return the reason why a result's recall does not depend on its embeddings, or an empty string if it does."""
    return splits.meaningless(entry["counts"], entry["queries"], entry["lone_queries"])


def _comparable(result: dict[str, Any]) -> dict[str, Any]:
    if result["partial"] and not result["official"]:
        raise ValueError("official counts where partial is true")
    for key in titles(result):
        if not isinstance(result.get(key), float) or not 0 <= result[key] <= 1:
            raise ValueError(f"a fraction from 0 to 1 as {key}, which `titles` names")
    return result


Whole = Annotated[Result, AfterValidator(_comparable)]


def read_result(path: Path, variant: str, backbone: str) -> dict[str, Any]:
    """Read the result.json of a run, which must have the keys of `Result`."""
    result = reading.read_json(path, "evaluate", Whole)
    if (result["variant"], result["backbone"]) != (variant, backbone):
        found = f"{result['variant']}/{result['backbone']}"
        raise ValueError(
            f"{path}: found the result of {found}, expected {variant}/{backbone}; run `dvc repro` (stage evaluate)"
        )
    return result


def read(path: Path) -> Ledger:
    """Read a ledger {variant: {name: entry}}; if the file does not exist, the ledger is empty.

    Entries of earlier versions are renamed as by `lrec.report.naming.name`.

    Raises:
        ValueError: the file is damaged, or an entry is under the wrong variant or has the same name as another; the
            message says how to restore the file.
    """
    if not path.exists():
        return {}
    found = reading.read_json(path, reading.COMMITTED, dict[str, dict[str, Whole]])
    renamed: Ledger = {}
    for variant, entries in found.items():
        renamed[variant] = {naming.name(entry): entry for entry in entries.values()}
        others = {entry["variant"] for entry in entries.values()} - {variant}
        if others or len(renamed[variant]) < len(entries):
            raise ValueError(
                f"{path}: found under {variant!r:.80} an entry of {', '.join(others) or 'the same name twice'}, "
                "expected each under its own names; restore it with `git checkout`"
            )
    return renamed


def upsert(ledger: Ledger, entry: dict[str, Any], run: dict[str, Any] | None) -> bool:
    """Add a run's result to the ledger, or replace the run's earlier result.

    A run with the same code, data and settings whose 95 % interval of R@1 overlaps the earlier one reproduces the
    earlier result, which is kept, with the record of its training. So published tables do not change when another
    CPU rounds differently.

    Args:
        ledger: the ledger, which is changed.
        entry: a result as the stage evaluate writes it, without the record of its training.
        run: time, hardware and commit of the training.

    Returns:
        Whether the ledger has changed; False for a reproduction.
    """
    entries = ledger.setdefault(entry["variant"], {})
    if reproduces(entries.get(naming.name(entry)), entry):
        return False
    entries[naming.name(entry)] = {**entry, "run": run}
    return True


def reproduces(published: dict[str, Any] | None, entry: dict[str, Any]) -> bool:
    """Return whether a result reproduces the published one, up to rounding differences in training."""
    same = ("settings", "embedding", "evaluation", "counts", "official", "queries", "gallery")
    if not published or any(published.get(key) != entry[key] for key in same):
        return False
    (low, high), (lower, upper) = published["recall_at_1_interval"], entry["recall_at_1_interval"]
    return published["recall"].keys() == entry["recall"].keys() and lower <= high and low <= upper


def ordered(ledger: Ledger) -> Ledger:
    """Return a ledger in a fixed order, independent of the order of the runs."""
    return {variant: dict(sorted(ledger[variant].items(), key=_place)) for variant in sorted(ledger)}


def _place(item: tuple[str, dict[str, Any]]) -> tuple[str, bool, str, int, str]:
    """Return the sorting key in a variant: backbone, the original's kind first, then ensemble size and name."""
    entry = item[1]
    size = entry["settings"]["ensemble_size"]
    return entry["backbone"], entry["kind"] != reference.KIND, entry["kind"], size, item[0]


def write(path: Path, ledger: Ledger) -> None:
    """Write a ledger, atomically."""
    files.write_json(path, ordered(ledger))
