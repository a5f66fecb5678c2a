"""Stage report: gather the results of all listed runs in metrics/, the README's tables, figures, and an HTML page.

--check writes nothing. It renders the tables from metrics/benchmarks.json again, and fails if those in the README or
in metrics/benchmarks.md differ.
"""

import shutil
from pathlib import Path

import pandas as pd

from lrec import params, paths, reference
from lrec.io import command, files, given, locks, provenance, reading
from lrec.io.text import escaped
from lrec.report import benchmarks, diagram, figures, ledger, naming, page, readme
from lrec.report.tables import markdown

HISTORY = ("epoch", "learning_rate", "loss", "accuracy")
CURVE = ("branches", "subsets", "recall_at_1")


def outputs(check: bool) -> list[Path]:
    """Return the paths that the stage writes or prunes; none if it only checks."""
    drawn = [paths.ARCHITECTURE, *(paths.figure(name) for name in figures.PANELS)]
    return [] if check else [paths.TABLES.parent, paths.README, paths.RESULTS, paths.HISTORY, paths.REPORT, *drawn]


@locks.holding(writes=outputs)
def main(check: bool) -> None:
    """Write metrics/, report/, the figures in data/, and the README between its markers."""
    text = reading.read_text(paths.README, reading.COMMITTED)
    readme.insert(text, "")  # fails before anything is written if the markers are missing
    known = ledger.read(paths.LEDGER)
    if check:
        return compare(text, known)
    settings = params.load()
    variants = {name: variant.model_dump() for name, variant in settings.variants.items()}
    for name in given.changed(variants, "variants", "report"):
        if line := settings.unlisted(name, given.changed(variants[name], f"variants.{name}", "report")):
            command.warn(line)
    listed, models, shown, plots = {}, {}, [], {}
    for variant in settings.datasets:
        for backbone in settings.backbones:
            result = ledger.read_result(paths.result(variant, backbone), variant, backbone)
            past, none = paths.history(variant, backbone), result["settings"]["epochs"] == 0
            history = reading.read_table(past, HISTORY, "train", numbers=HISTORY, empty=none)
            record = provenance.find(paths.run_record(variant, backbone), result["settings"])
            if not ledger.upsert(known, result, record and record | {"epochs": len(history)}):
                print(f"{variant}/{backbone}: reproduces its entry in {paths.LEDGER}, which is kept")
            listed.setdefault(variant, {})[naming.metric(result)] = flat(result)
            folder = paths.examples(variant, backbone)
            shown.append(page.Listed(result, history, page.read_examples(folder / paths.EXAMPLES), folder))
            models.setdefault(variant, {})[naming.name(result)] = paths.model(variant, backbone)
            for name, table in curves(result, history).items():
                plots.setdefault(name, []).append(table)
    known = ledger.ordered(known)
    for variant in reference.VARIANTS:  # fails before anything is written if a figure cannot be drawn
        figures.rows(variant, paths.REFERENCE, known.get(variant, {}))
    tables = [*benchmarks.tables(known, paths.REFERENCE), benchmarks.model_table(models)]
    inserted = markdown(readme.tables(known, paths.REFERENCE))
    prune(settings)
    files.write_json(paths.RECALL, listed)
    for name, parts in plots.items():
        files.write_table(paths.TABLES.with_name(f"{name}.csv"), pd.concat(parts))
    ledger.write(paths.LEDGER, known)
    files.write_text(paths.TABLES, markdown(tables))
    # Read again, because it may have been edited meanwhile.
    files.write_text(paths.README, readme.insert(reading.read_text(paths.README, reading.COMMITTED), inserted))
    files.write_text(paths.REPORT, page.render(shown, known, tables, draw(known)))
    print(f"{paths.TABLES} and {paths.README} updated; page: {paths.REPORT}")


def compare(text: str, known: ledger.Ledger) -> None:
    """Compare the tables in the README's text and in metrics/benchmarks.md with those rendered from the ledger.

    The last table of metrics/benchmarks.md, the models of this revision, is not in the ledger and is not compared.

    Raises:
        ValueError: tables differ.
    """
    known = ledger.ordered(known)
    whole = reading.read_text(paths.TABLES, "report")
    found = {
        paths.README: readme.insert(text, markdown(readme.tables(known, paths.REFERENCE))) == text,
        paths.TABLES: whole.startswith(markdown(benchmarks.tables(known, paths.REFERENCE))),
    }
    for path, same in found.items():
        if not same:
            raise ValueError(f"{path}: its tables differ from {paths.LEDGER}; run python -m stages.report")


def prune(settings: params.Params) -> None:
    """Remove results and histories of runs that params.yaml does not list from the working tree.

    Both folders are dependencies of this stage, so leftovers of another selection would change their hash.
    Results remain in DVC's cache and in the ledger.
    """
    listed = {(variant, backbone) for variant in settings.datasets for backbone in settings.backbones}
    for path in [*paths.RESULTS.glob("*/*"), *paths.HISTORY.glob("*/*.csv")]:
        if (path.parent.name, path.name.removesuffix(".csv")) not in listed:
            print(escaped(f"{path}: not listed in params.yaml, removed; it remains in DVC's cache"))
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def draw(known: ledger.Ledger) -> list[Path]:
    """Draw the figures; return their paths."""
    size = reference.ENSEMBLE_SIZE, reference.META_CLASS_SIZE["car"], reference.IMAGE_SIZE
    diagram.draw(paths.ARCHITECTURE, "resnet18", *size)
    for name, variants in figures.PANELS.items():
        figures.comparison(paths.figure(name), variants, paths.REFERENCE, known)
    return [paths.ARCHITECTURE, *(paths.figure(name) for name in figures.PANELS)]


def curves(result: dict, history: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the curves for `dvc plots`; the column `combination` names the run."""
    folder = paths.results(result["variant"], result["backbone"])
    recalls = [(k, round(100 * recall, 4)) for k, recall in result["recall"].items()]
    tables = {
        "training": history,
        "recall_at_k": pd.DataFrame(recalls, columns=["k", "recall"]),
        "ensemble_size": reading.read_table(folder / "ensemble_size.csv", CURVE, "evaluate", numbers=CURVE),
    }
    named = f"{result['variant']}/{naming.name(result)}"
    return {name: table.assign(combination=named) for name, table in tables.items()}


def flat(result: dict) -> dict[str, float]:
    """Return the figures for `dvc metrics`, in percent with two decimals."""
    flattened = {f"recall_at_{k}": round(100 * recall, 2) for k, recall in result["recall"].items()}
    flattened |= {name: round(100 * result[name], 2) for name in ledger.titles(result)}
    if result["untrained"]:
        untrained = result["untrained"]["recall"]
        flattened |= {f"untrained_recall_at_{k}": round(100 * recall, 2) for k, recall in untrained.items()}
    return flattened


if __name__ == "__main__":
    command.run(main, "--check")
