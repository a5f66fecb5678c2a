"""The tables of metrics/benchmarks.md: every run of the ledger, with the reported and clean reference figures."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrec import reference
from lrec.io import reading
from lrec.model.backbones import BACKBONES
from lrec.report import model_size
from lrec.report.ledger import COMPRESSED, Ledger, meaningless, ordered, titles
from lrec.report.naming import is_quantized, reduction
from lrec.report.tables import MISSING, Table

REPORTED, CLEAN, PUBLISHED = "reported_recall.csv", "clean_recall.csv", "published_recall.csv"
_COLUMNS = ("dataset", "crop", "backbone", "k", "recall_percent")
_PUBLISHED_COLUMNS = ("method", "backbone", "embedding_dim", "year", *_COLUMNS[:2], *_COLUMNS[3:], "evidence")
COLUMNS = 4  # runs per table of compressed embeddings
Entries = dict[str, dict[str, Any]]


def tables(known: Ledger, folder: Path) -> list[Table]:
    """Return all tables except `model_table`, without empty columns.

    Args:
        known: the ledger.
        folder: the folder with reported_recall.csv and clean_recall.csv.
    """
    known = ordered(known)
    variants = dict.fromkeys([*reference.VARIANTS, *known])
    recalls = [table for variant in variants for table in recall_tables(variant, known.get(variant, {}), folder)]
    analyses = [ensemble_table(known), *compression_tables(known)]
    return [table.filled() for table in (parameter_table(), *recalls, *analyses) if table.rows]


def parameter_table() -> Table:
    """Return the table of parameters and multiply-accumulates of the original's ensembles, counted on the model."""
    sizes = {size: [] for size in reference.META_CLASS_SIZE.values()}
    for dataset, size in reference.META_CLASS_SIZE.items():
        sizes[size].append(reference.NAMES[dataset])
    header = ["Backbone", *(f"{', '.join(names)} (D={size})" for size, names in sizes.items())]
    rows = [
        [backbone]
        + [f"{model_size.count_parameters(backbone, reference.ENSEMBLE_SIZE, size):,}" for size in sizes]
        + [f"{model_size.count_macs(backbone, reference.ENSEMBLE_SIZE, 12, reference.IMAGE_SIZE) / 1e9:.1f}"]
        for backbone in BACKBONES
    ]
    return Table("Model parameters", [*header, f"GMACs per {reference.IMAGE_SIZE} px image (D=12)"], rows)


def recall_tables(variant: str, entries: Entries, folder: Path) -> list[Table]:
    """Return two tables of a variant: recalls in percent with a column per source, and details of our runs.

    The first row of a backbone is the original's ensemble. Rows with other settings follow, without reference
    figures, because these are for the original's settings.

    Args:
        variant: the variant's name; only the six benchmarks have reference figures.
        entries: the ledger's {name: entry} of this variant, see `lrec.report.naming.name`.
        folder: the folder with reported_recall.csv and clean_recall.csv.
    """
    reported, clean = (read_reference(folder / name, variant) for name in (REPORTED, CLEAN))
    published, ks = list(dict.fromkeys(reported["backbone"])), sorted({*reported["k"].tolist(), *cutoffs(entries)})
    entries = ordered({variant: entries})[variant]
    shown = {key: title for entry in entries.values() for key, title in titles(entry).items()}
    recalls, runs = [], []
    for name in sorted(dict.fromkeys([*published, *entries]), key=lambda name: _place(name, published)):
        entry = entries.get(name)
        sources = [_published(reported, name, ks, 1), _published(clean, name, ks, 2)]
        ours = [marked(_recall(entry, ks), entry), _recall(entry and entry["untrained"], ks)]
        recalls.append([name, *(sources if name in published else ["", ""]), *ours])
        if entry:
            figures = [f"{100 * entry[key]:.1f}" if key in entry else MISSING for key in shown]
            image, training = model_size.compute(entry)
            compute = [f"{image / 1e6:,.0f}", f"{training / 1e12:,.1f}"]
            runs.append([marked(name, entry), *figures, *compute, _settings(entry), _epoch_time(entry)])
    header = ["Backbone", "reported", "clean reference", "ours", "ours, before training"]
    at = f"Recall@{' / '.join(str(k) for k in ks)}, in percent."
    costs = ["10⁶ MACs per image", "10¹² MACs to train"]
    more = ["Backbone", *shown.values(), *costs, "settings", "training, per epoch"]
    intro = "Our runs: further metrics in percent, compute in multiply-accumulates, settings, and training time."
    return [Table(heading(variant), header, recalls, at, partial_notes(entries)), Table("", more, runs, intro)]


def ensemble_table(known: Ledger) -> Table:
    """Return the table of recall at 1 over the number of branches: a row per analysed run of the ledger."""
    found = [(variant, name, entry["analysis"]) for variant, name, entry in _analysed(known)]
    analyses = [each for each in found if "ensemble_size" in each[2]]
    sizes = sorted({row["branches"] for _, _, analysis in analyses for row in analysis["ensemble_size"]})
    rows = []
    for variant, name, analysis in analyses:
        shown = {
            row["branches"]: f"{row['recall_at_1']:.1f} ± {row['recall_at_1_spread']:.1f}"
            for row in analysis["ensemble_size"]
        }
        ends = [f"{100 * analysis['agreement']:.1f}", f"{analysis['images']:,}"]
        rows.append([variant, name, *(shown.get(size, "") for size in sizes), *ends])
    header = ["Variant", "Backbone", *(f"M={size}" for size in sizes), "branches agree", "images"]
    intro = "Mean and spread over sets of branches, in percent."
    return Table("Recall@1 over the number of branches", header, rows, intro)


def compression_tables(known: Ledger) -> list[Table]:
    """Return tables of compressed embeddings, with recall at 1 and bytes per image: a column per analysed run."""
    groups: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for variant, name, entry in _analysed(known):
        groups.setdefault((variant, entry["kind"]), {})[name] = {
            COMPRESSED.get(row["code"], row["code"]): f"{row['recall_at_1']:.1f} ({row['bytes']:,} B)"
            for row in entry["analysis"]["compression"]
        }
    found = []
    for (variant, kind), columns in groups.items():
        ways = dict.fromkeys(way for column in columns.values() for way in column)
        title = f"Compressed embeddings of {variant}: {kind}"
        intro = "Recall@1 in percent, and bytes per image; fitted on training images."
        for start in range(0, len(columns), COLUMNS):
            shown = dict(list(columns.items())[start : start + COLUMNS])
            rows = [[way, *(column.get(way, "") for column in shown.values())] for way in ways]
            found.append(Table("" if start else title, ["Embedding", *shown], rows, "" if start else intro))
    return found


def model_table(models: dict[str, dict[str, Path]]) -> Table:
    """Return the table of the models of this revision, from {variant: {name: folder}}.

    The models of other runs in the tables belong to other revisions.
    """
    rows = [[v, name, folder.as_posix()] for v, named in models.items() for name, folder in named.items()]
    intro = "Each folder can be fetched without a clone: dvc get REPOSITORY FOLDER"
    return Table("Models of this revision", ["Variant", "Backbone", "Folder"], rows, intro)


def heading(variant: str) -> str:
    """Return the title of a variant's table.

    >>> heading("car_cropped"), heading("isc"), heading("mine")
    ('CARS196, cropped (car_cropped)', 'In-shop (isc)', 'mine')
    """
    return f"{reference.title(variant)} ({variant})" if variant in reference.VARIANTS else variant


def cutoffs(entries: Entries) -> list[int]:
    """Return every K at which at least one of the runs was evaluated."""
    return sorted({int(k) for entry in entries.values() for k in entry["recall"]})


def marked(text: str, entry: dict[str, Any] | None) -> str:
    """Append a run's marks to text: † for a part of a data set, ‡ for a meaningless recall, see `partial_notes`."""
    if not entry:
        return text
    return text + " †" * entry["partial"] + " ‡" * bool(meaningless(entry))


def partial_notes(entries: Entries) -> list[str]:
    """Return notes that explain † (which part of the data set was used, with names if the parts differ) and ‡."""
    parts: dict[str, list[str]] = {}
    for name, entry in entries.items():
        if entry["partial"]:
            parts.setdefault(_part(entry), []).append(name)
    names = [f" {'; '.join(of)}:" if len(parts) > 1 else "" for of in parts.values()]
    notes = [f"†{of} {part}; not comparable with the full benchmark." for of, part in zip(names, parts, strict=True)]
    reasons = dict.fromkeys(filter(None, map(meaningless, entries.values())))
    return notes + [f"‡ means nothing: {reason}." for reason in reasons]


def read_reference(path: Path, variant: str) -> pd.DataFrame:
    """Read the recalls of a variant from a file of data/reference: k is int64, recall_percent float64.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not such a table.
    """
    columns = _PUBLISHED_COLUMNS if path.name == PUBLISHED else _COLUMNS
    table = reading.read_table(path, columns, reading.COMMITTED, numbers=["recall_percent"], integers=["k", "year"])
    dataset, crop = reference.VARIANTS.get(variant, ("", ""))
    table = table.astype({"k": np.int64, "recall_percent": np.float64})
    return table[(table["dataset"] == dataset) & (table["crop"] == crop)]


def duration(seconds: float) -> str:
    """Format a time in seconds.

    >>> duration(59.6), duration(754), duration(9000)
    ('60 s', '12 min 34 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 5400 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _analysed(known: Ledger) -> list[tuple[str, str, dict[str, Any]]]:
    """Return (variant, name, entry) of the runs that have analyses."""
    return [(v, name, entry) for v, entries in known.items() for name, entry in entries.items() if entry["analysis"]]


def _place(name: str, published: list[str]) -> tuple[int, str, bool]:
    """Return the sorting key of a row: backbones as published, then others; the original's settings first."""
    backbone = name.split()[0]
    return published.index(backbone) if backbone in published else len(published), backbone, name != backbone


def _published(table: pd.DataFrame, backbone: str, ks: list[int], decimals: int) -> str:
    found = table[table["backbone"] == backbone].set_index("k")["recall_percent"]
    return " / ".join(f"{found[k]:.{decimals}f}" if k in found else MISSING for k in ks) if len(found) else MISSING


def _recall(figures: dict[str, Any] | None, ks: list[int]) -> str:
    if not figures:
        return MISSING
    recall = figures["recall"]
    return " / ".join(f"{100 * recall[str(k)]:.1f}" if str(k) in recall else MISSING for k in ks)


def _settings(entry: dict[str, Any]) -> str:
    used = entry["settings"]
    epochs = f"{used['epochs']} epoch{'' if used['epochs'] == 1 else 's'}" + (
        f" (epoch {used['kept_epoch']} kept)" if "kept_epoch" in used else ""
    )
    return (
        f"M {used['ensemble_size']}, D {used['meta_class_size']}, {used['image_size']} px, {epochs}, "
        f"batch {used['batch_size']}, weights {used['weights'].split()[0]}"
        + ("" if used["share"] == reference.SHARE else f", shared up to {used['share']}")
        + ("" if entry["kind"] == reference.KIND else f", embedded {entry['kind']}")
        + (", in int8" if is_quantized(entry) else "")
        + (f", {reduction(entry)}" if reduction(entry) else "")
    )


def _epoch_time(entry: dict[str, Any]) -> str:
    """Return the training time per epoch and the hardware, if recorded."""
    record = entry.get("run") or {}
    if "seconds" not in record:
        return ""
    device = re.sub(r", torch \S+", "", record.get("device", ""))
    epochs = record.get("epochs", entry["settings"]["epochs"])  # fewer if validation ended the training early
    return duration(record["seconds"] / max(1, epochs)) + (f" ({device})" if device else "")


def _part(entry: dict[str, Any]) -> str:
    parts = [
        f"{entry['counts'].get(split, [0, 0])[0]:,} of {images:,} {split} images"
        for split, (images, _) in entry["official"].items()
    ]
    return "on " + " and ".join(parts)
