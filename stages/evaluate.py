"""Stage evaluate: exact Recall@K of the embeddings, trained and untrained."""

from lrec import command, device, evaluate, files, params, paths, store


def main(variant: str, backbone: str) -> None:
    """Write results/<variant>/<backbone>.json."""
    settings = params.load()
    ks = settings.variant(variant).recall_at
    index = store.read_index(paths.store(variant) / store.INDEX)
    folder = paths.embeddings(variant, backbone)
    where = device.choose(settings.evaluate.device)
    trained = evaluate.evaluate(folder, index, ks, device=where)
    untrained = evaluate.evaluate(folder, index, ks, "untrained_", where)
    dataset = files.read_json(paths.store(variant) / store.DATASET, "preprocess")
    result = {
        "variant": variant,
        "backbone": backbone,
        **trained,
        "untrained": untrained,
        "counts": dataset["counts"],
        "official": dataset["official"],
        "partial": dataset["partial"],
        "settings": files.read_json(paths.model(variant, backbone) / "config.json", "train"),
    }
    files.write_json(paths.result(variant, backbone), result)
    for name, found in (("untrained", untrained), ("trained", trained)):
        if found:
            figures = ", ".join(f"R@{k} {100 * share:.2f}" for k, share in found["recall"].items())
            print(f"{variant}/{backbone}: {name}: {figures} ({found['queries']:,} queries)")


if __name__ == "__main__":
    command.run(main, "variant", "backbone")
