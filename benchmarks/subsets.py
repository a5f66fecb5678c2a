"""Write small subsets of a packed data set, in a folder per class: python -m benchmarks.subsets car_cropped DIR.

DIR/car_cropped_25_classes has 25 of the training classes, DIR/car_cropped_10_images ten images of each class. Both are
drawn at random and have all test images. The runs of `benchmarks/study.yaml` use them.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from lrec import paths
from lrec.data import store
from lrec.io import files


def chosen(packed: store.Store, classes: int, images: int) -> dict[str, np.ndarray]:
    """Return the rows of the training images of two subsets: `classes` classes, and `images` images of every class."""
    rows, generator = packed.rows(store.TRAIN), np.random.default_rng(0)
    labels = packed.labels(rows)
    some = generator.choice(np.unique(labels), classes, replace=False)
    few = [generator.permutation(rows[labels == label])[:images] for label in np.unique(labels)]
    return {f"{classes}_classes": rows[np.isin(labels, some)], f"{images}_images": np.sort(np.concatenate(few))}


def write(packed: store.Store, rows: np.ndarray, folder: Path) -> None:
    """Write training images and all test images as PNG, which is lossless."""
    for split, some in (("train", rows), ("test", packed.rows("test"))):
        for row, label in zip(some, packed.labels(some), strict=True):
            path = folder / split / str(label) / f"{row}.png"  # a number, since class names may contain a slash
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(packed.images[row]).save(path)


def main() -> None:
    """Write both subsets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("variant", help="the variant whose packed images are used")
    parser.add_argument("folder", type=Path, help="folder of raw data; each subset becomes a folder in it")
    parser.add_argument("--classes", type=int, default=25, help="classes of the first subset")
    parser.add_argument("--images", type=int, default=10, help="images per class of the second subset")
    options = parser.parse_args()
    packed = store.open_store(paths.store(options.variant))
    for name, rows in chosen(packed, options.classes, options.images).items():
        with files.atomic_folder(options.folder / f"{options.variant}_{name}") as draft:
            write(packed, rows, draft)
        print(f"{options.folder / f'{options.variant}_{name}'}: {len(rows):,} training images")


if __name__ == "__main__":
    main()
