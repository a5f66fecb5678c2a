"""Stage report: gather every combination's result into metrics/, the README's tables and figures, and a page.

--check writes nothing and fails when the README's tables are not those of metrics/benchmarks.md.
"""

import shutil
from pathlib import Path

import pandas as pd

from lrec import params, paths, reference
from lrec.io import command, files, locks, provenance, reading
from lrec.io.text import escaped
from lrec.model.backbones import BACKBONES
from lrec.report import diagram, figures, ledger, model_size, page, tables

HISTORY = ("epoch", "learning_rate", "loss", "accuracy")
CURVE = ("branches", "subsets", "recall_at_1")


def outputs(check: bool) -> list[Path]:
    """Return what is written, or pruned; nothing by a check."""
    pictures = [paths.ARCHITECTURE, *(paths.figure(name) for name in figures.PANELS)]
    return [] if check else [paths.TABLES.parent, paths.README, paths.RESULTS, paths.HISTORY, paths.REPORT, *pictures]


@locks.holding(writes=outputs)
def main(check: bool) -> None:
    """Write metrics/, report/, the figures in data/, and the README between its markers."""
    readme = reading.read_text(paths.README, reading.COMMITTED)
    if check:
        if tables.insert(readme, reading.read_text(paths.TABLES, "report")) != readme:
            raise ValueError(f"{paths.README}: its tables are not those of {paths.TABLES}; run python -m stages.report")
        return
    tables.insert(readme, "")  # without markers nothing is written
    settings = params.load()
    known = ledger.read(paths.LEDGER)
    listed, models, shown, plots = {}, {}, [], {}
    for variant in settings.datasets:
        for backbone in settings.backbones:
            result = ledger.read_result(paths.result(variant, backbone), variant, backbone)
            history = reading.read_table(paths.history(variant, backbone), HISTORY, "train", numbers=HISTORY)
            run = provenance.find(paths.run_record(variant, backbone), result["settings"])
            if not ledger.upsert(known, result, run and run | {"epochs": len(history)}):
                print(f"{variant}/{backbone}: reproduces its entry in {paths.LEDGER}, which stays")
            listed.setdefault(variant, {})[ledger.metric(result)] = flat(result)
            folder = paths.examples(variant, backbone)
            found = page.read_examples(folder / paths.EXAMPLES)
            shown.append(page.Combination(result, history, found, folder))
            models.setdefault(variant, {})[ledger.name(result)] = paths.model(variant, backbone)
            for name, table in curves(result, history).items():
                plots.setdefault(name, []).append(table)
    known = ledger.ordered(known)
    for variant in reference.VARIANTS:  # so that nothing is written if a figure cannot be drawn
        figures.rows(variant, paths.REFERENCE, known.get(variant, {}))
    rendered = render(settings, known, models)
    prune(settings)
    files.write_json(paths.RECALL, listed)
    for name, found in plots.items():
        files.write_table(paths.TABLES.with_name(f"{name}.csv"), pd.concat(found))
    ledger.write(paths.LEDGER, known)
    files.write_text(paths.TABLES, rendered)
    # Read again: someone may have written in it meanwhile.
    files.write_text(paths.README, tables.insert(reading.read_text(paths.README, reading.COMMITTED), rendered))
    pictures = draw(known)
    files.write_text(paths.REPORT, page.render(shown, known, rendered, pictures))
    combinations = sum(len(entries) for entries in known.values())
    print(f"{paths.TABLES}: {combinations} combinations; README updated; page: {paths.REPORT}")


def prune(settings: params.Params) -> None:
    """Remove results and histories of combinations that are not listed from the working tree.

    This stage depends on both folders as they are; what lies there from another selection would make the
    same run look like a different one. DVC's cache and the ledger keep them.
    """
    listed = {(variant, backbone) for variant in settings.datasets for backbone in settings.backbones}
    for path in [*paths.RESULTS.glob("*/*"), *paths.HISTORY.glob("*/*.csv")]:
        if (path.parent.name, path.name.removesuffix(".csv")) not in listed:
            print(escaped(f"{path}: not listed in params.yaml, removed; it stays in DVC's cache"))
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def draw(known: ledger.Ledger) -> list[Path]:
    """Draw the figures; return their paths."""
    size = reference.ENSEMBLE_SIZE, reference.META_CLASS_SIZE["car"], reference.IMAGE_SIZE
    diagram.draw(paths.ARCHITECTURE, "resnet18", *size)
    for name, variants in figures.PANELS.items():
        figures.comparison(paths.figure(name), variants, paths.REFERENCE, known)
    return [paths.ARCHITECTURE, *(paths.figure(name) for name in figures.PANELS)]


def curves(result: dict, history: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the curves for `dvc plots`, each with a column that names the combination."""
    folder = paths.results(result["variant"], result["backbone"])
    recalls = [(k, round(100 * share, 4)) for k, share in result["recall"].items()]
    found = {
        "training": history,
        "recall_at_k": pd.DataFrame(recalls, columns=["k", "recall"]),
        "ensemble_size": reading.read_table(folder / "ensemble_size.csv", CURVE, "evaluate", numbers=CURVE),
    }
    named = f"{result['variant']}/{ledger.name(result)}"
    return {name: table.assign(combination=named) for name, table in found.items()}


def flat(result: dict) -> dict[str, float]:
    """Return the figures for `dvc metrics`, percent with two decimals."""
    flattened = {f"recall_at_{k}": round(100 * share, 2) for k, share in result["recall"].items()}
    flattened |= {name: round(100 * result[name], 2) for name in ("map_at_r", "r_precision")}
    if result["untrained"]:
        untrained = result["untrained"]["recall"]
        flattened |= {f"untrained_recall_at_{k}": round(100 * share, 2) for k, share in untrained.items()}
    return flattened


def render(settings: params.Params, known: ledger.Ledger, models: dict[str, dict[str, Path]]) -> str:
    """Return all tables: model parameters, recalls per variant of params.yaml or the ledger, and analyses.

    Args:
        settings: with the variants.
        known: the ledger.
        models: folders of the models that this run made: {variant: {name: folder}}.
    """
    parts = [
        "### Model parameters",
        tables.parameter_table(list(BACKBONES), model_size.count_parameters, model_size.count_macs),
    ]
    for variant in dict.fromkeys([*settings.variants, *known]):
        entries = known.get(variant, {})
        if variant in reference.VARIANTS or entries:
            ks = settings.variants[variant].recall_at if variant in settings.variants else _cutoffs(entries)
            parts.append(tables.recall_table(variant, entries, ks, paths.REFERENCE, models.get(variant, {})))
    parts += [tables.ensemble_table(known), tables.compression_table(known)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cutoffs(entries: dict[str, dict]) -> list[int]:
    return sorted({int(k) for entry in entries.values() for k in entry["recall"]})


if __name__ == "__main__":
    command.run(main, "--check")
