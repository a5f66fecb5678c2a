"""Figures that compare our recall with published methods, by backbone; and the style of all figures.

With the same version of matplotlib, the same inputs give the same bytes.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrec import reference
from lrec.io import environment, files
from lrec.model.backbones import BACKBONES
from lrec.report.benchmarks import CLEAN, PUBLISHED, REPORTED, read_reference
from lrec.report.ledger import Ledger
from lrec.report.naming import is_full_size

with environment.without("MPLBACKEND"):  # set by notebooks; the import fails if that backend is not installed
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

INK, FAINT, LINE = "#1f2328", "#59636e", "#d1d9e0"
STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "text.color": INK, "axes.edgecolor": LINE, "xtick.color": FAINT}
# The figures, and the variants of their panels.
PANELS = {
    "sota_car_cub": ("car_uncropped", "cub_uncropped"),
    "sota_car_cub_crop": ("car_cropped", "cub_cropped"),
    "sota_sop": ("sop",),
    "sota_isc": ("isc",),
}
# In the order of the figures: this project's backbones, and before and after them those of published methods only.
TITLES = {
    "googlenet": "GoogLeNet",
    "bn_inception": "BN-Inception",
    **{name: backbone.title for name, backbone in BACKBONES.items()},
    "vit_s16": "ViT-S/16",
    "vit_b16": "ViT-B/16",
    "vit_l14_336": "ViT-L/14, 336 px",
}
# Kind of result: marker, face, edge, legend. The marks of reported results are hollow, because these results are not
# comparable, see docs/protocol.md.
MARKS = {
    "ours": ("D", "#cf4a00", "#cf4a00", "LREC, ours"),
    "clean": ("o", "#0969da", "#0969da", "LREC, clean reference"),
    "reported": ("o", "white", "#0969da", "LREC, as reported"),
    "source": ("s", "#57606a", "#57606a", "published, from the paper itself"),
    "secondary": ("^", "#b1bac4", "#6e7781", "published, as quoted by a later paper"),
}
# Inches: height of a row, widths of a panel's columns, space beside the panels.
_ROW, _LABEL, _AXIS, _VALUE, _MARGIN = 0.235, 2.3, 2.75, 1.75, 0.3


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw in the style of all figures, ignoring the user's matplotlibrc."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


@dataclass(frozen=True)
class Row:
    """One method on one backbone: its name and {kind of `MARKS`: Recall@1 in percent}."""

    name: str
    values: dict[str, float]


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG without metadata."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    with files.atomic(path) as stream:
        stream.write(buffer.getvalue())


def rows(variant: str, folder: Path, entries: dict[str, dict[str, Any]]) -> dict[str, list[Row]]:
    """Gather Recall@1 of a benchmark by backbone: LREC first, then the others by recall.

    Args:
        variant: one of `lrec.reference.VARIANTS`.
        folder: the folder with reported_recall.csv, clean_recall.csv and published_recall.csv.
        entries: the ledger's {name: entry} of this variant; those that are not comparable are left out.
    """
    reported, clean, others = (
        table[table["k"] == 1]
        for table in (read_reference(folder / name, variant) for name in (REPORTED, CLEAN, PUBLISHED))
    )
    if unknown := sorted(set(others["evidence"]) - set(MARKS)):
        expected = "source or secondary as evidence; restore it with `git checkout`"
        raise ValueError(f"{folder / PUBLISHED}: found {unknown[0]!r:.80}, expected {expected}")
    found: dict[str, list[Row]] = {}
    for backbone in TITLES:
        own = []
        values = {
            kind: float(table.loc[table["backbone"] == backbone, "recall_percent"].iloc[0])
            for kind, table in (("clean", clean), ("reported", reported))
            if (table["backbone"] == backbone).any()
        }
        entry = entries.get(backbone)
        if entry and is_full_size(entry) and "1" in entry["recall"]:
            own = [Row("LREC, ours", {"ours": 100 * entry["recall"]["1"]})]
        own += [Row("LREC", values)] if values else []
        there = others[others["backbone"] == backbone].sort_values("recall_percent", ascending=False, kind="stable")
        own += [Row(f"{r.method}, {r.year}", {r.evidence: r.recall_percent}) for r in there.itertuples()]
        if own:
            found[backbone] = own
    if not found:
        raise ValueError(f"{folder}: found no Recall@1 of {variant}, expected some; restore it with `git checkout`")
    return found


def comparison(path: Path, variants: tuple[str, ...], folder: Path, known: Ledger) -> None:
    """Draw one of the figures of `PANELS`: a panel per variant, a group of rows per backbone."""
    found = {variant: rows(variant, folder, known.get(variant, {})) for variant in variants}
    lines = max(sum(len(group) + 1.25 for group in groups.values()) for groups in found.values())
    panel = _LABEL + _AXIS + _VALUE + _MARGIN
    width, height = max(len(variants), 1.1) * panel + _MARGIN, lines * _ROW + 1.35
    with style():
        figure = Figure(figsize=(width, height))
        left = (width - len(variants) * panel + _MARGIN) / 2
        for number, (variant, groups) in enumerate(found.items()):
            own = sum(len(group) + 1.25 for group in groups.values())
            bottom = (height - 0.5 - own * _ROW) / height
            corner = (left + number * panel + _LABEL) / width
            axes = figure.add_axes((corner, bottom, _AXIS / width, own * _ROW / height))
            _panel(axes, variant, groups, own)
        shown = {kind for groups in found.values() for group in groups.values() for row in group for kind in row.values}
        handles = [
            Line2D([], [], linestyle="", marker=m, markerfacecolor=face, markeredgecolor=edge, markersize=6, label=text)
            for kind, (m, face, edge, text) in MARKS.items()
            if kind in shown
        ]
        columns = len(handles) if len(variants) > 1 else 2
        figure.legend(handles=handles, loc="lower center", ncol=columns, frameon=False, fontsize=8, handletextpad=0.2)
        save(figure, path)


def _panel(axes: Axes, variant: str, groups: dict[str, list[Row]], lines: float) -> None:
    title = reference.title(variant)
    axes.set_title(f"{title}: Recall@1, percent", fontsize=10.5, weight="bold", loc="left", x=-_LABEL / _AXIS, pad=9)
    axes.set(ylim=(lines, 0), yticks=[])
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.tick_params(axis="x", length=0, labelsize=8)
    axes.grid(axis="x", color="#eaeef2", linewidth=0.8)
    axes.set_axisbelow(True)
    values = [value for group in groups.values() for row in group for value in row.values.values()]
    low, high = min(values), max(values)
    axes.set_xlim(low - 0.06 * (high - low) - 0.5, high + 0.06 * (high - low) + 0.5)
    place = axes.get_yaxis_transform()
    height = 0.0
    for backbone, group in groups.items():
        name = TITLES[backbone]
        axes.text(
            -_LABEL / _AXIS, height + 0.72, name, transform=place, va="center", fontsize=8.5, weight="bold", color=FAINT
        )
        axes.axhline(
            height + 0.2, xmin=-_LABEL / _AXIS, xmax=1 + _VALUE / _AXIS, color=LINE, linewidth=0.7, clip_on=False
        )
        height += 1.25
        for row in group:
            _row(axes, row, height + 0.4)
            height += 1


def _row(axes: Axes, row: Row, height: float) -> None:
    place, own = axes.get_yaxis_transform(), row.name.startswith("LREC")
    weight = "bold" if own else "normal"
    axes.text(-_LABEL / _AXIS + 0.05, height, row.name, transform=place, va="center", fontsize=8.5, weight=weight)
    if len(row.values) > 1:
        axes.plot(
            [min(row.values.values()), max(row.values.values())], [height] * 2, color="#80b3f0", linewidth=1.2, zorder=2
        )
    for kind, value in sorted(row.values.items(), key=lambda item: item[0] != "reported"):
        marker, face, edge, _ = MARKS[kind]
        axes.plot(
            value, height, marker, markerfacecolor=face, markeredgecolor=edge, markersize=5.5, clip_on=False, zorder=3
        )
    # As many decimals as in the sources.
    words = {"clean": ("clean ", 2), "reported": ("reported ", 1)}
    shown = [(row.values[kind], *words.get(kind, ("", 1))) for kind in MARKS if kind in row.values]
    text = ", ".join(f"{word}{value:.{decimals}f}" for value, word, decimals in shown)
    axes.text(1.05, height, text, transform=place, va="center", fontsize=8, color=INK)
