"""The ledger: the last result of every combination ever run, kept when it is no longer listed.

Results of different ensemble sizes, and of logits and features, stand side by side.
"""

from pathlib import Path
from typing import Any

from lrec import files

Ledger = dict[str, dict[str, dict[str, Any]]]
# Of the paper: what the reference recalls and the parameter counts belong to.
PAPER_ENSEMBLE_SIZE, PAPER_KIND = 48, "logits"


def read(path: Path) -> Ledger:
    """Read a ledger {variant: {name: entry}}; one that does not exist is empty.

    Entries are named anew, see `name`, whatever an older version called them.

    Raises:
        ValueError: it is not a ledger; the message says how to restore it.
    """
    if not path.exists():
        return {}
    found = files.read_json(path, "report")
    try:
        return {variant: {name(entry): entry for entry in entries.values()} for variant, entries in found.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: found no mapping of variants to results; restore it with `git checkout {path}`"
        ) from error


def name(entry: dict[str, Any]) -> str:
    """Return what a result is listed as: its backbone, then what differs from the paper's ensemble of logits.

    >>> name({"backbone": "resnet18", "kind": "logits", "settings": {"ensemble_size": 48}})
    'resnet18'
    >>> name({"backbone": "resnet18", "kind": "features", "settings": {"ensemble_size": 4}})
    'resnet18 (M=4, features)'
    """
    size = entry["settings"]["ensemble_size"]
    differs = [f"M={size}"] if size != PAPER_ENSEMBLE_SIZE else []
    differs += [entry["kind"]] if entry["kind"] != PAPER_KIND else []
    return entry["backbone"] + (f" ({', '.join(differs)})" if differs else "")


def metric(entry: dict[str, Any]) -> str:
    """Return what `dvc metrics` lists a result as: a name that stays when the size of the ensemble changes.

    One run has one size per variant, and its parameters say which.

    >>> metric({"backbone": "resnet18", "kind": "features", "settings": {"ensemble_size": 4}})
    'resnet18 (features)'
    """
    return entry["backbone"] + ("" if entry["kind"] == PAPER_KIND else f" ({entry['kind']})")


def upsert(ledger: Ledger, entry: dict[str, Any], run: dict[str, Any] | None) -> bool:
    """Put a combination's result in, in place.

    A run with the same code, data and settings whose 95% interval of R@1 overlaps the published one
    reproduces the published figure; that one stays, with the record of the run that gave it. So
    published tables do not move with the last bits of another processor's sums.

    Args:
        ledger: to change.
        entry: a result as the stage evaluate writes it, without what belongs to one run.
        run: time, hardware and commit of the training.

    Returns:
        Whether the entry was put in; False for a reproduction.
    """
    entries = ledger.setdefault(entry["variant"], {})
    if reproduces(entries.get(name(entry)), entry):
        return False
    entries[name(entry)] = {**entry, "run": run}
    return True


def reproduces(published: dict[str, Any] | None, entry: dict[str, Any]) -> bool:
    """Whether a result is the published one once more, up to floating-point noise in training."""
    same = ("settings", "embedding", "evaluation", "counts", "official", "queries", "gallery")
    if not published or any(published.get(key) != entry[key] for key in same):
        return False
    (low, high), (lower, upper) = published["recall_at_1_interval"], entry["recall_at_1_interval"]
    return published["recall"].keys() == entry["recall"].keys() and lower <= high and low <= upper


def ordered(ledger: Ledger) -> Ledger:
    """Return a ledger in a fixed order, so that nothing depends on what was run first."""
    return {variant: dict(sorted(ledger[variant].items(), key=_place)) for variant in sorted(ledger)}


def _place(item: tuple[str, dict[str, Any]]) -> tuple[str, bool, str, int]:
    """Order within a variant: by backbone, the paper's kind first, then by ensemble size."""
    entry = item[1]
    return entry["backbone"], entry["kind"] != PAPER_KIND, entry["kind"], entry["settings"]["ensemble_size"]


def write(path: Path, ledger: Ledger) -> None:
    """Write a ledger, atomically."""
    files.write_json(path, ordered(ledger))
