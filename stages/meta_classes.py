"""Stage meta_classes: assign the training classes to random, balanced meta classes, separately for each branch."""

from pathlib import Path

from lrec import params, paths
from lrec.data import meta_classes, store
from lrec.io import command, given, locks, reading


@locks.holding(
    writes=lambda variant: [paths.meta_classes(variant)],
    reads=lambda variant: [paths.store(variant)],
)
def main(variant: str) -> None:
    """Write data/meta_classes/<variant>.csv."""
    settings = params.load()
    given_keys = given.changed(settings.meta_classes.model_dump(), "meta_classes", f"meta_classes@{variant}")
    for line in settings.unused("meta_classes", given_keys):
        command.warn(line)
    chosen = settings.variant(variant)
    classes = store.train_classes(store.read_index(paths.store(variant) / store.INDEX))
    size, branches = meta_classes.size(chosen.meta_class_size, len(classes)), chosen.ensemble_size
    reuse = settings.meta_classes.load_ids
    if reuse:
        groups = meta_classes.read(Path(reuse), classes, size, branches, reading.GIVEN)
    else:
        groups = meta_classes.assign(len(classes), size, branches, settings.meta_classes.seed)
    meta_classes.write(paths.meta_classes(variant), classes, groups)
    source = f"reused from {reuse}" if reuse else f"drawn with seed {settings.meta_classes.seed}"
    print(f"{variant}: {len(classes)} classes in {size} meta classes for each of {branches} branches, {source}")


if __name__ == "__main__":
    command.run(main, "variant")
