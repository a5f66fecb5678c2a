"""Stage train: train an ensemble with the paper's recipe; the last epoch is kept.

Killed and started again, it goes on from its last checkpoint.
"""

import time

import torch

from lrec import (
    checkpoint,
    command,
    device,
    files,
    fit,
    meta_classes,
    model,
    params,
    paths,
    runs,
    store,
    unfinished,
    weights,
)


def main(variant: str, backbone: str) -> None:
    """Write models/<variant>/<backbone>/ and history/<variant>/<backbone>.csv."""
    settings = params.load()
    chosen, recipe = settings.variant(variant), settings.train_of(variant)
    packed = store.open_store(paths.store(variant))
    rows = packed.rows(store.TRAIN)
    shape = chosen.meta_class_size, chosen.ensemble_size
    groups = meta_classes.read(paths.meta_classes(variant), packed.train_classes(), *shape)
    where = device.choose(recipe.device)
    own = ", ".join(f"{key} {value}" for key, value in chosen.train.items())
    print(f"{variant}/{backbone}: training on {device.describe(where)}" + (f"; of its own: {own}" if own else ""))

    machine = {"device", "workers", "checkpoint_minutes"}
    used = {
        "image_size": chosen.image_size,
        "crop": chosen.crop,
        "resize": chosen.resize,
        "normalization": packed.normalization(chosen.model_dump()["normalize"]),
        "epochs": chosen.epochs,
        **recipe.model_dump(exclude=machine),
        "weights": weights.describe(backbone, recipe.weights),
        "data": runs.digest([paths.store(variant) / store.INDEX, paths.store(variant) / store.DATASET]),
        "code": runs.code_digest(),
    }
    folder = paths.unfinished("train", variant, backbone)
    name = unfinished.digest([shape, groups.tolist(), used, torch.__version__])
    start = time.monotonic()
    with unfinished.locked(folder):
        saved = checkpoint.Checkpoint(folder / f"{name}.safetensors", recipe.checkpoint_minutes)
        ensemble = model.Ensemble(
            backbone, chosen.ensemble_size, chosen.meta_class_size, recipe.weights, seed=recipe.seed, share=recipe.share
        )
        history = fit.fit(
            ensemble,
            packed.images,
            rows,
            groups[:, packed.labels(rows)],
            used["normalization"],
            fit.Recipe(epochs=chosen.epochs, **recipe.model_dump(exclude=machine | {"weights", "share"})),
            device=where,
            workers=recipe.workers,
            checkpoint=saved,
        )
        config = model.save(ensemble, paths.model(variant, backbone), used)
        files.write_table(paths.history(variant, backbone), history)
        runs.record(paths.run_record(variant, backbone), config, time.monotonic() - start, device.describe(where))
        saved.remove()


if __name__ == "__main__":
    command.run(main, "variant", "backbone")
