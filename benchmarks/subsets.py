"""Small training sets, each a folder per class, out of a packed data set: python -m benchmarks.subsets car_cropped DIR.

DIR/car_cropped_25_classes has 25 of the training classes, DIR/car_cropped_10_images ten images of each, both drawn at
random, and both have all test images. `benchmarks/study.yaml` trains on them.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from lrec import paths
from lrec.data import store
from lrec.io import files


def chosen(packed: store.Store, classes: int, images: int) -> dict[str, np.ndarray]:
    """Return the rows of the training images of two subsets, by name: so many classes, and so many images of each."""
    rows, generator = packed.rows(store.TRAIN), np.random.default_rng(0)
    labels = packed.labels(rows)
    some = generator.choice(np.unique(labels), classes, replace=False)
    few = [generator.permutation(rows[labels == label])[:images] for label in np.unique(labels)]
    return {f"{classes}_classes": rows[np.isin(labels, some)], f"{images}_images": np.sort(np.concatenate(few))}


def write(packed: store.Store, rows: np.ndarray, folder: Path) -> None:
    """Write training images and all test images as PNG, which keeps their pixels."""
    for split, some in (("train", rows), ("test", packed.rows("test"))):
        for row, label in zip(some, packed.labels(some), strict=True):
            path = folder / split / str(label) / f"{row}.png"  # names of classes may have a slash
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(packed.images[row]).save(path)


def main() -> None:
    """Write both subsets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("variant", help="whose packed images are taken")
    parser.add_argument("folder", type=Path, help="of raw data, in which each subset becomes a folder")
    parser.add_argument("--classes", type=int, default=25, help="of the one")
    parser.add_argument("--images", type=int, default=10, help="of a class of the other")
    options = parser.parse_args()
    packed = store.open_store(paths.store(options.variant))
    for name, rows in chosen(packed, options.classes, options.images).items():
        with files.atomic_folder(options.folder / f"{options.variant}_{name}") as draft:
            write(packed, rows, draft)
        print(f"{options.folder / f'{options.variant}_{name}'}: {len(rows):,} training images")


if __name__ == "__main__":
    main()
