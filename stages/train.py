"""Stage train: train an ensemble with the paper's recipe; the last epoch is kept.

Killed and started again, it goes on from its last checkpoint. Several processes share the work: as many as
train.processes says, or as torchrun starts: torchrun --nproc_per_node 2 -m stages.train <variant> <backbone>
"""

from dataclasses import fields

import torch

from lrec import (
    allocator,
    checkpoint,
    collective,
    command,
    device,
    files,
    fit,
    launch,
    locks,
    meta_classes,
    model,
    params,
    paths,
    runs,
    store,
    train,
    unfinished,
    validation,
    weights,
)
from lrec.recipe import Recipe, kept_epoch

# What a training's result does not depend on, floating-point noise apart.
MACHINE = {"device", "workers", "checkpoint_minutes", "processes", "branches_at_once", "deterministic"}


@locks.holding(
    writes=lambda *of: [paths.model(*of), paths.history(*of), paths.run_record(*of), paths.unfinished("train", *of)],
    reads=lambda variant, _: [paths.store(variant), paths.meta_classes(variant)],
)
def main(variant: str, backbone: str) -> None:
    """Write models/<variant>/<backbone>/ and history/<variant>/<backbone>.csv."""
    allocator.keep_freed_memory()
    settings = params.load()
    chosen, recipe = settings.variant(variant), settings.train_of(variant)
    packed = store.open_store(paths.store(variant))
    shape = chosen.meta_class_size, chosen.ensemble_size
    groups = meta_classes.read(paths.meta_classes(variant), packed.train_classes(), *shape)
    processes = launch.number(recipe.processes)
    if processes > 1 and not collective.started():
        launch.run("stages.train", [variant, backbone], processes)
        return
    own = range(chosen.ensemble_size)
    if recipe.parallel == "ensemble":
        own = collective.share(chosen.ensemble_size)
    if not own:
        raise ValueError(
            f"train.processes: found {collective.count()}, expected at most {chosen.ensemble_size}, one per branch; "
            "lower it, or set train.parallel to data"
        )
    where = collective.device(device.choose(recipe.device))
    device.require_native(where, recipe.precision)
    ours = ", ".join(f"{key} {value}" for key, value in chosen.train.items())
    together = f" in {collective.count()} processes, {recipe.parallel} parallel" if collective.count() > 1 else ""
    if collective.rank() == 0:
        print(f"{variant}/{backbone}: training on {device.describe(where)}{together}; of its own: {ours or 'nothing'}")

    used = {
        "image_size": chosen.image_size,
        "crop": chosen.crop,
        "resize": chosen.resize,
        "normalization": packed.normalization(chosen.model_dump()["normalize"]),
        "epochs": chosen.epochs,
        **recipe.model_dump(exclude=MACHINE),
        "weights": weights.describe(backbone, recipe.weights),
        "data": runs.digest([paths.store(variant) / store.INDEX, paths.store(variant) / store.DATASET]),
        "code": runs.code_digest(),
    }
    rows = packed.rows(store.TRAIN)
    out = validation.hold_out(packed.labels(rows), recipe.validation_share, recipe.seed)
    held = fit.Held(rows[out], packed.labels(rows[out])) if out.any() else None
    folder = paths.unfinished("train", variant, backbone)
    name = unfinished.digest([shape, groups.tolist(), used, torch.__version__])
    with collective.together(where), device.arithmetic(where, recipe.tf32, recipe.deterministic):
        saved = checkpoint.Checkpoint(folder / name, recipe.checkpoint_minutes)
        size = chosen.ensemble_size, chosen.meta_class_size
        ensemble = model.Ensemble(backbone, *size, recipe.weights, seed=recipe.seed, share=recipe.share, own=own)
        history = fit.fit(
            ensemble,
            packed.images,
            rows[~out],
            groups[:, packed.labels(rows[~out])],
            used["normalization"],
            Recipe(epochs=chosen.epochs, **recipe.model_dump(include={field.name for field in fields(Recipe)})),
            held=held,
            device=where,
            workers=recipe.workers,
            checkpoint=saved,
        )
        if recipe.parallel == "ensemble":
            train.collect(ensemble)
        if collective.rank() == 0:
            if held:
                used["kept_epoch"] = kept_epoch(history.to_numpy().tolist())
            config = model.save(ensemble, paths.model(variant, backbone), used)
            files.write_table(paths.history(variant, backbone), history)
            runs.record(paths.run_record(variant, backbone), config, saved.spent(), device.describe(where) + together)
            saved.remove()


if __name__ == "__main__":
    command.run(main, "variant", "backbone", lower="train.batch_size or the variant's ensemble_size")
