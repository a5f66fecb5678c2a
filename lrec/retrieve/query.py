"""Queries on the command line: an image of the data set, a file, a folder or a glob."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrec import params
from lrec.data import store
from lrec.datasets import decoding, disk, names, reader
from lrec.io import missing
from lrec.metrics import search
from lrec.retrieve import image_files
from lrec.retrieve.database import Database

ROW = "row:"
DEFAULT_QUERIES = 4
_SEED = 0


@dataclass(frozen=True)
class Query:
    """One image to search with.

    Attributes:
        name: its path, as in the index or as the user wrote it.
        class_name: "" where unknown.
        source: (H, W, 3) uint8, or a file, which is decoded when needed, since a folder may hold thousands; the file
            of an image in the database need not exist.
        row: its row in the database, or `search.NO_ROW` if it is not there.
        one_of_many: whether it was found in a folder or by a glob; such a file is left out if it cannot be decoded.
    """

    name: str
    class_name: str
    source: np.ndarray | Path
    row: int
    one_of_many: bool = False

    def pixels(self) -> np.ndarray:
        """Return the image, (H, W, 3) uint8."""
        return self.source if isinstance(self.source, np.ndarray) else np.asarray(decoding.decode(self.source))


class Finder:
    """Turns a user's arguments into queries.

    Args:
        database: the database to search; all images of its data set, of any split, are found by path.

    Attributes:
        packed: whether its images are packed, so that row:N names the one in row N of the packed store.
        passed_over: one line for each folder with files of other formats.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.passed_over: list[str] = []
        table = database.index.assign(own=range(len(database)), split=database.facts.get("split"))
        if database.stored is not None:
            stored = database.stored.index
            others = stored[~stored["row"].isin(table["row"])].assign(own=search.NO_ROW)
            table = pd.concat([table, others[list(table.columns)]], ignore_index=True)
        self._table, self.packed = table, bool((table["row"] != search.NO_ROW).any())
        paths = [(path, place) for place, path in enumerate(table["path"]) if path]
        self._places = {names.composed(path): place for path, place in paths} | dict(paths)

    def default(self) -> list[Query]:
        """Return a few images, always the same: from the query split if the gallery is searched, else the database."""
        searched = self._table["own"] != search.NO_ROW
        chosen = np.flatnonzero(searched & (self._table["path"] != ""))
        asking, searched_in = (tested := store.tested(self._table["split"]))[0], tested[-1]
        if self._database.facts.get("split") == searched_in != asking:
            chosen = np.flatnonzero(self._table["split"] == asking)
        if not len(chosen):
            raise ValueError("query: found none, and the database has no image to search with; add --query PATH")
        some = np.random.default_rng(_SEED).choice(chosen, min(DEFAULT_QUERIES, len(chosen)), replace=False)
        return [self._at(int(place)) for place in np.sort(some)]

    def find(self, written: Sequence[str]) -> list[Query]:
        """Return the queries that each argument stands for, in order.

        Raises:
            FileNotFoundError: an argument is neither in the index nor a file, a folder or a glob.
            ValueError: an image cannot be decoded, or a row is out of range.
        """
        return [query for text in written for query in self._one(text)]

    def _one(self, text: str) -> list[Query]:
        if not text.strip():
            raise ValueError("query: found an empty one, expected a path of the data set's index or a file")
        if asked := self.named(text):
            return [asked]
        found = image_files.find(text)
        if not found.files:
            raise self.unknown(text, ", or an image file, a folder or a glob", missing.hint(Path(text)))
        self.passed_over += [found.note] if found.note else []
        return [self._of_file(path, found.several) for path in found.files]

    def named(self, text: str) -> Query | None:
        """Return the image of the data set with this path in the index, or row:N; files are not searched.

        Raises:
            ValueError: the row is out of range.
        """
        place = self._place(text) if self.packed and text.startswith(ROW) else self._known(text)
        return None if place is None else self._at(place)

    def unknown(self, text: str, others: str = "", hint: str = "") -> FileNotFoundError:
        """Return an error for a query that is not found, with the nearest name and what is expected, with `others`."""
        near = missing.near(text, self._places)
        return FileNotFoundError(
            f"{text}: query not found{f' ({near})' if near else hint}, expected a path of the data set's index "
            f"(such as {self._table['path'].iloc[0]}){f', {ROW}N' if self.packed else ''}{others}"
        )

    def _known(self, path: str) -> int | None:
        """Return the place of an image of the data set, for any Unicode normalisation of its path."""
        return self._places.get(path, self._places.get(names.composed(path)))

    def _place(self, text: str) -> int:
        rows = self._table["row"].to_numpy()
        number = text.removeprefix(ROW)
        if not number.isdecimal() or len(number) > 18 or int(number) not in rows:
            least = rows[rows != search.NO_ROW].min()
            raise ValueError(f"{text}: query not found, expected {ROW}N with N from {least:,} to {rows.max():,}")
        return int(np.flatnonzero(rows == int(number))[0])

    def _at(self, place: int) -> Query:
        entry = self._table.iloc[place]
        return Query(entry["path"], entry["class"], self._source(entry), int(entry["own"]))

    def _source(self, entry: pd.Series) -> np.ndarray | Path:
        packed = self._database.stored
        if packed is not None and entry["row"] != search.NO_ROW:
            return np.array(packed.images[entry["row"]])
        return self._database.place(entry["path"])

    def _of_file(self, path: Path, one_of_many: bool) -> Query:
        """Return the query for a file: the image in the index, if the file is listed there or in the raw folder."""
        own = self._known(self._database.indexed(path))
        if own is not None and self._table["row"].iloc[own] == search.NO_ROW:
            return self._at(own)
        whole = path.resolve()
        for root in self._roots:
            if whole.is_relative_to(root) and (place := self._known(whole.relative_to(root).as_posix())) is not None:
                return self._at(place)
        return Query(str(path), "", path, search.NO_ROW, one_of_many)

    @cached_property
    def _roots(self) -> list[Path]:
        """The folders to which the paths of packed images are relative: raw folders, or folders nested in them."""
        packed = self._table["path"][self._table["row"] != search.NO_ROW].tolist()
        some = {*packed[:1], *packed[-1:]}  # a folder with a file of one name may be another
        raw = _raw_folders(self._database)
        return [disk.descend(place, lambda folder: some == {*disk.present(folder, some)}) or place for place in raw]


def answer(database: Database, asked: Query, scores: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """Return a query's results for JSON; `right` is null where a class is unknown.

    `database_row` is the row of `Database.index`, not that of the packed store, which a query may give as row:N.
    """
    results = []
    for rank, (score, row) in enumerate(zip(scores.tolist(), rows.tolist(), strict=True), start=1):
        if row == search.NO_ROW:  # an approximate index may find fewer
            continue
        entry = database.index.iloc[row]
        right = entry["class"] == asked.class_name if asked.class_name and entry["class"] else None
        found = {"rank": rank, "similarity": round(score, 6), "class": entry["class"], "right": right}
        results.append(found | {"path": entry["path"], "database_row": row})
    return {"query": asked.name, "class": asked.class_name, "results": results}


def _raw_folders(database: Database) -> list[Path]:
    """Return where the raw images of a database may be; nothing if the project's settings lack its variant."""
    variant, project = Path(database.facts.get("store") or "").name, database.place("")
    if not variant or not (project / params.PARAMS_FILE).is_file():
        return []
    try:
        settings = params.load(project / params.PARAMS_FILE)
    except ValueError:
        if database.stored is None:  # a saved database in a folder with the params.yaml of another program
            return []
        raise
    if variant not in settings.variants or not (folder := settings.variants[variant].folder):
        return []
    usual = reader.LAYOUTS[settings.variants[variant].layout].folders
    return [place.resolve() for place in disk.locations(project / settings.raw_root(), folder, usual)]


def default_database() -> str:
    """Return the first run that params.yaml lists."""
    settings = params.load()
    return f"{settings.datasets[0]}/{settings.backbones[0]}"
