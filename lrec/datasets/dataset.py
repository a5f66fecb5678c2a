"""The return value of every reader of a raw data set: a list of samples, and the folder that holds them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    path: relative to the data set's root, with forward slashes.
    class_name: unique within the data set.
    split: one of `lrec.io.splits.SPLITS`: train and test, or train, query and gallery.
    box: annotated box as left, top, right, bottom in pixels; right and bottom are exclusive.
    """

    path: str
    class_name: str
    split: str
    box: Box | None = None


@dataclass(frozen=True)
class Dataset:
    """A data set, on disk or generated.

    root: folder that sample paths are relative to. found: one line on the layout that was recognised.
    samples: in a fixed order. official: (images, classes) per split, None if not known.
    load: returns the decoded image of a sample (RGB), not yet cropped; ValueError names an unreadable file.
    missing: paths of samples whose file is missing; empty unless the reader was asked to list them.
    """

    root: Path
    found: str
    samples: list[Sample]
    official: dict[str, tuple[int, int]] | None
    load: Callable[[Sample], Image.Image]
    missing: tuple[str, ...] = ()

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return (images, classes) of each split."""
        splits = dict.fromkeys(sample.split for sample in self.samples)
        return {
            split: (
                sum(sample.split == split for sample in self.samples),
                len({sample.class_name for sample in self.samples if sample.split == split}),
            )
            for split in splits
        }
