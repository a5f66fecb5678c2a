"""Stage preprocess: read a raw data set strictly and pack its images, decoded once."""

import sys
from functools import partial

import pandas as pd

from lrec import command, params, paths, store
from lrec.datasets import reader
from lrec.datasets.picture import crop_and_resize


def main(variant: str) -> None:
    """Write data/processed/<variant>/: images.npy, index.csv, dataset.json."""
    settings = params.load()
    chosen = settings.variant(variant)
    dataset = reader.read(chosen.layout, settings.raw_root(), chosen.folder, chosen.image_size)
    is_partial = reader.verify(dataset, variant, settings.allow_partial)
    print(f"{variant}: {dataset.found}")
    for split, (images, classes) in dataset.counts().items():
        print(f"{variant}: {split}: {images:,} images of {classes:,} classes")
    if is_partial:
        print(f"WARNING: {variant} is not the whole data set: {dataset.official} is official", file=sys.stderr)

    def picture(sample):
        box = sample.box if chosen.crop == "box" else None
        return crop_and_resize(dataset.load(sample), box, chosen.image_size)

    store.pack(
        paths.store(variant),
        [partial(picture, sample) for sample in dataset.samples],
        pd.DataFrame([(s.path, s.class_name, s.split) for s in dataset.samples], columns=["path", "class", "split"]),
        chosen.image_size,
        {
            "found": dataset.found,
            "crop": chosen.crop,
            "counts": dataset.counts(),
            "official": dataset.official,
            "partial": is_partial,
        },
        settings.preprocess.workers,
    )


if __name__ == "__main__":
    command.run(main, "variant")
