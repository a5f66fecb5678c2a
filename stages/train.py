"""Stage train: train an ensemble with the original's recipe or another; the last epoch is kept.

A killed run resumes from its last checkpoint. Several processes divide the work: as many as machine.processes
says, or as torchrun starts: torchrun --nproc_per_node 2 -m stages.train <variant> <backbone>
"""

from pathlib import Path

import torch

from lrec import params, paths
from lrec.compute import allocator, collective, device, launch
from lrec.data import meta_classes, store
from lrec.data.batches import Images
from lrec.io import command, files, given, hashing, locks, provenance
from lrec.model import saved, weights
from lrec.model.classifiers import Classifier
from lrec.model.ensemble import Ensemble
from lrec.training import checkpoint, distillation, validation
from lrec.training.loop import Machine, fit
from lrec.training.losses import LOSSES
from lrec.training.recipe import Recipe
from lrec.training.state import kept_epoch
from lrec.training.step import collect

# The packages whose code the trained network depends on.
CODE = ("compute", "data", "model", "training")


@locks.holding(
    writes=lambda *of: [paths.model(*of), paths.history(*of), paths.run_record(*of), paths.unfinished("train", *of)],
    reads=lambda variant, _: [paths.store(variant), paths.meta_classes(variant)],
)
def main(variant: str, backbone: str) -> None:
    """Write models/<variant>/<backbone>/ and history/<variant>/<backbone>.csv."""
    allocator.keep_freed_memory()
    settings = params.load()
    chosen, recipe, machine = settings.variant(variant), settings.train_of(variant), settings.machine
    packed = store.open_store(paths.store(variant))
    classes = packed.train_classes()
    shape = meta_classes.size(chosen.meta_class_size, len(classes)), chosen.ensemble_size
    groups = meta_classes.read(paths.meta_classes(variant), classes, *shape)
    processes = launch.number(machine.processes)
    if processes > 1 and not collective.started():
        launch.run("stages.train", [variant, backbone], processes)
        return
    own = range(chosen.ensemble_size)
    if recipe.parallel == "ensemble":
        own = collective.shard(chosen.ensemble_size)
    if not own:
        raise ValueError(
            f"machine.processes: found {collective.count()}, expected at most {chosen.ensemble_size}, one per branch; "
            "lower it, or set train.parallel to data"
        )
    where = collective.device(machine.device)
    decided: dict[str, object] = {"precision": device.choose_precision(where, recipe.precision)}
    loss = LOSSES[recipe.loss]
    if loss.is_metric:
        decided["classifier"] = "linear"  # its head is a linear map to the embedding, whatever the recipe says
    recipe = recipe.model_copy(update=decided)
    ours = ", ".join(f"{key} {value}" for key, value in settings.overrides(variant).items())
    together = f" in {collective.count()} processes, {recipe.parallel} parallel" if collective.count() > 1 else ""
    if collective.rank() == 0:
        given_keys = given.changed(settings.train.model_dump(), "train", f"train@{variant}-{backbone}")
        for line in settings.without_effect(variant, given_keys):
            command.warn(line)
        how = f"in {recipe.precision} on {device.describe(where)}{together}"
        print(f"{variant}/{backbone}: training {how}; recipe {recipe.recipe}{ours and f' with {ours}'}")

    normalization = packed.normalization(chosen.model_dump()["normalize"])
    outputs, teacher = recipe.embedding_size if loss.is_metric else shape[0], None
    with collective.together(where), device.arithmetic(where, recipe.tf32, machine.deterministic):
        if loss.taught:
            teacher = distillation.Teacher(Path(recipe.teacher), chosen.image_size, normalization, where)
            outputs = teacher.dimensions
        used = {
            "image_size": chosen.image_size,
            "crop": chosen.crop,
            "resize": chosen.resize,
            "normalization": normalization,
            "epochs": chosen.epochs,
            "meta_class_size": shape[0],
            "meta_classes": hashing.of_value(groups.tolist()),
            **recipe.model_dump(),
            "weights": weights.describe(backbone, recipe.weights),
            **({"teacher": teacher.record, "teacher_macs": teacher.macs} if teacher else {}),
            "data": store.digest(paths.store(variant)),
            "code": provenance.code_digest(CODE),
        }
        images = Images(packed.images, packed.rows(store.TRAIN), **normalization)
        labels = packed.labels(images.rows)
        out = validation.hold_out(labels, recipe.validation_share, recipe.seed)
        held = validation.Held(images.some(out), labels[out]) if out.any() else None
        folder = paths.unfinished("train", variant, backbone)
        name = hashing.of_value([shape, groups.tolist(), used, torch.__version__])
        progress = checkpoint.Checkpoint(folder / name, machine.checkpoint_minutes)
        if progress.other:
            print(f"{progress.other}: the checkpoint of a training with other settings stays; delete it for room")
        classifier = Classifier(recipe.classifier, recipe.scale)
        options = {"seed": recipe.seed, "share": recipe.share, "own": own, "classifier": classifier}
        ensemble = Ensemble(backbone, chosen.ensemble_size, outputs, recipe.weights, **options)
        # Of the next stage, but here no work is lost.
        settings.require_dimensions(len(images), ensemble.width(settings.embed.kind))
        history = fit(
            ensemble,
            images.some(~out),
            groups[:, labels[~out]],
            Recipe.of(recipe.model_dump(), chosen.epochs),
            held=held,
            machine=Machine(where, machine.workers, machine.branches_at_once),
            checkpoint=progress,
            teacher=teacher,
        )
        if recipe.parallel == "ensemble":
            collect(ensemble)
        if collective.rank() == 0:
            if held and chosen.epochs:
                used["kept_epoch"] = kept_epoch(history.to_numpy().tolist())
            config = saved.save(ensemble, paths.model(variant, backbone), used)
            files.write_table(paths.history(variant, backbone), history)
            provenance.record(
                paths.run_record(variant, backbone), config, progress.spent(), device.describe(where) + together
            )
            progress.remove()


if __name__ == "__main__":
    command.run(main, "variant", "backbone", lower="train.batch_size or the variant's ensemble_size")
