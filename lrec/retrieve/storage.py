"""Where a database is stored: in a folder that `Database.save` wrote, or as the embeddings of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import AfterValidator
from typing_extensions import TypedDict

from lrec import paths
from lrec.data import store
from lrec.datasets.decoding import Resize
from lrec.embedding import audit
from lrec.io import files, reading
from lrec.model.kinds import KINDS

EMBEDDINGS, INDEX, FACTS = "embeddings.npy", "index.csv", "database.json"
COLUMNS = ("path", "class", "row")
BLOCK = 65536  # rows that are copied together


class Facts(TypedDict, total=False):
    """The keys of database.json; those of the model that embeds images are all there, or none is.

    weights: SHA-256 of the model's weights when the database was embedded.
    """

    model: str
    weights: str
    store: str
    resize: Resize
    kind: Literal[tuple(KINDS)]


def _whole(facts: dict[str, Any]) -> dict[str, Any]:
    if missing := [name for name in ("resize", "kind") if "model" in facts and name not in facts]:
        raise ValueError(f"{missing[0]} where there is a model")
    return facts


class Stored(NamedTuple):
    """The parts of a database, see `lrec.retrieve.database.Database`."""

    embeddings: np.ndarray
    index: pd.DataFrame
    facts: dict[str, Any]


def read(path: Path, split: str | None) -> Stored:
    """Open a database; `path` and `split` are those of `Database.load`, as are the errors."""
    if (path / FACTS).is_file():
        if split is not None:
            raise ValueError(f"{path}: found a split ({split}), expected none: a saved database has no splits")
        return _saved(path)
    run = path.relative_to(paths.EMBEDDINGS) if path.is_dir() and path.parts[:1] == paths.EMBEDDINGS.parts else path
    if len(run.parts) != 2 or not paths.embeddings(*run.parts).is_dir():
        known = sorted(p.relative_to(p.parents[1]).as_posix() for p in paths.EMBEDDINGS.glob("*/*") if p.is_dir())
        raise FileNotFoundError(
            f"{path}: found no such database, expected one of {', '.join(known) or 'none yet'}, or a folder that "
            "Database.save wrote; list the data set in params.yaml and run `dvc repro`"
        )
    return _of_run(*run.parts, split)


def _saved(folder: Path) -> Stored:
    table = reading.read_table(folder / INDEX, COLUMNS, reading.SAVED, integers=["row"])
    facts = reading.read_json(folder / FACTS, reading.SAVED, Annotated[Facts, AfterValidator(_whole)])
    return Stored(_open_array(folder / EMBEDDINGS, reading.SAVED), table.astype({"row": np.int64}), facts)


def _of_run(variant: str, backbone: str, split: str | None) -> Stored:
    folder, packed = paths.embeddings(variant, backbone), paths.store(variant)
    table = store.read_index(packed / store.INDEX)
    there = list(dict.fromkeys(table["split"]))
    searched = store.tested(there)[-1]
    split = split or (searched if searched in there else there[-1])
    if split not in there:
        raise ValueError(f"split: found {split!r}, expected one of {', '.join(there)} for {variant}")
    rows = table[table["split"] == split]
    dataset, embedded = store.read_facts(packed), audit.read(paths.embedding_facts(variant, backbone))
    facts = {
        "name": f"{variant}/{backbone}",
        "split": split,
        "model": paths.model(variant, backbone).as_posix(),
        "weights": embedded["weights"],
        "store": packed.as_posix(),
        "resize": dataset["resize"],
        "crop": dataset["crop"],
        "kind": embedded["kind"],
    }
    return Stored(_open_array(folder / f"{split}.npy", "embed"), rows[list(COLUMNS)].reset_index(drop=True), facts)


def _open_array(path: Path, made_by: str) -> np.ndarray:
    """Memory-map embeddings of either dtype; a search reports values that are not finite."""
    return reading.read_array(path, made_by, 2, np.float32, np.float16)


def write(path: Path, parts: Sequence[np.ndarray], index: pd.DataFrame, facts: dict[str, Any]) -> None:
    """Write a folder that `read` opens; it appears complete or not at all, and may be the one the parts are read from.

    Args:
        path: of the folder.
        parts: arrays (n, d) of one dtype that together hold the rows of `index`, in order.
        index: G rows.
        facts: see `Facts`.

    Raises:
        ValueError: the folder holds other files.
    """
    files.require_replaceable(path, (EMBEDDINGS, INDEX, FACTS))
    files.clear_drafts(path)
    with files.atomic_folder(path) as draft:
        out = files.map_array(draft / EMBEDDINGS, parts[0].dtype, (len(index), parts[0].shape[1]))
        first = 0
        for part in parts:
            for start in range(0, len(part), BLOCK):
                block = part[start : start + BLOCK]
                out[first : first + len(block)] = block
                first += len(block)
        out.flush()
        files.write_table(draft / INDEX, index)
        files.write_json(draft / FACTS, facts | {"split": None})
