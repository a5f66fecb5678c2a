"""Stage preprocess: read a raw data set strictly, decode each image once, and pack all images."""

import os
from functools import partial

import numpy as np
import pandas as pd

from lrec import params, paths, schema
from lrec.data import meta_classes, store
from lrec.datasets import reader
from lrec.datasets.dataset import Dataset, Sample
from lrec.datasets.decoding import crop_and_resize
from lrec.io import command, given, locks


def image(dataset: Dataset, chosen: schema.Variant, sample: Sample) -> np.ndarray:
    """Return an image as it is packed, (S, S, 3) uint8."""
    box = sample.box if chosen.crop == "box" else None
    if chosen.crop == "box" and box is None:
        raise ValueError(f"{sample.path}: found no box, expected one for crop: box; set crop: none in params.yaml")
    try:
        return crop_and_resize(dataset.load(sample), box, chosen.image_size, chosen.resize)
    except ValueError as error:
        raise ValueError(str(error) if sample.path in str(error) else f"{sample.path}: {error}") from error
    except MemoryError as error:
        raise MemoryError(
            f"{dataset.root / sample.path}: out of memory while decoding this image; lower machine.decode_workers "
            "if it is above 1, make the image smaller, or end other programs and run again"
        ) from error


@locks.holding(writes=lambda variant: [paths.store(variant)])
def main(variant: str) -> None:
    """Write data/processed/<variant>/: images.npy, index.csv, dataset.json."""
    settings = params.load()
    chosen = settings.variant(variant)
    root, own = settings.raw_root(), settings.data_root
    if os.environ.get(params.DATA_VARIABLE) and given.changed({"data_root": own}, "", f"preprocess@{variant}"):
        line = f"data_root: {own} has no effect while {params.DATA_VARIABLE} is set to {root}"
        command.warn(line)
    dataset = reader.read(chosen.layout, root, chosen.folder, chosen.image_size)
    is_partial = reader.verify(dataset, variant, settings.allow_partial)
    warnings = reader.require_enough(dataset, variant)
    if not settings.meta_classes.load_ids:
        classes = dataset.counts()[store.TRAIN][1]
        size = meta_classes.size(chosen.meta_class_size, classes)
        meta_classes.require(classes, size, chosen.ensemble_size, f"variants.{variant}.")
    print(f"{variant}: {dataset.found}")
    for split, (images, classes) in dataset.counts().items():
        print(f"{variant}: {split}: {images:,} images of {classes:,} classes")
    for warning in warnings:
        command.warn(f"{variant}: {warning}")
    if is_partial:
        command.warn(f"{variant} is not the whole data set: {reader.differences(dataset)}")
    facts = {
        "found": dataset.found,
        "crop": chosen.crop,
        "resize": chosen.resize,
        "counts": dataset.counts(),
        "official": dataset.official,
        "partial": is_partial,
    }
    store.pack(
        paths.store(variant),
        [partial(image, dataset, chosen, sample) for sample in dataset.samples],
        pd.DataFrame([(s.path, s.class_name, s.split) for s in dataset.samples], columns=["path", "class", "split"]),
        chosen.image_size,
        facts,
        settings.machine.decode_workers,
    )


if __name__ == "__main__":
    command.run(main, "variant", lower="machine.decode_workers")
