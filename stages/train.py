"""Stage train: train an ensemble with the paper's recipe; the last epoch is kept."""

import time

from lrec import command, device, files, meta_classes, model, params, paths, runs, store, train


def main(variant: str, backbone: str) -> None:
    """Write models/<variant>/<backbone>/ and history/<variant>/<backbone>.csv."""
    settings = params.load()
    chosen, recipe = settings.variant(variant), settings.train_of(variant)
    packed = store.open_store(paths.store(variant))
    rows = packed.rows(store.TRAIN)
    groups = meta_classes.read(
        paths.meta_classes(variant), packed.train_classes(), chosen.meta_class_size, chosen.ensemble_size
    )
    normalization = packed.normalization(chosen.model_dump()["normalize"])
    where = device.choose(recipe.device)
    own = ", ".join(f"{key} {value}" for key, value in chosen.train.items())
    print(f"{variant}/{backbone}: training on {device.describe(where)}" + (f"; of its own: {own}" if own else ""))

    ensemble = model.Ensemble(
        backbone, chosen.ensemble_size, chosen.meta_class_size, weights=recipe.weights, seed=recipe.seed
    )
    start = time.monotonic()
    history = train.fit(
        ensemble,
        packed.images,
        rows,
        groups[:, packed.labels(rows)],
        normalization,
        epochs=chosen.epochs,
        **recipe.model_dump(exclude={"weights", "device"}),
        device=where,
    )
    used = {
        "image_size": chosen.image_size,
        "crop": chosen.crop,
        "normalization": normalization,
        "epochs": chosen.epochs,
        **recipe.model_dump(exclude={"device", "workers"}),
        "data": runs.digest([paths.store(variant) / store.INDEX, paths.store(variant) / store.DATASET]),
        "code": runs.code_digest(),
    }
    config = model.save(ensemble, paths.model(variant, backbone), used)
    files.write_table(paths.history(variant, backbone), history)
    runs.record(paths.run_record(variant, backbone), config, time.monotonic() - start, device.describe(where))


if __name__ == "__main__":
    command.run(main, "variant", "backbone")
