"""Stage evaluate: exact metrics of the embeddings, after and before training, and analyses of the ensemble."""

from pathlib import Path

import numpy as np

from lrec import class_names, params, paths
from lrec.compute import device
from lrec.data import store
from lrec.embedding import audit
from lrec.evaluation import class_recall, ensemble_size, examples, result, task
from lrec.io import command, files, given, locks, splits
from lrec.model import saved

# Keys of embedding.json that are not settings.
DIGESTS = ("audit", "weights", "data", "reduction", "graph")


@locks.holding(
    writes=lambda *of: [paths.results(*of)],
    reads=lambda variant, backbone: [
        paths.store(variant),
        paths.model(variant, backbone),
        paths.embeddings(variant, backbone),
    ],
)
def main(variant: str, backbone: str) -> None:
    """Write results/<variant>/<backbone>/: result.json and the tables of classes, confusions and branches."""
    settings = params.load()
    chosen, ks = settings.evaluate, settings.variant(variant).recall_at
    given_keys = given.changed(chosen.model_dump(), "evaluate", f"evaluate@{variant}-{backbone}")
    for line in settings.unused("evaluate", given_keys):
        command.warn(line)
    facts = audit.read(paths.embedding_facts(variant, backbone))
    folder = paths.embeddings(variant, backbone)
    audit.require(facts["audit"], chosen.audit_tolerance, str(folder))
    packed = store.open_store(paths.store(variant))
    index = packed.index
    dataset = store.read_facts(paths.store(variant))
    config = saved.read_config(paths.model(variant, backbone))
    analyses = chosen.model_dump(include={"analysis_images", "subsets", "pca_dimensions"})
    where = device.choose(settings.machine.device)

    trained, untrained = task.read(folder, index), task.find(folder, index, "untrained_")
    train, _ = task.read_split(folder / f"{store.TRAIN}.npy", index, store.TRAIN)
    branches, reduced = config["ensemble_size"], "reduce" in facts
    require_width(facts["dimensions"], 1 if reduced else branches, folder, trained.query, train)
    retrieval = trained.evaluate(ks, where)
    before = result.figures(untrained, untrained.evaluate(ks, where)) if untrained else None
    names = dict(zip(index["label"], index["class"], strict=True))
    classes = class_recall.per_class(retrieval.best_rank, trained.query_labels, names, ks)
    analysis, sets = {}, ensemble_size.whole(retrieval, branches)
    if chosen.analysis_images:
        analysis, sets = result.analyse(trained, train, branches, **analyses, reduced=reduced, device=where)
    measured = {
        "variant": variant,
        "backbone": backbone,
        "kind": facts["kind"],
        **result.figures(trained, retrieval),
        "titles": result.titles(),
        "untrained": before,
        "counts": dataset["counts"],
        "official": dataset["official"],
        "partial": dataset["partial"],
        "embedding": {key: value for key, value in facts.items() if key not in DIGESTS},
        "audit": facts["audit"],
        "evaluation": analyses,
        **class_recall.extremes(classes),
        "analysis": analysis,
        "settings": config,
    }
    confusions = class_recall.confusions(trained, retrieval.best_rank, names, where)
    with files.atomic_folder(paths.results(variant, backbone)) as target:
        files.write_table(target / "classes.csv", class_names.for_spreadsheet(classes))
        files.write_table(target / "confusions.csv", class_names.for_spreadsheet(confusions))
        files.write_table(target / "branch_sets.csv", sets)
        files.write_table(target / "ensemble_size.csv", ensemble_size.curve(sets))
        examples.write(trained, packed, target / paths.examples(variant, backbone).name, where)
        files.write_json(target / paths.result(variant, backbone).name, measured)
    if reason := splits.meaningless(dataset["counts"], measured["queries"], measured["lone_queries"]):
        command.warn(f"{variant}/{backbone}: these recalls mean nothing: {reason}")
    for name, some in (("before training", before), ("trained", measured)):
        if some:
            recalls = ", ".join(f"R@{k} {100 * value:.2f}" for k, value in some["recall"].items())
            print(f"{variant}/{backbone}: {name}: {recalls} ({some['queries']:,} queries)")


def require_width(dimensions: int, branches: int, folder: Path, *embeddings: np.ndarray) -> None:
    """Require embeddings of the stored width that can be divided evenly among the branches."""
    widths = sorted({part.shape[1] for part in embeddings} | {dimensions})
    if len(widths) > 1 or dimensions % branches:
        raise ValueError(
            f"{folder}: found embeddings of {' and '.join(map(str, widths))} dimensions for {branches} branches, "
            "expected the number in embedding.json, a multiple of the number of branches; embed again"
        )


if __name__ == "__main__":
    command.run(main, "variant", "backbone", lower="evaluate.analysis_images")
