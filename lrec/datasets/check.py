"""The check of a raw data set before use: counts, archives and every image. It writes nothing.

Problems make the check fail: counts that differ from the official ones, missing or unreadable images, boxes outside
their image. Notes do not: archives with an unknown md5, images with the same bytes, images smaller than `SMALL` pixels;
the official sets contain some of these.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lrec.datasets import decoding, reader
from lrec.datasets.dataset import Dataset, Sample
from lrec.io import command, hashing
from lrec.io.progress import tqdm
from lrec.io.text import escaped

SMALL = 32
MD5 = {
    "car_ims.tgz": "d5c8f0aa497503f355e17dc7886c3f14",
    "cars_annos.mat": "b407c6086d669747186bd1d764ff9dbc",
    "cars_train.tgz": "065e5b463ae28d29e77c1b4b166cfe61",
    "cars_test.tgz": "4ce7ebf6a94d07f1952d94dd34c4d501",
    "cars_test_annos_withlabels.mat": "b0a2b23655a3edd16d84508592a98d10",
    "car_devkit.tgz": "c3b158d763b6e2245038c8ad08e45376",
    "CUB_200_2011.tgz": "97eceeb196236b17998738112f37df78",
    "Stanford_Online_Products.zip": "7f73d41a2f44250d4779881525aea32e",
}


@dataclass(frozen=True)
class Finding:
    """Result of checking one image. fault: why it cannot be used, or None. small: smaller than `SMALL` pixels."""

    sample: Sample
    sha256: str
    fault: str | None
    small: bool


def examine(dataset: Dataset, sample: Sample) -> Finding:
    """Decode one image and check that its box is inside it."""
    path = dataset.root / sample.path
    try:
        width, height = dataset.load(sample).size
        if sample.box:
            decoding.clip(sample.box, width, height)
        return Finding(sample, hashing.of_file(path), None, min(width, height) < SMALL)
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).removeprefix(f"{path}: ").split())
        return Finding(sample, "", f"{sample.path}: {reason}", False)


def examine_all(dataset: Dataset, workers: int) -> list[Finding]:
    """Examine all existing images in parallel threads (0 for one per core); the order is that of the samples."""
    absent = set(dataset.missing)
    there = [sample for sample in dataset.samples if sample.path not in absent]
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        seen = pool.map(lambda sample: examine(dataset, sample), there)
        return list(tqdm(seen, total=len(there), unit="image", leave=False, disable=None))


def duplicates(images: list[Finding]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the groups of images with the same bytes: within one split, and across splits."""
    groups: dict[str, list[Sample]] = {}
    for image in images:
        if image.fault is None:
            groups.setdefault(image.sha256, []).append(image.sample)
    same = [group for group in groups.values() if len(group) > 1]
    within = [[s.path for s in group] for group in same if len({s.split for s in group}) == 1]
    across = [[s.path for s in group] for group in same if len({s.split for s in group}) > 1]
    return within, across


def archives(folders: list[Path]) -> Iterator[str]:
    """Yield one line per known file in these folders, which says whether its md5 matches."""
    for folder in dict.fromkeys(folders):
        for name, known in MD5.items():
            if (folder / name).is_file():
                with (folder / name).open("rb") as stream:
                    found = hashlib.file_digest(stream, "md5").hexdigest()
                verdict = "as known" if found == known else f"note: found {found}, the original has {known}"
                yield f"md5 of {folder / name}: {verdict}"


def _listed(what: str, entries: list[str]) -> list[str]:
    return [f"{what}: {len(entries):,}", *(f"  {entry}" for entry in entries)]


def run(
    name: str,
    layout: str,
    raw_root: Path,
    folder: str | None,
    image_size: int,
    allow_partial: bool = False,
    workers: int = 0,
) -> None:
    """Check a data set and print the results.

    Args:
        name: name of the variant.
        layout: one of `reader.LAYOUTS`.
        raw_root: folder of the raw data sets.
        folder: the set's folder inside it.
        image_size: side of generated images in pixels.
        allow_partial: report counts that differ from the official ones as a note, not as a problem.
        workers: threads, 0 for one per core.

    Raises:
        FileNotFoundError: the data set or its annotations are missing.
        ValueError: the annotations are malformed, or problems were found, which are printed first.
    """
    dataset = reader.read(layout, raw_root, folder, image_size, list_missing=True)
    print(escaped(f"{name}: {dataset.found}"))
    for split, (images, classes) in dataset.counts().items():
        print(f"  {split}: {images:,} images of {classes:,} classes")
    if not reader.LAYOUTS[layout].on_disk:
        print("nothing on disk to check")
        return
    print(escaped(f"folder: {dataset.root}"))
    problems = _check_counts(dataset, allow_partial)
    for line in archives([dataset.root, dataset.root.parent, raw_root]):
        print(escaped(line))
    problems += _check_images(dataset, workers)
    if problems:
        raise ValueError(f"{name}: {problems:,} problem(s), listed above; docs/datasets.md")
    try:
        warnings = reader.require_enough(dataset, name)
    except ValueError as error:  # the images themselves are fine
        warnings = [str(error)]
    for warning in warnings:
        command.warn(warning)
    print(f"{name}: no problems")


def _check_counts(dataset: Dataset, allow_partial: bool) -> int:
    """Print the comparison with the official counts; return the number of problems."""
    differences = reader.differences(dataset)
    if not differences:
        print("official counts: " + ("none for this layout" if dataset.official is None else "all as expected"))
        return 0
    print(f"official counts: {'note (allow_partial is set), ' if allow_partial else ''}{differences}")
    return 0 if allow_partial else 1


def _check_images(dataset: Dataset, workers: int) -> int:
    """Check and report the images; return the number of problems."""
    images = examine_all(dataset, workers)
    faults = [image.fault for image in images if image.fault]
    within, across = duplicates(images)
    report = [
        *_listed("missing images", list(dataset.missing)),
        *_listed("unreadable images, or boxes outside them", faults),
        *_listed("note: groups of images with the same bytes within a split", [" = ".join(group) for group in within]),
        *_listed("note: groups of images with the same bytes across splits", [" = ".join(group) for group in across]),
        *_listed(f"note: images smaller than {SMALL} pixels", [image.sample.path for image in images if image.small]),
    ]
    print("\n".join(map(escaped, report)), flush=True)
    return len(dataset.missing) + len(faults)
