"""The benchmark tables as Markdown: what was reported, the clean reference, and our own figures."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from lrec import reference
from lrec.io import reading
from lrec.io.text import boxed
from lrec.report.ledger import ordered

_UNSAFE = str.maketrans("|<>", "¦‹›")
BEGIN, END = "<!-- benchmarks: written by the stage report -->", "<!-- end of benchmarks -->"
NOT_RUN = "not run"
REPORTED, CLEAN, PUBLISHED = "reported_recall.csv", "clean_recall.csv", "published_recall.csv"
_COLUMNS = ("dataset", "crop", "backbone", "k", "recall_percent")
_PUBLISHED_COLUMNS = ("method", "backbone", "embedding_dim", "year", *_COLUMNS[:2], *_COLUMNS[3:], "evidence")


def parameter_table(
    backbones: list[str],
    count_parameters: Callable[[str, int, int], int],
    count_macs: Callable[[str, int, int, int], int],
) -> str:
    """Render parameters and multiply-accumulates of the paper's ensembles, computed from the model."""
    sizes = {
        size: [key for key in reference.NAMES if reference.META_CLASS_SIZE[key] == size] for size in (12, 512, 192)
    }
    header = ["Backbone"]
    header += [f"{', '.join(reference.NAMES[key] for key in keys)} (D={size})" for size, keys in sizes.items()]
    rows = [
        [backbone]
        + [f"{count_parameters(backbone, reference.ENSEMBLE_SIZE, size):,}" for size in sizes]
        + [f"{count_macs(backbone, reference.ENSEMBLE_SIZE, 12, reference.IMAGE_SIZE) / 1e9:.1f}"]
        for backbone in backbones
    ]
    return _markdown([*header, f"GMACs per {reference.IMAGE_SIZE} px image (D=12)"], rows)


def recall_table(
    variant: str, entries: dict[str, dict[str, Any]], ks: list[int], folder: Path, models: dict[str, Path]
) -> str:
    """Render one variant's recalls: the sources side by side, percent.

    A backbone's first row is the paper's ensemble of it; other sizes and kinds of embedding stand below,
    without reference figures, which are not theirs.

    Args:
        variant: its name; the six benchmarks have reference figures, any other has none.
        entries: the ledger's {name: entry} of this variant, see `lrec.report.ledger.name`.
        ks: cut-offs of the columns.
        folder: of reported_recall.csv and clean_recall.csv.
        models: folders of the models that belong to this state of the repository, {name: folder}: below the
            table stands how to get them. Those of other rows belong to other revisions.
    """
    reported, clean = (read_reference(folder / name, variant) for name in (REPORTED, CLEAN))
    published = [] if reported.empty else list(dict.fromkeys(reported["backbone"]))
    header = ["Backbone"] + (["reported", "clean reference"] if published else [])
    rows, parts = [], {}
    entries = ordered({variant: entries})[variant]
    names = dict.fromkeys([*published, *entries])
    for name in sorted(names, key=lambda name: _place(name, published)):
        entry = entries.get(name)
        row = [name]
        if published:
            papers = not entry or name == entry["backbone"]
            row += [_published(reported, name, ks, 1), _published(clean, name, ks, 2)] if papers else ["", ""]
        row += [_ours(entry, ks), _ours(entry and entry["untrained"], ks), _settings(entry), _epoch_time(entry)]
        if entry and entry["partial"]:
            row[-4] += " †"
            parts.setdefault(_share_of_official(entry), []).append(name)
        rows.append(row)
    notes = [f"† {'; '.join(of)}: {share}; not comparable with the full benchmark." for share, of in parts.items()]
    notes += [f"Model {name}: `dvc get <repository> {folder.as_posix()}`" for name, folder in models.items()]
    title = f"### {variant}\n\nRecall@{' / '.join(str(k) for k in ks)}, percent.\n\n"
    return (
        title
        + _markdown([*header, "ours", "ours, untrained", "our settings", "training, per epoch"], rows)
        + "".join(f"\n\n{note}" for note in notes)
    )


def ensemble_table(known: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Render recall at 1 over the number of branches, a row per analysed entry of the ledger; "" if none is."""
    curves = {key: {row["branches"]: row for row in found["ensemble_size"]} for key, found in _analysed(known)}
    sizes = sorted({size for curve in curves.values() for size in curve})
    rows = [
        [*key]
        + [
            f"{curve[size]['recall_at_1']:.1f} ± {curve[size]['recall_at_1_spread']:.1f}" if size in curve else ""
            for size in sizes
        ]
        + [f"{100 * found['agreement']:.1f}", f"{found['images']:,}"]
        for (key, found), curve in zip(_analysed(known), curves.values(), strict=True)
    ]
    title = "### Recall@1 over the number of branches\n\nMean and spread over sets of branches, percent.\n\n"
    header = ["Variant", "Backbone", *(f"M={size}" for size in sizes), "branches agree", "images"]
    return title + _markdown(header, rows) if rows else ""


def compression_table(known: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Render bytes per image against recall at 1, a row per analysed entry of the ledger; "" if none is."""
    costs = {key: {row["code"]: row for row in found["compression"]} for key, found in _analysed(known)}
    codes = list(dict.fromkeys(code for found in costs.values() for code in found))
    rows = [
        [*key]
        + [f"{found[code]['recall_at_1']:.1f} ({found[code]['bytes']:,} B)" if code in found else "" for code in codes]
        for key, found in costs.items()
    ]
    title = "### Recall@1 and bytes per image of compressed embeddings\n\nPercent; fitted on training images.\n\n"
    return title + _markdown(["Variant", "Backbone", *codes], rows) if rows else ""


def _analysed(known: dict[str, dict[str, dict[str, Any]]]) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    """Return (variant, name) and the analyses of the entries that have them."""
    return [
        ((variant, name), entry["analysis"])
        for variant, entries in known.items()
        for name, entry in entries.items()
        if entry["analysis"]
    ]


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    # Names of files and variants may hold what ends a cell, or a comment that ends the README's tables.
    plain = [[boxed(cell).translate(_UNSAFE) for cell in row] for row in [header, *rows]]
    return tabulate(plain[1:], plain[0], tablefmt="github", disable_numparse=True)


def _place(name: str, published: list[str]) -> tuple[int, str, bool]:
    """Order of rows: backbones as published, then the others; each backbone's own row first."""
    backbone = name.split()[0]
    return published.index(backbone) if backbone in published else len(published), backbone, name != backbone


def read_reference(path: Path, variant: str) -> pd.DataFrame:
    """Read the recalls of a variant from one of the files of data/reference: k is int64, recall_percent float64.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such table.
    """
    columns = _PUBLISHED_COLUMNS if path.name == PUBLISHED else _COLUMNS
    table = reading.read_table(path, columns, reading.COMMITTED, numbers=["recall_percent"], integers=["k", "year"])
    dataset, crop = reference.VARIANTS.get(variant, ("", ""))
    table = table.astype({"k": np.int64, "recall_percent": np.float64})
    return table[(table["dataset"] == dataset) & (table["crop"] == crop)]


def _published(table: pd.DataFrame, backbone: str, ks: list[int], decimals: int) -> str:
    found = table[table["backbone"] == backbone].set_index("k")["recall_percent"]
    return " / ".join(f"{found[k]:.{decimals}f}" if k in found else "-" for k in ks) if len(found) else NOT_RUN


def _ours(figures: dict[str, Any] | None, ks: list[int]) -> str:
    if not figures:
        return NOT_RUN
    recall = figures["recall"]
    return " / ".join(f"{100 * recall[str(k)]:.1f}" if str(k) in recall else "-" for k in ks)


def _settings(entry: dict[str, Any] | None) -> str:
    if not entry:
        return ""
    used = entry["settings"]
    epochs = f"{used['epochs']} epoch{'' if used['epochs'] == 1 else 's'}" + (
        f" (epoch {used['kept_epoch']} kept)" if "kept_epoch" in used else ""
    )
    return (
        f"M {used['ensemble_size']}, D {used['meta_class_size']}, {used['image_size']} px, {epochs}, "
        f"batch {used['batch_size']}, weights {used['weights'].split()[0]}"
        + ("" if used["share"] == reference.SHARE else f", shared up to {used['share']}")
        + ("" if entry["kind"] == reference.KIND else f", embedded {entry['kind']}")
    )


def _epoch_time(entry: dict[str, Any] | None) -> str:
    """How long an epoch of the training took, and on what, where that was recorded."""
    run = (entry or {}).get("run") or {}
    if "seconds" not in run:
        return ""
    device = re.sub(r", torch \S+", "", run.get("device", ""))
    epochs = run.get("epochs", entry["settings"]["epochs"])  # fewer where validation ended it early
    return duration(run["seconds"] / epochs) + (f" ({device})" if device else "")


def duration(seconds: float) -> str:
    """Return a time for the eye.

    >>> duration(59.6), duration(754), duration(9000)
    ('60 s', '12 min 34 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 5400 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _share_of_official(entry: dict[str, Any]) -> str:
    parts = [
        f"{entry['counts'].get(split, [0, 0])[0]:,} of {images:,} {split} images"
        for split, (images, _) in entry["official"].items()
    ]
    return "on " + " and ".join(parts)


def insert(readme: str, tables: str) -> str:
    """Return a README with the tables between its two markers.

    Raises:
        ValueError: the markers are not there once each, in order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"README.md: expected the lines {BEGIN!r} and {END!r} once each, in this order; put them back")
    head, rest = readme.split(BEGIN)
    return f"{head}{BEGIN}\n\n{tables.strip()}\n\n{END}{rest.split(END)[1]}"
