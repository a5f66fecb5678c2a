"""The README's tables: the original's seven, each followed by our runs with other settings, and a line on glyphs.

They depend only on the ledger and data/reference, so a check can render them again.
"""

from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from lrec import reference
from lrec.report import ledger, naming
from lrec.report.benchmarks import (
    CLEAN,
    REPORTED,
    Entries,
    cutoffs,
    heading,
    marked,
    parameter_table,
    partial_notes,
    read_reference,
)
from lrec.report.tables import MISSING, Table

BEGIN, END = "<!-- benchmarks: written by the stage report -->", "<!-- end of benchmarks -->"
BUILT_IN = "glyphs"
MOST = 6  # of our runs, below a table
MOST_BUILT_IN = 4  # runs in the line on the built-in set
LEGEND = f"In the next six tables: Recall@K in percent, reported / clean reference / ours ({MISSING}: no figure)."


def tables(known: ledger.Ledger, folder: Path) -> list[Table]:
    """Return the tables between the README's markers.

    Args:
        known: the ledger.
        folder: the folder with reported_recall.csv and clean_recall.csv.
    """
    found = [parameter_table()]
    for number, variant in enumerate(reference.VARIANTS):
        entries = known.get(variant, {})
        full = {name: entry for name, entry in entries.items() if naming.is_full_size(entry)}
        found.append(benchmark_table(variant, full, folder, "" if number else LEGEND))
        others = {name: entry for name, entry in entries.items() if name not in full}
        found += [own_runs("", others, "Our runs of other sizes")] if others else []
    notes = built_in_notes(known[BUILT_IN]) if known.get(BUILT_IN) else []
    return [*found[:-1], replace(found[-1], notes=[*found[-1].notes, *notes])]


def benchmark_table(variant: str, full: Entries, folder: Path, intro: str = "") -> Table:
    """Return one of the original's tables: a row per backbone, a column per K, three sources per cell.

    Args:
        variant: one of `lrec.reference.VARIANTS`.
        full: {backbone: entry} of the ledger's comparable runs, see `lrec.report.naming.is_full_size`.
        folder: the folder with reported_recall.csv and clean_recall.csv.
        intro: the line above the table.
    """
    reported, clean = (
        {(r.backbone, r.k): percent(r.recall_percent) for r in read_reference(folder / name, variant).itertuples()}
        for name in (REPORTED, CLEAN)
    )
    ours = {(name, int(k)): f"{100 * x:.1f}" for name, entry in full.items() for k, x in entry["recall"].items()}
    ks = sorted({k for _, k in reported})
    rows = [
        [backbone, *(" / ".join(of.get((backbone, k), MISSING) for of in (reported, clean, ours)) for k in ks)]
        for backbone in dict.fromkeys([*(backbone for backbone, _ in reported), *full])
    ]
    return Table(heading(variant), ["Backbone", *map(_column, ks)], rows, intro)


def own_runs(title: str, entries: Entries, what: str) -> Table:
    """Return the best of our runs of a variant, best first: a row per run, a column per K, in percent."""
    ks = cutoffs(entries)
    chosen = _best(entries, ks[0], MOST)
    rows = [
        [marked(name, entry)]
        + [f"{100 * entry['recall'][str(k)]:.1f}" if str(k) in entry["recall"] else MISSING for k in ks]
        for name, entry in chosen.items()
    ]
    more = f": the best {MOST} of {len(entries)} (all: metrics/benchmarks.md)" if len(entries) > MOST else ""
    return Table(title, ["Backbone", *map(_column, ks)], rows, f"{what}, in percent{more}.", partial_notes(chosen))


def built_in_notes(entries: Entries) -> list[str]:
    """Return the line on the best runs of the built-in set, and the notes that explain its marks."""
    k = cutoffs(entries)[0]
    chosen = _best(entries, k, MOST_BUILT_IN)
    figures = (f"{marked(name, entry)} {100 * entry['recall'].get(str(k), 0):.1f}" for name, entry in chosen.items())
    line = f"The built-in set ({BUILT_IN}): {_column(k)} in percent, {', '.join(figures)} (all: metrics/benchmarks.md)."
    return [line, *partial_notes(chosen)]


def percent(value: float) -> str:
    """Return a published figure with one decimal, halves rounded up.

    >>> percent(89.85), percent(93.4)
    ('89.9', '93.4')
    """
    return str(Decimal(str(value)).quantize(Decimal("0.1"), ROUND_HALF_UP))


def insert(readme: str, text: str) -> str:
    """Replace the text between the README's two markers.

    Args:
        readme: the README.
        text: the tables as Markdown.

    Raises:
        ValueError: a marker is missing or repeated, or they are in the wrong order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"README.md: expected the lines {BEGIN!r} and {END!r} once each, in this order; put them back")
    head, rest = readme.split(BEGIN)
    return f"{head}{BEGIN}\n\n{text.strip()}\n\n{END}{rest.split(END)[1]}"


def _best(entries: Entries, k: int, most: int) -> Entries:
    """Return the runs with the highest recall at K, best first."""
    names = sorted(entries, key=lambda name: -entries[name]["recall"].get(str(k), 0))
    return {name: entries[name] for name in names[:most]}


def _column(k: int) -> str:
    return f"R@{k}"
