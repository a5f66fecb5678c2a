"""Compare ensembles with single networks at equal training compute: the runs of benchmarks/study.yaml.

    python -m benchmarks.study --list                       # which runs are done, and what is left
    python -m benchmarks.study --draw docs/study.png
    LREC_DATA=/a/folder python -m benchmarks.study --weights /a/mobilenet_v2.pth

Each run is a DVC experiment. Settings are chosen by runs that hold out training classes (`choices`): these are trained
but not tested, and compared by their recall on the held-out classes. The chosen settings are trained on all training
classes (`finalists`), and evaluated once on the test classes. A budget of 1 is the training compute of one network in
six epochs. The epochs of an ensemble follow from its multiply-accumulates, three times those of a forward pass per
image. A stopped run resumes; runs in metrics/study.csv are not repeated. Use a separate clone, because experiments
change the working tree. `benchmarks/subsets.py` writes the small subsets.
"""

import argparse
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lrec import params, paths
from lrec.data import store
from lrec.io import files, strict_yaml
from lrec.model import saved
from lrec.model.backbones import SHARE
from lrec.report import curves, figures, ledger, model_size, naming

RUNS, TABLE = Path("benchmarks/study.yaml"), Path("metrics/study.csv")
EPOCHS = 6  # for one network at a budget of 1
WHITENED = 512
AXES = ("train_tmacs", "embed_mmacs")
PANELS = {
    "train_tmacs": ("training, 10¹² multiply-accumulates", (5, 10, 20, 40, 80)),
    "embed_mmacs": ("an image, 10⁶ multiply-accumulates", (100, 200, 400, 800)),
    "bytes": ("bytes of an embedding", (64, 512, 2048, 20480)),
}
AVERAGE, STUDENT = "average of the branches", "student"
MARKERS = {"one network": "o", "ensemble": "D", "shipped": "^", "original's loss": "s"}


def runs_of(study: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the runs of a kind, `choices` or `finalists`, in order: those with seed 0, then those with other seeds."""
    more = [
        run | {"name": f"{run['name']}-seed-{seed}", "set": {**run["set"], "train.seed": seed}}
        for run in study[kind]
        for seed in run.get("seeds", [])
    ]
    return [*study[kind], *more]


def set_of(study: dict[str, Any], run: dict[str, Any]) -> str:
    """Return the variant on which a run is trained."""
    return run.get("on", next(iter(study["sets"])))


def settings_of(study: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that a run sets, including the epochs that its budget allows."""
    variant, backbone = set_of(study, run), study["backbone"]
    prefix = f"variants.{variant}"
    found = {f"{prefix}.{key}": value for key, value in study["sets"][variant].items()}
    for key, value in {**study["common"], **run.get("set", {})}.items():
        found[re.sub("^variant(?=[.])", prefix, key)] = value
    size = found[f"{prefix}.image_size"]

    def macs(branches: int, share: str) -> int:
        return model_size.count_macs(backbone, branches, 2, size, share)

    one, whole = macs(1, SHARE), macs(found[f"{prefix}.ensemble_size"], found.get("train.share", SHARE))
    found[f"{prefix}.epochs"] = max(1, round(EPOCHS * run["budget"] * one / whole))
    return found


def held_out(study: dict[str, Any], run: dict[str, Any]) -> float:
    """Return the fraction of the training classes that a run holds out."""
    return run.get("held_out", study["held_out"]["train.validation_share"])


def command(study: dict[str, Any], kind: str, run: dict[str, Any], weights: str) -> list[str]:
    """Return the DVC command for a run."""
    variant, backbone = set_of(study, run), study["backbone"]
    target = [f"train@{variant}-{backbone}"] if kind == "choices" else []
    found = settings_of(study, run) | {"train.weights": weights, "datasets": [variant], "backbones": [backbone]}
    if kind == "choices":
        found |= study["held_out"] | {"train.validation_share": held_out(study, run)}
    new = "++" if "layout" in study["sets"][variant] else ""  # for a variant that is not in params.yaml
    changes = [f"{new if key.startswith('variants.') else ''}{key}={written(value)}" for key, value in found.items()]
    return [
        "dvc",
        "exp",
        "run",
        *target,
        "-f",  # an earlier attempt may have ended before its figures were written
        "-n",
        f"study-{run['name']}",
        *(x for c in changes for x in ("-S", c)),
    ]


def written(value: Any) -> str:
    """Format a value for `dvc exp run -S`.

    >>> written("/a/{backbone} 1.pth"), written([1, 2]), written(2.0e-4), written(True)
    ('"/a/{backbone} 1.pth"', '[1,2]', '0.0002', 'true')
    """
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def row(study: dict[str, Any], kind: str, run: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of the run whose outputs are in the working tree."""
    variant, backbone = set_of(study, run), study["backbone"]
    config = saved.read_config(paths.model(variant, backbone))
    record = json.loads(paths.run_record(variant, backbone).read_text(encoding="utf-8"))
    history = pd.read_csv(paths.history(variant, backbone))
    images = len(store.open_store(paths.store(variant)).rows(store.TRAIN))
    if kind == "choices":
        images = round(images * (1 - held_out(study, run)))
    image, training = model_size.compute(
        {"backbone": backbone, "settings": config, "counts": {"train": [images]}, "run": {}}
    )
    found = {
        "name": run["name"],
        "on": variant,
        "kind": kind.removesuffix("s"),
        "family": run["family"],
        "budget": run["budget"],
        "epochs": config["epochs"],
        "branches": config["ensemble_size"],
        "outputs": saved.outputs(config),
        "share": config["share"],
        "classifier": config["classifier"],
        "loss": config["loss"],
        "seed": config["seed"],
        "embed_mmacs": round(image / 1e6, 1),
        "train_tmacs": round(training / 1e12, 2),
        "seconds": record["seconds"],
        "commit": (record["commit"] or "")[:10],
    }
    if kind == "choices":
        recall = round(history["validation_recall_at_1"].iloc[-1], 2)
        return found | {"held_out": held_out(study, run), "held_out_recall_at_1": recall}
    result = ledger.read_result(paths.result(variant, backbone), variant, backbone)
    codes = {code["code"]: code for code in result["analysis"]["compression"]}
    whitened = codes.get(f"pca {WHITENED} whitened", {})
    low, high = result["recall_at_1_interval"]
    return found | {
        "dimensions": result["embedding"]["dimensions"],
        "recall_at_1": round(100 * result["recall"]["1"], 2),
        "interval": f"{100 * low:.1f}-{100 * high:.1f}",
        "map_at_r": round(100 * result["map_at_r"], 2),
        "whitened_recall_at_1": whitened.get("recall_at_1"),
        "whitened_map_at_r": whitened.get("map_at_r"),
    }


def points(table: pd.DataFrame, variant: str, known: dict[str, Any]) -> pd.DataFrame:
    """Return the points of the figure: label, family, costs, recall at 1 on the test classes, and code if any.

    Finalists have two points, of the whole and of the whitened embedding, with the mean recall over their seeds. Runs
    of the original's loss and embeddings for shipping are taken from the ledger. The latter are codes of whitened
    embeddings, and the average of the branches and students, whose training compute is missing, because they need that
    of another run as well.

    Args:
        table: the table of the study.
        variant: the variant whose runs are drawn.
        known: the ledger's entries of the variant.
    """
    shown = []
    finalists = table[(table["kind"] == "finalist") & (table["on"] == variant)]
    for _, seeds in finalists.groupby(finalists["name"].str.replace("-seed-[0-9]+$", "", regex=True), sort=False):
        run = seeds.iloc[0]
        full = {"bytes": 4 * run["dimensions"], "recall": seeds["recall_at_1"].mean()}
        whitened = {"bytes": 4 * WHITENED, "recall": seeds["whitened_recall_at_1"].mean()}
        who = "one network" if run["branches"] == 1 else f"M={run['branches']:.0f}"
        loss = run["classifier"] if run["loss"] == "cross_entropy" else run["loss"].replace("_", " ")
        point = {"label": f"{who}, {loss}, {run['budget']:g}x"} | {key: run[key] for key in ("family", *AXES)}
        shown += [point | code for code in (full, whitened)]
    for entry in (entry for entry in known.values() if entry["kind"] == "features"):
        used = entry["settings"]
        if entry["embedding"].get("reduce") == "whitened":
            family, codes = "shipped", ("float32", "int8", "binary")
            own = f"M={used['ensemble_size']}, whitened" if used["epochs"] else AVERAGE
            label = STUDENT if used.get("teacher") else own
        elif naming.learns_as_original(entry):
            family, codes = "original's loss", ("float32", f"pca {WHITENED} whitened")
            label = f"original, M={used['ensemble_size']}"
        else:
            continue
        image, training = model_size.compute(entry)
        known_training = label not in (AVERAGE, STUDENT)
        costs = {"embed_mmacs": image / 1e6, "train_tmacs": training / 1e12 if known_training else float("nan")}
        found = {code["code"]: code for code in entry["analysis"]["compression"]}
        shown += [
            {"label": label, "family": family, **costs}
            | {"bytes": found[code]["bytes"], "recall": found[code]["recall_at_1"], "code": code}
            for code in codes
        ]
    table, axes = pd.DataFrame(shown), list(AXES)
    # With more digits, the cost of a head or a reduction would make a point look cheaper than another.
    table[axes] = table[axes].map(lambda cost: float(f"{cost:.3g}"))
    return table


def draw(path: Path, shown: pd.DataFrame) -> None:
    """Draw `points` over training compute, embedding compute and bytes.

    A line joins the Pareto points. Such a point is labelled if its recall exceeds that of the previous label by at
    least 0.5 percentage points. Of points with the same label, such as runs with and without warm-up, only the best is
    drawn.
    """
    ordered = shown.sort_values("recall")
    best = ordered.drop_duplicates("label", keep="last")
    with figures.style():
        figure = Figure(figsize=(12, 4.2), layout="constrained")
        for axes, (column, (label, ticks)) in zip(figure.subplots(1, 3, sharey=True), PANELS.items(), strict=True):
            drawn = ordered.drop_duplicates(["label", "bytes"], keep="last") if column == "bytes" else best
            drawn = drawn.dropna(subset=column)
            for family, marker in MARKERS.items():
                rows = drawn[drawn["family"] == family]
                axes.plot(rows[column], rows["recall"], marker, label=family, markersize=5)
            line = pd.DataFrame(curves.front(drawn.to_dict("records"), column, "recall"))
            axes.plot(line[column], line["recall"], color=figures.FAINT, linewidth=1, zorder=0)
            named = float("-inf")
            for _, row in line.iterrows():
                if row["recall"] < named + 0.5:
                    continue
                named = row["recall"]
                place = (row[column], row["recall"])
                is_code = column == "bytes" and row["code"] in ("int8", "binary")
                text = f"{row['label']}, {row['code']}" if is_code else row["label"]
                # No point is cheaper and better than a Pareto point, so this side of it is free.
                axes.annotate(text, place, (-5, 4), textcoords="offset points", ha="right", fontsize=7)
            axes.set(xscale="log", xlabel=label)
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axes.set_xticks([], minor=True)
            axes.margins(0.1)
            low, high = axes.get_xlim()
            axes.set_xlim(low * (low / high) ** 0.45, high)  # room for the labels
        figure.axes[0].set_ylabel("R@1, percent")
        figure.axes[0].legend(loc="lower right", frameon=False)
        figures.save(figure, path)


def main() -> None:
    """Parse the command line; run the missing runs in order."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--list", action="store_true", help="list the runs that are done and left, and run nothing")
    parser.add_argument("--draw", type=Path, help="draw the table as a figure (PNG), and run nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run only these, in the order of study.yaml")
    parser.add_argument("--weights", default="imagenet", help="starting weights, as in params.yaml")
    parser.add_argument("--table", type=Path, default=TABLE, help="CSV to append to (default: metrics/study.csv)")
    options = parser.parse_args()
    study = strict_yaml.read(RUNS)
    params.load()
    done = pd.read_csv(options.table) if options.table.exists() else pd.DataFrame({"name": []})
    if options.draw:
        variant = next(iter(study["sets"]))
        draw(options.draw, points(done, variant, ledger.read(paths.LEDGER)[variant]))
        return
    for kind in ("choices", "finalists"):
        for run in runs_of(study, kind):
            is_done = run["name"] in set(done["name"])
            if options.list:
                print(f"{'done' if is_done else 'left'}  {kind:10}  {run['name']}")
                continue
            if is_done or options.only and run["name"] not in options.only:
                continue
            # Restored from the commit, because a killed run leaves its parameters in the index as well.
            subprocess.run(["git", "checkout", "--quiet", "HEAD", "--", "params.yaml", "dvc.lock"], check=True)
            subprocess.run(command(study, kind, run, options.weights), check=True)
            done = pd.concat([done, pd.DataFrame([row(study, kind, run)])], ignore_index=True)
            files.write_table(options.table, done)


if __name__ == "__main__":
    main()
