"""Meta classes: a random, balanced grouping of the training classes for each branch.

The code of a class is the M-tuple of its meta classes in all branches. Codes are unique, so the ensemble can
distinguish all classes although each branch distinguishes only D meta classes.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from lrec.io import files, reading

_DRAWS = 100


def size(choice: int | float | str, num_classes: int) -> int:
    """Return D, which may be given as a number, as a fraction of the C classes between 0 and 1, or as "all".

    >>> [size(choice, 98) for choice in (12, 0.125, 0.5, "all")]
    [12, 12, 49, 98]
    """
    if choice == "all":
        return num_classes
    return max(2, round(choice * num_classes)) if isinstance(choice, float) else int(choice)


def require(num_classes: int, meta_class_size: int, ensemble_size: int, where: str = "") -> None:
    """Refuse sizes for which no grouping exists, see `assign`; `where` is a prefix of the parameters' names."""
    if num_classes < 2:
        raise ValueError(f"found {num_classes} training class, expected at least 2, which branches can tell apart")
    if not 2 <= meta_class_size <= num_classes:
        raise ValueError(
            f"{where}meta_class_size: found {meta_class_size}, expected 2 to {num_classes}, the number of training "
            "classes; lower meta_class_size"
        )
    # 64 branches of two meta classes can distinguish more classes than any data set has.
    if ensemble_size < 1 or meta_class_size ** min(ensemble_size, 64) < num_classes:
        raise ValueError(
            f"{where}ensemble_size {ensemble_size} with meta_class_size {meta_class_size} gives "
            f"{meta_class_size ** max(ensemble_size, 0)} different codes, expected at least {num_classes}, one "
            "per training class; raise either"
        )


def assign(num_classes: int, meta_class_size: int, ensemble_size: int, seed: int) -> np.ndarray:
    """Assign C classes to D balanced meta classes at random, independently for each of M branches.

    Args:
        num_classes: C, training classes.
        meta_class_size: D, meta classes per branch, 2 <= D <= C.
        ensemble_size: M, branches.
        seed: the same seed gives the same grouping.

    Returns:
        (M, C) int64 with values 0 to D-1. In each row, the sizes of the meta classes differ by at most
        1; no two columns are equal.

    Raises:
        ValueError: D is outside 2..C, or D^M < C, so that unique codes cannot exist.

    Source: the original implementation; the randomized meta classes are DREML's (Xuan et al., ECCV 2018).
    """
    require(num_classes, meta_class_size, ensemble_size)
    generator = np.random.default_rng(seed)
    deck = np.arange(num_classes) % meta_class_size
    for _ in range(_DRAWS):
        groups = np.stack([generator.permutation(deck) for _ in range(ensemble_size)])
        if len(np.unique(groups, axis=1).T) == num_classes:
            return groups
    return _assign_tight(num_classes, meta_class_size, ensemble_size, generator)


def _assign_tight(
    num_classes: int, meta_class_size: int, ensemble_size: int, generator: np.random.Generator
) -> np.ndarray:
    """Build unique balanced codes where nearly all of the D^M codes are needed.

    Repeatedly adding 1 modulo D to all entries of a code gives a ring of D codes that differ in every
    entry. The codes of whole rings, and of part of one more, are balanced in every branch and unique.
    """
    size = meta_class_size
    rings = generator.choice(size ** (ensemble_size - 1), -(-num_classes // size), replace=False)
    offsets = np.stack([rings // size**branch % size for branch in range(ensemble_size - 1)] + [0 * rings])
    steps = np.tile(np.arange(size), len(rings))
    codes = (np.repeat(offsets, size, axis=1) + steps) % size
    relabel = np.stack([generator.permutation(size) for _ in range(ensemble_size)])
    codes = np.take_along_axis(relabel, codes[:, :num_classes], axis=1)
    return codes[:, generator.permutation(num_classes)]


def write(path: Path, class_names: list[str], groups: np.ndarray) -> None:
    """Write (M, C) groups as a CSV: one row per class, one column per branch."""
    columns = {"class": class_names} | {f"branch_{m}": row for m, row in enumerate(groups)}
    files.write_table(path, pd.DataFrame(columns))


def read(
    path: Path, class_names: list[str], meta_class_size: int, ensemble_size: int, made_by: str = "meta_classes"
) -> np.ndarray:
    """Read groups back and check them against what this run needs.

    Args:
        path: the CSV file.
        class_names: names of the C training classes.
        meta_class_size: D.
        ensemble_size: M.
        made_by: the origin of the file, for errors, see `lrec.io.reading`.

    Returns:
        (M, C) int64, columns in the order of `class_names`.

    Raises:
        ValueError: the file has other classes, another number of branches, an entry outside 0..D-1, or two classes
            with the same code; the message names the file.
    """
    branches = [f"branch_{m}" for m in range(ensemble_size)]
    table = reading.read_table(path, ["class"], made_by, integers=branches)
    if list(table.columns[1:]) != branches:
        raise ValueError(
            f"{path}: found {len(table.columns) - 1} branch columns, expected {ensemble_size} (branch_0 "
            f"to branch_{ensemble_size - 1}); use the file of a run with this ensemble_size"
        )
    if sorted(table["class"]) != sorted(class_names):
        strange = sorted(set(table["class"]) ^ set(class_names))
        raise ValueError(
            f"{path}: found {len(table)} classes, expected the {len(class_names)} training classes"
            + (f"; {strange[0]!r} is in one of them only" if strange else "; a class is there twice")
        )
    groups = table.set_index("class").loc[class_names, branches].to_numpy().astype(np.int64).T
    if groups.min() < 0 or groups.max() >= meta_class_size:
        raise ValueError(f"{path}: found meta classes {groups.min()}-{groups.max()}, expected 0-{meta_class_size - 1}")
    if len(np.unique(groups, axis=1).T) != len(class_names):
        raise ValueError(f"{path}: two classes have the same code; draw again (meta_classes.load_ids: null)")
    return np.ascontiguousarray(groups)
