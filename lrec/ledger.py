"""The ledger: the last result of every combination ever run, kept when it is no longer listed."""

from pathlib import Path
from typing import Any

from lrec import files

Ledger = dict[str, dict[str, dict[str, Any]]]


def read(path: Path) -> Ledger:
    """Read a ledger {variant: {name: entry}}, see `name`; one that does not exist is empty."""
    if not path.exists():
        return {}
    ledger = files.read_json(path, "report")
    if not isinstance(ledger, dict) or not all(isinstance(entries, dict) for entries in ledger.values()):
        raise ValueError(f"{path}: found no mapping of variants to backbones; restore it with `git checkout {path}`")
    return ledger


def name(entry: dict[str, Any]) -> str:
    """Return what a result is listed as: its backbone, and what was embedded unless it is the paper's logits.

    >>> name({"backbone": "resnet18", "kind": "logits"}), name({"backbone": "resnet18", "kind": "features"})
    ('resnet18', 'resnet18 (features)')
    """
    return entry["backbone"] + ("" if entry["kind"] == "logits" else f" ({entry['kind']})")


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
    return {variant: dict(sorted(ledger[variant].items())) for variant in sorted(ledger)}


def write(path: Path, ledger: Ledger) -> None:
    """Write a ledger, atomically."""
    files.write_json(path, ordered(ledger))
