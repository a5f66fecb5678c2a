"""The packed store: a variant's images, decoded, cropped and resized once, in one memory-mapped file.

`images.npy` is (N, S, S, 3) uint8; `index.csv` has path, class, label and split of each row; `dataset.json` has the
facts of the data set. Labels number the classes of the whole store from 0; training classes come first.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, NotRequired

import numpy as np
import pandas as pd
from pydantic import Field
from typing_extensions import TypedDict

from lrec.io import files, hashing, progress, reading
from lrec.io.splits import SPLITS, TRAIN
from lrec.io.splits import tested as tested  # other packages take it from here

IMAGES, INDEX, DATASET = "images.npy", "index.csv", "dataset.json"
COLUMNS = ("row", "path", "class", "label", "split")
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_CHUNK = 256

_Sums = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=3, max_length=3)]
_Counts = dict[str, Annotated[list[int], Field(min_length=2, max_length=2)]]


class Pixels(TypedDict):
    """Exact sums over the training images, per channel."""

    count: Annotated[int, Field(ge=0)]
    sum: _Sums
    sum_of_squares: _Sums


class Packed(TypedDict):
    """The keys of dataset.json that are needed to use the images."""

    image_size: Annotated[int, Field(ge=1)]
    train_pixels: Pixels


class Facts(Packed):
    """The keys of dataset.json that the stage preprocess writes.

    pixels: the SHA-256 of all images; earlier versions did not write it. counts: (images, classes) per split.
    """

    pixels: NotRequired[str]
    crop: str
    resize: str
    counts: _Counts
    official: _Counts | None
    partial: bool


@dataclass(frozen=True)
class Store:
    """An opened store: images (N, S, S, 3) uint8 memory map, its index, and its dataset.json."""

    images: np.ndarray
    index: pd.DataFrame
    dataset: Packed

    def rows(self, split: str) -> np.ndarray:
        """Return the rows of a split, (N_split,) int64, increasing."""
        return np.flatnonzero((self.index["split"] == split).to_numpy())

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Return the class labels of rows, (len(rows),) int64."""
        return self.index["label"].to_numpy()[rows]

    def train_classes(self) -> list[str]:
        """Return the names of the C training classes in the order of their labels 0 to C-1."""
        return train_classes(self.index)

    def normalization(self, choice: str | dict[str, list[float]]) -> dict[str, list[float]]:
        """Return {"mean", "std"} per channel for `normalize`: "dataset", "imagenet", or the values."""
        if isinstance(choice, dict):
            return choice
        return IMAGENET if choice == "imagenet" else measured(self.dataset["train_pixels"])


def train_classes(index: pd.DataFrame) -> list[str]:
    """Return the names of the training classes in the order of their labels."""
    train = index[index["split"] == TRAIN].drop_duplicates("label").sort_values("label")
    return train["class"].tolist()


def measured(pixels: Pixels) -> dict[str, list[float]]:
    """Return mean and standard deviation per channel, for values scaled to 0-1, from exact integer sums.

    Raises:
        ValueError: there are no training images, or the sums are impossible.
    """
    count = pixels["count"]
    if not count:
        raise ValueError(f"{DATASET}: found no training images, expected some to measure; set normalize to imagenet")
    pairs = list(zip(pixels["sum"], pixels["sum_of_squares"], strict=True))
    # With Python's integers the difference is exact; only the last division and the root round.
    if not all(total * total <= count * square <= count * 255 * total for total, square in pairs):
        raise ValueError(f"{DATASET}: train_pixels: found sums that no images have; run `dvc repro` (stage preprocess)")
    variances = [(count * square - total * total) / (count * count) for total, square in pairs]
    return {
        "mean": [total / count / 255 for total, _ in pairs],
        "std": [max(variance**0.5 / 255, 1e-6) for variance in variances],
    }


def pack(
    folder: Path,
    images: Sequence[Callable[[], np.ndarray]],
    index: pd.DataFrame,
    image_size: int,
    dataset: dict[str, Any],
    workers: int = 0,
) -> None:
    """Write a store; `folder` appears complete or not at all.

    Args:
        folder: the folder to write.
        images: N functions, each returning one (S, S, 3) uint8 image; called from several threads.
        index: N rows with the columns path, class and split.
        image_size: S.
        dataset: facts for dataset.json, to which pixel sums of the training split and a hash of all images are added.
        workers: decoding threads, 0 for one per core. Memory does not grow with N.

    Raises:
        ValueError: raised by one of the functions; then nothing is written.
    """
    training = (index["split"] == TRAIN).to_numpy()
    sums, total = np.zeros((2, 3), dtype=object), hashlib.sha256()
    with files.atomic_folder(folder) as draft, (draft / IMAGES).open("wb") as stream:
        shape = (len(images), image_size, image_size, 3)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for row, image in enumerate(_in_order(images, workers)):
            stream.write(data := image.tobytes())
            total.update(data)
            if training[row]:
                values = image.reshape(-1, 3).astype(np.int64)
                sums += np.stack([values.sum(0), (values**2).sum(0)])
        sums_of = {
            "count": int(training.sum()) * image_size**2,
            "sum": [int(value) for value in sums[0]],
            "sum_of_squares": [int(value) for value in sums[1]],
        }
        _write_index(draft / INDEX, index)
        added = {"image_size": image_size, "train_pixels": sums_of, "pixels": total.hexdigest()}
        files.write_json(draft / DATASET, dataset | added)


def _in_order(images: Sequence[Callable[[], np.ndarray]], workers: int) -> Iterator[np.ndarray]:
    """Call the functions on several threads; yield images in order, with a bounded number in memory."""
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool, progress.bar(len(images), "pack") as bar:
        for start in range(0, len(images), _CHUNK):
            for image in pool.map(lambda load: load(), images[start : start + _CHUNK]):
                yield image
                bar.update()


def _write_index(path: Path, index: pd.DataFrame) -> None:
    """Number rows and classes; training classes come first."""
    ordered = pd.concat([index[index["split"] == TRAIN], index[index["split"] != TRAIN]])
    numbers = {name: number for number, name in enumerate(dict.fromkeys(ordered["class"]))}
    table = index.assign(row=range(len(index)), label=index["class"].map(numbers))
    files.write_table(path, table[list(COLUMNS)])


def read_index(path: Path) -> pd.DataFrame:
    """Read an index.csv: columns row, path, class, label, split; row and label are int64.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a cell is not a number, rows are out of order, a split is unknown, or labels and classes do
            not correspond.
    """
    table = reading.read_table(path, COLUMNS, "preprocess", integers=("row", "label"))
    table = table.astype({"row": np.int64, "label": np.int64})
    strange = np.flatnonzero(table["row"] != np.arange(len(table)))
    if len(strange):
        place = strange[0]
        _refuse(path, f"found row {table['row'][place]} in place {place}, expected rows 0, 1, 2 and so on")
    if not (known := table["split"].isin(SPLITS)).all():
        _refuse(path, f"found the split {table['split'][~known].iloc[0]!r:.80}, expected one of {', '.join(SPLITS)}")
    pairs = table[["label", "class"]].drop_duplicates()
    twice = pairs[pairs["label"].duplicated(keep=False) | pairs["class"].duplicated(keep=False)]
    if len(twice):
        label, name = twice.iloc[0]
        _refuse(path, f"found label {label} or class {name!r:.80} in several pairs, expected one label per class")
    if sorted(pairs["label"]) != list(range(len(pairs))):
        _refuse(path, f"found labels {min(pairs['label'])}-{max(pairs['label'])}, expected 0-{len(pairs) - 1}")
    training = set(table["label"][table["split"] == TRAIN])
    if training != set(range(len(training))):
        _refuse(path, "found a label of a test class below that of a training class, expected training classes first")
    return table


def _refuse(path: Path, found: str) -> NoReturn:
    raise ValueError(f"{path}: {found}; delete it and run `dvc repro` (stage preprocess)")


def read_facts(folder: Path) -> Facts:
    """Read a store's dataset.json."""
    return reading.read_json(folder / DATASET, "preprocess", Facts)


def digest(folder: Path) -> str:
    """Return a hash of a store's index, its images and how they were made, the same on every machine."""
    facts = reading.read_json(folder / DATASET, "preprocess", Packed)
    kept = {key: value for key, value in facts.items() if key != "found"}  # prose about the raw data
    return hashing.of_value([hashing.of_file(folder / INDEX), kept])


def open_store(folder: Path) -> Store:
    """Open a store read-only.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or index and images disagree.
    """
    index = read_index(folder / INDEX)
    images = reading.read_array(folder / IMAGES, "preprocess", 4, np.uint8)
    dataset = reading.read_json(folder / DATASET, "preprocess", Packed)
    if len(images) != len(index):
        raise ValueError(
            f"{folder}: found {len(images)} images and {len(index)} index rows, expected as many; preprocess again"
        )
    if images.shape[1:] != (dataset["image_size"], dataset["image_size"], 3):
        found = f"images of {' x '.join(map(str, images.shape[1:]))}"
        expected = f"{dataset['image_size']} x {dataset['image_size']} x 3, as {DATASET} says"
        raise ValueError(f"{folder / IMAGES}: found {found}, expected {expected}; preprocess again")
    return Store(images, index, dataset)
