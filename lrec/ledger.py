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


def upsert(ledger: Ledger, entry: dict[str, Any], run: dict[str, Any] | None) -> None:
    """Put a combination's result in, in place.

    Args:
        ledger: to change.
        entry: a result as the stage evaluate writes it, without what belongs to one run.
        run: time, hardware and commit of the training. An entry that says the same as before keeps the
            record of the run that first gave it, so a repeated run changes nothing.
    """
    entries = ledger.setdefault(entry["variant"], {})
    before = entries.get(name(entry), {})
    if {key: value for key, value in before.items() if key != "run"} != entry:
        entries[name(entry)] = {**entry, "run": run}


def write(path: Path, ledger: Ledger) -> None:
    """Write a ledger in a fixed order, atomically."""
    files.write_json(path, {variant: dict(sorted(ledger[variant].items())) for variant in sorted(ledger)})
