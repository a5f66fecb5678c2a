"""Reads and writes stored databases: a folder that `Database.save` wrote, or the embeddings of a run."""

import os
import shutil
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
from lrec.embedding import audit, codes, graph, reduction, runtimes
from lrec.embedding.codes import Codes
from lrec.io import files, hashing, locks, missing, reading
from lrec.io.text import is_utf8
from lrec.model import saved
from lrec.model.kinds import KINDS

EMBEDDINGS, INDEX, FACTS = "embeddings.npy", "index.csv", "database.json"
CODES = "codes.npy"  # the fitted values of the codes, if the embeddings are codes
OWN_MODEL = "model"  # folder with a copy of the model, if the database has one
COLUMNS = ("path", "class", "row")
# Files of the stage embed that are needed to embed queries like the images, by the name of the fact with their path.
MADE = {"reduction": reduction.FILE, "graph": graph.FILE}
# Facts about the model that embeds images, and about its use.
OF_MODEL = ("root", "model", "weights", "resize", "kind", "runtime", *MADE, *(f"{name}_digest" for name in MADE))
# Facts of a run's embeddings that are the same for all its splits.
_SHARED = ("weights", "store_digest", "kind", *(f"{name}_digest" for name in MADE))
BLOCK = 65536  # rows copied at a time
_ENCODED = 2**22  # numbers encoded at a time


class Facts(TypedDict, total=False):
    """The keys of database.json; the keys about the model are either all present or all absent.

    weights: SHA-256 of the weights that made the embeddings. reduction, reduction_digest: the file with the reduction
    of the embeddings, and its SHA-256; both or neither. graph, graph_digest: likewise, for the 8-bit graph that made
    them. root: the folder, relative to the database's own, to which the paths of model, reduction, graph, store and
    images are relative. store_digest: `lrec.data.store.digest` of the store. model: `OWN_MODEL` if the database has a
    copy, which includes reduction and graph. codes: the encoding of the embeddings, if any. runtime: the runtime that
    made the embeddings and embeds new images.
    """

    root: str
    model: str
    weights: str
    reduction: str
    reduction_digest: audit.Digest
    graph: str
    graph_digest: audit.Digest
    store: str
    store_digest: audit.ShortDigest
    resize: Resize
    kind: Literal[tuple(KINDS)]
    codes: codes.Name
    runtime: Literal[(runtimes.TORCH, *runtimes.RUNTIMES)]


def _whole(facts: dict[str, Any]) -> dict[str, Any]:
    if absent := [name for name in ("resize", "kind") if "model" in facts and name not in facts]:
        raise ValueError(f"{absent[0]} where there is a model")
    if absent := [name for name in MADE if name in facts and digest_of(name) not in facts]:
        raise ValueError(f"{digest_of(absent[0])} where there is a {absent[0]}")
    return facts


def digest_of(name: str) -> str:
    """Return the name of the fact with the SHA-256 of a file of `MADE`."""
    return f"{name}_digest"


def require_made(facts: dict[str, Any], found: dict[str, Path], remedy: str = reading.REMADE) -> None:
    """Refuse files of `MADE`, given by name, that did not make the embeddings."""
    for name, path in found.items():
        reading.require_made(path, facts[digest_of(name)], f"another {name}", remedy)


class Stored(NamedTuple):
    """The parts of a database, see `lrec.retrieve.database.Database`."""

    embeddings: np.ndarray
    index: pd.DataFrame
    facts: dict[str, Any]
    codes: Codes | None = None


def read(path: Path, split: str | None) -> Stored:
    """Open a database; `path` and `split` are those of `Database.load`, as are the errors."""
    root, run = _run(path)
    return files.unreplaced([path, root / paths.EMBEDDINGS / run], lambda: _read(path, split))


def _read(path: Path, split: str | None) -> Stored:
    if (path / FACTS).is_file():
        if split is not None:
            raise ValueError(f"{path}: found a split ({split}), expected none: a saved database has no splits")
        return _saved(path)
    root, run = _run(path)
    if len(run.parts) == 2 and (root / paths.embeddings(*run.parts)).is_dir():
        return _of_run(root, *run.parts, split)
    if known := _runs(Path()):
        beside = os.listdir(path.parent) if path.parent.is_dir() else []
        meant = "/".join(path.parts[-2:])  # of a folder of models or results
        near = missing.near(path.as_posix(), known) or missing.near(path.name, beside)
        near = f"{meant!r:.120} is there" if meant in known else near
        raise FileNotFoundError(
            f"{path}: found no such database{f' ({near})' if near else ''}, expected one of {', '.join(known)}, or a "
            "folder that Database.save wrote; list the data set in params.yaml and run `dvc repro`"
        )
    outer = next((folder for folder in Path.cwd().parents if (folder / paths.EMBEDDINGS).is_dir()), None)
    if outer and (known := _runs(outer)):
        example = os.path.relpath(outer / paths.EMBEDDINGS / (path if path.as_posix() in known else known[0]))
        remedy = f"name a run by its folder, as {example}, or run from {outer}"
    else:
        remedy = "run `dvc repro` first, or name a run by its folder, as ../embeddings/glyphs/resnet18"
    raise FileNotFoundError(
        f"{path}: found no such database{missing.hint(path)}, and no runs in {Path.cwd()}, expected a run that the "
        f"pipeline has embedded, or a folder that Database.save wrote; {remedy}"
    )


def _run(path: Path) -> tuple[Path, Path]:
    """Return the project and the run, if a path is the folder of a run's embeddings; otherwise the path as given."""
    whole = Path(os.path.abspath(path))
    if path.is_dir() and len(whole.parents) > 2 and whole.parents[1].name == paths.EMBEDDINGS.name:
        here = whole.parents[2] == Path.cwd()
        return Path() if here else whole.parents[2], whole.relative_to(whole.parents[1])
    return Path(), path


def _runs(root: Path) -> list[str]:
    """Return the embedded runs of a project."""
    return sorted(p.relative_to(p.parents[1]).as_posix() for p in (root / paths.EMBEDDINGS).glob("*/*") if p.is_dir())


def _saved(folder: Path) -> Stored:
    table = reading.read_table(folder / INDEX, COLUMNS, reading.SAVED, integers=["row"])
    facts = reading.read_json(folder / FACTS, reading.SAVED, Annotated[Facts, AfterValidator(_whole)])
    if facts.get("model") == OWN_MODEL:
        facts["model"] = os.path.abspath(folder / OWN_MODEL)
        facts |= {key: os.path.abspath(folder / OWN_MODEL / MADE[key]) for key in MADE if key in facts}
    if root := _root(folder, facts):
        facts["root"] = root
    table = table.astype({"row": np.int64})
    if name := facts.pop("codes", None):
        stored = reading.read_array(folder / EMBEDDINGS, reading.SAVED, 2, codes.DTYPES[name])
    else:
        stored = _open_array(folder / EMBEDDINGS, reading.SAVED)
    _require_as_many(folder / EMBEDDINGS, stored, folder / INDEX, table, "save the database again")
    return Stored(stored, table, facts, _read_codes(folder / CODES, name, stored) if name else None)


def _read_codes(path: Path, name: codes.Name, stored: np.ndarray) -> Codes:
    """Return the encoding of a saved database; refuse a file that does not fit its codes."""
    fitted = np.array(reading.read_array(path, reading.SAVED, 1, np.float32, finite=True))
    found = Codes(name, len(fitted) if name == "binary" else stored.shape[1], fitted)
    if not found.bytes or found.bytes != stored.shape[1]:
        what = f"{len(fitted)} means for codes of {stored.shape[1]} bytes, expected one per dimension"
        raise ValueError(f"{path}: found {what}; save the database again")
    if name == "int8" and (len(fitted) != 1 or fitted[0] <= 0):
        raise ValueError(f"{path}: found {fitted[:3]}, expected one factor above 0; save the database again")
    spare = (1 << (-found.dimensions % 8)) - 1  # the bits of the last byte that stand for no dimension
    if name == "binary" and spare and (bad := np.flatnonzero(stored[:, -1] & spare)).size:
        raise ValueError(
            f"{path.parent / EMBEDDINGS}: row {bad[0]}: found more bits than {found.dimensions} dimensions have; "
            "save the database again"
        )
    return found


def carries_model(facts: dict[str, Any]) -> bool:
    """Return whether a database was read from a folder with a copy of its model."""
    model = Path(facts.get("model") or "")
    return model.is_absolute() and (model.parent / FACTS).is_file()


def _root(folder: Path, facts: dict[str, Any]) -> str:
    """Return the root of a saved database's paths: as stored, or where its files are, here or in a parent folder."""
    said = facts.pop("root", None)
    places = [Path(os.path.normpath(folder / said))] if said is not None else []
    places += [Path(), *folder.resolve().parents]
    wanted = next((facts[key] for key in ("model", "store") if key in facts and not os.path.isabs(facts[key])), "")
    found = next((place for place in places if wanted and (place / wanted).exists()), places[0])
    return "" if os.path.realpath(found) == os.path.realpath("") else str(found)


def _of_run(root: Path, variant: str, backbone: str, split: str | None) -> Stored:
    folder, packed = root / paths.embeddings(variant, backbone), root / paths.store(variant)
    table = store.read_index(packed / store.INDEX)
    there = list(dict.fromkeys(table["split"]))
    searched = store.tested(there)[-1]
    split = split or (searched if searched in there else there[-1])
    if split not in there:
        raise ValueError(f"split: found {split!r}, expected one of {', '.join(there)} for {variant}")
    rows = table[table["split"] == split]
    dataset, made = store.read_facts(packed), root / paths.embedding_facts(variant, backbone)
    embedded, data = audit.read(made), store.digest(packed)
    if embedded.get("data", data) != data:
        raise ValueError(
            f"{made}: its embeddings are of other packed images (digest {embedded['data']}) than {packed} holds "
            f"({data}), so rows and images may not correspond; run `dvc repro`"
        )
    facts = {
        "name": f"{variant}/{backbone}",
        "split": split,
        "model": paths.model(variant, backbone).as_posix(),
        "weights": embedded["weights"],
        "store": paths.store(variant).as_posix(),
        "store_digest": data,
        "resize": dataset["resize"],
        "crop": dataset["crop"],
        "kind": embedded["kind"],
    }
    for key in MADE:
        if key in embedded:
            file = paths.embeddings(variant, backbone) / MADE[key]
            facts |= {key: file.as_posix(), digest_of(key): embedded[key]}
    facts |= {"runtime": embedded["runtime"]} if "runtime" in embedded else {}
    facts |= {"root": str(root)} if root != Path() else {}
    embeddings = _open_array(folder / f"{split}.npy", "embed")
    _require_as_many(folder / f"{split}.npy", embeddings, packed / store.INDEX, rows, "run `dvc repro`")
    return Stored(embeddings, rows[list(COLUMNS)].reset_index(drop=True), facts)


def _require_as_many(path: Path, embeddings: np.ndarray, index: Path, rows: pd.DataFrame, remedy: str) -> None:
    """Refuse a file of embeddings that does not have one for each row of an index."""
    if len(embeddings) != len(rows):
        raise ValueError(
            f"{path}: found {len(embeddings):,} embeddings, expected {len(rows):,}, one per image of {index}; {remedy}"
        )


def training(facts: dict[str, Any]) -> list[np.ndarray]:
    """Open the embeddings of a run's training images; nothing if the database is not a run.

    Raises:
        ValueError: the run was embedded with another model, or of other images, since the database was opened.
    """
    if not facts.get("split"):
        return []
    found = read(Path(facts.get("root") or "") / paths.embeddings(*facts["name"].split("/")), store.TRAIN)
    require_same(facts, found.facts)
    return [found.embeddings]


def require_same(opened: dict[str, Any], found: dict[str, Any]) -> None:
    """Refuse a split of a run that was embedded again since another split was opened."""
    for key in _SHARED:
        if found.get(key) != opened.get(key):
            path = Path(found.get("root") or "") / paths.embedding_facts(*found["name"].split("/"))
            raise ValueError(
                f"{path}: found {key} {found.get(key)!s:.16}, expected {opened.get(key)!s:.16} as in split "
                f"{opened['split']}, which was opened before the run was embedded again; open the run again"
            )


def _open_array(path: Path, made_by: str) -> np.ndarray:
    """Memory-map embeddings of either dtype; values that are not finite are reported when searching."""
    return reading.read_array(path, made_by, 2, np.float32, np.float16)


def write(
    path: Path,
    parts: Sequence[np.ndarray],
    index: pd.DataFrame,
    facts: dict[str, Any],
    copied: Sequence[Path] = (),
    encoding: Codes | None = None,
) -> None:
    """Write a folder that `read` opens; it appears complete or not at all, and may be the one the parts are read from.

    Args:
        path: the folder.
        parts: arrays (n, d) of one dtype that together hold the rows of `index`, in order.
        index: G rows.
        facts: see `Facts`.
        copied: files of a saved ensemble, and those of `MADE`, to copy into the folder.
        encoding: how to store the rows; parts that are embeddings are encoded block by block.

    Raises:
        FileNotFoundError: the model is missing.
        ValueError: the folder holds other files, an embedding to encode is not finite, a name is not UTF-8 text, or a
            copy is not of the file that made the embeddings.
    """
    root = os.path.relpath(os.path.realpath(facts.get("root") or ""), os.path.realpath(path))
    if not is_utf8(root):
        raise ValueError(f"{root}: its name is not UTF-8 text; rename it")
    with locks.alone(path):
        require_replaceable(path)  # not before, because it may change while waiting
        _write(path, parts, index, facts | {"split": None, "root": root}, copied, encoding)


def require_replaceable(path: Path) -> None:
    """Refuse a folder that holds other files than those of a saved database, or that cannot be replaced."""
    if not path.name:
        raise ValueError(f"{path}: the current folder cannot be replaced; name a new folder in it")
    files.require_replaceable(path, (EMBEDDINGS, INDEX, FACTS, CODES, OWN_MODEL))
    files.require_replaceable(path / OWN_MODEL, (saved.MODEL, saved.CONFIG, *MADE.values()))


def _write(
    path: Path,
    parts: Sequence[np.ndarray],
    index: pd.DataFrame,
    facts: dict[str, Any],
    copied: Sequence[Path],
    encoding: Codes | None,
) -> None:
    with files.atomic_folder(path) as draft:
        dtype, width = (encoding.dtype, encoding.bytes) if encoding else (parts[0].dtype, parts[0].shape[1])
        out = files.map_array(draft / EMBEDDINGS, dtype, (len(index), width))
        first, rows = 0, min(BLOCK, max(1, _ENCODED // encoding.dimensions)) if encoding else BLOCK
        for part in parts:
            for start in range(0, len(part), rows):
                block = part[start : start + rows]
                block = encoding.encode(block, first) if encoding and block.dtype.kind == "f" else block
                out[first : first + len(block)] = block
                first += len(block)
        out.flush()
        files.write_table(draft / INDEX, index)
        if encoding:
            with files.atomic(draft / CODES) as stream:
                np.save(stream, encoding.fitted)
            facts = facts | {"codes": encoding.name}
        if copied:
            (draft / OWN_MODEL).mkdir()
            digests = {MADE[key]: facts[digest_of(key)] for key in MADE if key in facts}
            digests[saved.MODEL] = facts.get("weights")
            for source in copied:
                shutil.copyfile(source, copy := draft / OWN_MODEL / source.name)
                if (expected := digests.get(source.name)) and hashing.of_file(copy) != expected:
                    raise ValueError(f"{source}: replaced while the database was saved; {reading.REMADE}")
            facts = facts | {"model": OWN_MODEL}
            facts |= {key: f"{OWN_MODEL}/{MADE[key]}" for key in MADE if key in facts}
        files.write_json(draft / FACTS, facts)
