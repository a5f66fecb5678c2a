"""The ledger: the last result of every combination ever run, kept when it is no longer listed."""

from pathlib import Path
from typing import Any

from lrec import files

Ledger = dict[str, dict[str, dict[str, Any]]]


def read(path: Path) -> Ledger:
    """Read a ledger {variant: {backbone: entry}}; one that does not exist is empty."""
    if not path.exists():
        return {}
    ledger = files.read_json(path, "report")
    if not isinstance(ledger, dict) or not all(isinstance(entries, dict) for entries in ledger.values()):
        raise ValueError(f"{path}: found no mapping of variants to backbones; restore it with `git checkout {path}`")
    return ledger


def upsert(ledger: Ledger, entry: dict[str, Any], run: dict[str, Any] | None) -> None:
    """Put a combination's result in, in place.

    Args:
        ledger: to change.
        entry: a result as the stage evaluate writes it, without what belongs to one run.
        run: time, hardware and commit of the training. An entry that says the same as before keeps the
            record of the run that first gave it, so a repeated run changes nothing.
    """
    backbones = ledger.setdefault(entry["variant"], {})
    before = backbones.get(entry["backbone"], {})
    if {key: value for key, value in before.items() if key != "run"} != entry:
        backbones[entry["backbone"]] = {**entry, "run": run}


def write(path: Path, ledger: Ledger) -> None:
    """Write a ledger in a fixed order, atomically."""
    files.write_json(path, {variant: dict(sorted(ledger[variant].items())) for variant in sorted(ledger)})
