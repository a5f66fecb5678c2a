"""A database of embeddings that can be searched, extended and saved; its embeddings are memory-mapped."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrec.data import store
from lrec.datasets import decoding
from lrec.embedding import codes as coding
from lrec.embedding import runtimes
from lrec.embedding.codes import Codes
from lrec.io import command, missing, reading
from lrec.io.text import is_utf8
from lrec.metrics import search
from lrec.model import saved
from lrec.retrieve import given, image_files, storage
from lrec.retrieve.encoder import TURN, Encoder
from lrec.retrieve.given import OneImage, SomeImages

_NORM_ERROR = 0.01  # of embeddings of unit norm; half precision and rounding stay far below


class Database:
    """Embeddings of G images, an index of the images, and the model that embeds new ones.

    Attributes:
        parts: arrays (n, d) of float32 or float16, or of codes, that together hold rows 0 to G-1, in order.
        index: G rows with the columns path, class ("" where unknown) and row, the row in the packed
            store (-1 where the image is not in it).
        facts: where the model and the packed store are, and how images are resized. These paths, and those of added
            images, are relative to its entry "root", or else to the current folder.
        codes: the encoding, if the database holds codes, otherwise None.
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        index: pd.DataFrame,
        facts: dict[str, Any],
        device: str = "cpu",
        codes: Codes | None = None,
    ) -> None:
        """Create a database from embeddings in memory; `load` opens a stored one."""
        found, dtypes = f"{embeddings.dtype} of shape {embeddings.shape}", (np.float32, np.float16)
        if codes and (embeddings.ndim, embeddings.dtype, *embeddings.shape[1:]) != (2, codes.dtype, codes.bytes):
            raise ValueError(f"embeddings: found {found}, expected codes (G, {codes.bytes}) of {codes.dtype}")
        if not codes and (embeddings.ndim != 2 or embeddings.dtype not in dtypes or not embeddings.shape[1]):
            raise ValueError(f"embeddings: found {found}, expected (G, d) of float32 or float16")
        self.parts, self.facts, self._device = [embeddings], facts, device
        self.index, self.codes = index, codes
        self._require_whole()

    def _require_whole(self) -> None:
        """Refuse an index that does not have one row per embedding."""
        if len(self.index) != (rows := sum(map(len, self.parts))):
            raise ValueError(f"index: found {len(self.index):,} rows, expected {rows:,}, one per embedding")

    @classmethod
    def load(cls, path: str | Path, split: str | None = None, device: str = "cpu") -> "Database":
        """Open a database; embeddings are memory-mapped, and the model is loaded when it is first needed.

        Args:
            path: a folder that `save` wrote, or a run that the pipeline has embedded, such as "car_cropped/resnet18".
            split: for a run, "train", "test", "query" or "gallery"; None means the gallery if there is one,
                otherwise test.
            device: for embedding and search.

        Raises:
            FileNotFoundError: there is no such database, or no such split.
            ValueError: a file is damaged, or the files do not belong together.
        """
        found = storage.read(Path(path), split)
        return cls(found.embeddings, found.index, found.facts, device, found.codes)

    @property
    def index(self) -> pd.DataFrame:
        """The index of the images; additions wait in a list until it is read, since each append copies the table."""
        if self._added:
            with TURN:
                new = pd.DataFrame(self._added, columns=["path", "class", "row"])
                if len(new):  # no other thread was faster
                    self._index, self._added = pd.concat([self._index, new], ignore_index=True), []
        self._classes = None  # the caller may change the table
        return self._index

    @index.setter
    def index(self, index: pd.DataFrame) -> None:
        self._index, self._added, self._classes = index, [], None

    def __len__(self) -> int:
        return len(self._index) + len(self._added)

    @property
    def width(self) -> int:
        """Dimensions d of an embedding."""
        return self.codes.dimensions if self.codes else self.parts[0].shape[1]

    @property
    def described(self) -> str:
        """Size and encoding as readable text."""
        stored = f" as {self.codes.name} codes of {self.codes.bytes:,} bytes" if self.codes else ""
        return f"{len(self):,} image{'s' * (len(self) != 1)}, {self.width} dimensions{stored}"

    def place(self, path: str) -> Path:
        """Resolve a path from the facts or the index."""
        return Path(self.facts.get("root") or "") / path

    def indexed(self, image: str | Path) -> str:
        """Return a file's path as the index has it: relative to the root if it is below the root, otherwise absolute.

        A relative path is kept as given if the root is the current folder.
        """
        root = self.facts.get("root") or ""
        if not os.path.isabs(image) and os.path.realpath(root) == os.path.realpath(""):
            return str(image)
        whole = os.path.abspath(image)
        outer = [base for base in (os.path.abspath(root), os.path.realpath(root)) if Path(whole).is_relative_to(base)]
        return os.path.relpath(whole, outer[0]) if outer else whole

    def _to_index(self, image: str | Path) -> str:
        """Return a file's path for the index; refuse one that is not UTF-8 text."""
        path = self.indexed(image)
        if not is_utf8(path):
            raise ValueError(f"{image}: its name is not UTF-8 text; rename it")
        return path

    def embedding(self, row: int) -> np.ndarray:
        """Return the embedding of a row, (d,) float32; in a database of codes, its code."""
        for part in self.parts:
            if row < len(part):
                break
            row -= len(part)
        return np.array(part[row], dtype=None if self.codes else np.float32)

    @property
    def encoder(self) -> Encoder:
        """The model, read on first use.

        Raises:
            FileNotFoundError: the model is missing.
            ValueError: the database has no model, its embeddings were made with other weights, another reduction or
                another graph than those found, or the runtime is not installed.
        """
        with TURN:  # from Python 3.12 on, cached_property has no lock
            return self._encoder

    @cached_property
    def _encoder(self) -> Encoder:
        model, made, runtime = self._model(), self._made(), self.facts.get("runtime", runtimes.TORCH)
        how = {"reduced": made.get("reduction"), "quantized": made.get("graph"), "runtime": runtime}
        how |= {"weights": self.facts.get("weights")}
        return Encoder(model, self.facts["resize"], self._device, self.facts["kind"], **how)

    def _model(self) -> Path:
        """Return the folder of the model that the database was embedded with."""
        if "model" not in self.facts:
            raise ValueError("database: names no model that could embed an image; pass embeddings, (N, d) of floats")
        folder = self.place(self.facts["model"])
        path, expected = folder / saved.MODEL, self.facts.get("weights")
        if not self.facts.get("split") and not path.is_file():  # a saved database, which no stage writes
            raise FileNotFoundError(
                f"{path}: not found, the model that embeds images for this database{missing.hint(path)}; put it there, "
                "or save the database where the model is, with_model=True"
            )
        if expected and path.is_file():
            reading.require_made(path, expected, "other weights")
        return folder

    def _made(self) -> dict[str, Path]:
        """Return the paths of the database's files of `storage.MADE`; they must be those that made its embeddings."""
        found = {name: self.place(self.facts[name]) for name in storage.MADE if name in self.facts}
        storage.require_made(self.facts, found)
        return found

    @cached_property
    def stored(self) -> store.Store | None:
        """The packed store of the images, or None if it is missing, or was packed again since and differs."""
        folder = self.place(self.facts.get("store") or "")
        if not self.facts.get("store") or not (folder / store.IMAGES).is_file():
            return None
        opened, expected = store.open_store(folder), self.facts.get("store_digest")
        if expected and store.digest(folder) != expected:
            command.warn(f"{folder}: packed again since the database was saved, so no pictures are shown; save again")
            return None
        rows, last = self.index["row"], len(opened.images) - 1
        if len(strange := rows[(rows < search.NO_ROW) | (rows > last)]):
            found = f"found row {strange.iloc[0]} in the index, expected {search.NO_ROW} to {last}"
            raise ValueError(f"{folder}: {found}; save the database again")
        held = self.index[rows != search.NO_ROW]
        # Databases that an earlier version saved have no digest.
        same = expected or (opened.index["path"].to_numpy()[held["row"]] == held["path"].to_numpy()).all()
        return opened if same else None

    def embed(self, images: SomeImages) -> np.ndarray:
        """Embed one or several files, their bytes, opened images or (H, W, 3) uint8 arrays as (N, d) float32."""
        return self._fitting(self.encoder.embed(images))

    def embed_readable(self, images: Sequence[OneImage]) -> tuple[np.ndarray, dict[int, Exception]]:
        """Embed the readable images among many, see `Encoder.embed_readable`."""
        embedded, unread = self.encoder.embed_readable(images)
        return self._fitting(embedded), unread

    def _fitting(self, embedded: np.ndarray) -> np.ndarray:
        """Refuse embeddings of another length than the database's."""
        if embedded.shape[1] != self.width:
            raise ValueError(
                f"{self.facts['model']}: makes {embedded.shape[1]} dimensions, expected {self.width} as in the database"
            )
        return embedded

    def of_images(self, images: str | Path | Sequence[str | Path]) -> "Database":
        """Return a database of other images, of unknown classes, embedded with the model of this one.

        A file that cannot be read is left out; a warning counts such files and names the first.

        Args:
            images: one or several files, folders (searched with their subfolders) or globs.

        Returns:
            A database in memory with their float32 embeddings and their paths.

        Raises:
            FileNotFoundError: a name matches nothing, or a folder contains no image.
            ValueError: no file can be read, or this database has no model.
        """
        files, notes = image_files.find_all(images)
        paths, unread = {}, {}
        for place, file in enumerate(files):
            try:
                paths[place] = self._to_index(file)
            except ValueError as error:
                unread[place] = error
        named = list(paths)
        embedded, unreadable = self.embed_readable([files[place] for place in named])
        unread |= {named[place]: error for place, error in unreadable.items()}
        line = image_files.left_out(files, dict(sorted(unread.items())))
        if not len(embedded):
            raise ValueError(f"found no image that can be read; {line}")
        for note in filter(None, [*notes, line]):
            command.warn(note)
        kept = [path for place, path in paths.items() if place not in unread]
        index = pd.DataFrame({"path": kept, "class": "", "row": np.full(len(kept), search.NO_ROW, np.int64)})
        facts = {key: self.facts[key] for key in storage.OF_MODEL if key in self.facts}
        return Database(embedded, index, facts, self._device)

    def search(
        self,
        queries: SomeImages,
        k: int,
        exclude: np.ndarray | Sequence[int] | int | None = None,
        memory_bytes: int = search.MEMORY_BYTES,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k most similar images of each query, exactly; may be called from several threads.

        Args:
            queries: Q embeddings (Q, d) of floats, Q images as for `embed`, or the database's own codes.
            k: results per query.
            exclude: (Q,) rows to exclude, -1 for none.
            memory_bytes: limit of the working memory.

        Returns:
            Similarities (Q, k) float32, descending, and rows (Q, k) int64 of `index`; equally similar rows are in
            row order. The similarity of int8 codes is their inner product divided by the square of their factor; that
            of binary codes is 1 - 2 h / d, where h of d bits differ.

        Raises:
            ValueError: k is out of range, there is no such row to exclude, or the queries do not fit.
        """
        vectors = self._vectors(queries)
        embedded = self.encode(self.embed(queries)) if vectors is None else vectors
        hidden = None if exclude is None else np.atleast_1d(np.asarray(exclude, dtype=object))
        if hidden is not None and hidden.shape != (len(embedded),):
            raise ValueError(f"exclude: found the shape {hidden.shape}, expected ({len(embedded)},), a row per query")
        with TURN:
            hidden = None if hidden is None else self._rows("exclude", hidden, search.NO_ROW)
            scores, rows = search.top(embedded, self.parts, k, hidden, memory_bytes=memory_bytes, device=self._device)
        return self.codes.similarities(scores) if self.codes else scores, rows

    def add(self, images: SomeImages, classes: str | Sequence[str | None] | None = None) -> np.ndarray:
        """Append images in memory; `save` writes them to disk.

        Args:
            images: N images as for `embed`, or embeddings (N, d) of floats, of unit norm if the database has a model,
                whose embeddings are.
            classes: the N class names; "" or None where unknown.

        Returns:
            Their rows, (N,) int64.

        Raises:
            ValueError: lengths, dimensions or norms differ, a class name is not allowed in data sets, or a file's name
                is not UTF-8 text.
        """
        vectors = self._vectors(images, unit="model" in self.facts)
        listed = given.images(images) if vectors is None else [""] * len(vectors)
        there = self.index["class"].unique() if self._classes is None else self._classes
        known = given.classes(classes, len(listed), there)
        paths = [self._to_index(image) if isinstance(image, str | Path) else "" for image in listed]
        embedded = self.encode(self.embed(listed)) if vectors is None else vectors
        if embedded.ndim != 2 or embedded.shape[1] != self.parts[0].shape[1]:
            raise ValueError(f"embeddings: found the shape {embedded.shape}, expected (N, {self.parts[0].shape[1]})")
        with np.errstate(over="ignore"):  # a number too large for the dtype becomes infinite
            embedded = embedded.astype(self.parts[0].dtype)
        if not np.isfinite(embedded).all():
            raise ValueError(f"embeddings: found a value that is not finite in {embedded.dtype}, expected numbers")
        with TURN:
            first = len(self)
            self._added += [(path, name, search.NO_ROW) for path, name in zip(paths, known, strict=True)]
            self._classes = dict.fromkeys([*(self._classes or there), *known])
            self.parts.append(embedded)
            return np.arange(first, len(self))

    def remove(self, rows: int | Sequence[int] | np.ndarray) -> None:
        """Remove images in memory; `save` writes the others. Later rows move up.

        Args:
            rows: one or several.

        Raises:
            ValueError: there is no such row.
        """
        with TURN:
            kept = np.ones(len(self), bool)
            kept[self._rows("row", rows)] = False
            # Runs of rows that are kept become views, so that memory maps are not read.
            edges = np.flatnonzero(np.diff(kept, prepend=False, append=False)).reshape(-1, 2)
            first, parts = 0, []
            for part in self.parts:
                runs = np.clip(edges - first, 0, len(part))
                parts += [part[start:stop] for start, stop in runs if start < stop]
                first += len(part)
            self.parts, self.index = parts or [self.parts[0][:0]], self.index[kept].reset_index(drop=True)

    def _rows(self, name: str, given: Any, least: int = 0) -> np.ndarray:
        """Return row numbers as int64; refuse what is not a number of a row, or at least `least`."""
        rows = np.atleast_1d(np.asarray(given, dtype=object))
        if bad := [row for row in rows if isinstance(row, bool) or row not in range(least, len(self))]:
            expected = f"expected {least} to {len(self) - 1:,}" if len(self) else "but the database is empty"
            raise ValueError(f"{name}: found {bad[0]!r:.40}, {expected}")
        return rows.astype(np.int64)

    def encode(self, embeddings: np.ndarray) -> np.ndarray:
        """Return embeddings (N, d) of floats as the database stores them: as codes if it holds codes."""
        return self.codes.encode(embeddings) if self.codes else embeddings

    def _vectors(self, images: SomeImages, unit: bool = False) -> np.ndarray | None:
        """Return embeddings or the database's own codes as it stores them; None if images are given.

        With `unit`, refuse embeddings whose norm is not 1: as rows, they would be more, or less, similar to any query.
        """
        if self.codes and isinstance(images, np.ndarray) and images.dtype == self.codes.dtype and images.ndim < 3:
            return np.atleast_2d(images)
        if (vectors := given.embeddings(images)) is None:
            return None
        with np.errstate(over="ignore"):  # as in `add`
            vectors = vectors.astype(np.float32, copy=False)
        if unit and vectors.shape[1] == self.width:
            norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
            if (far := np.flatnonzero(abs(norms - 1) > _NORM_ERROR)).size:
                raise ValueError(
                    f"embeddings: row {far[0]}: found the norm {norms[far[0]]:.4g}, expected 1, as the model's "
                    "embeddings have; divide by the norm"
                )
        return self.encode(vectors)

    def save(self, path: str | Path, with_model: bool = False, codes: coding.Name | None = None) -> None:
        """Write a folder that `load` opens; it appears complete or not at all, and may be the one loaded from.

        Args:
            path: of the folder.
            with_model: copy the model, and its reduction and graph if any, into the folder, so that it can embed new
                images wherever it is moved. A database that was loaded with copies keeps them. Otherwise their paths,
                relative to the folder, are stored.
            codes: "int8" or "binary" encodes the embeddings, with codes fitted to the run's training images, or else
                to the database's own rows; None writes what the database holds.

        Raises:
            FileNotFoundError: the model to copy is missing.
            ValueError: the folder holds other files, the database is empty, index and embeddings differ in length,
                there is no model to copy, another model made the embeddings, or the database holds other codes.
        """
        self._require_whole()
        if not len(self):
            raise ValueError(f"{path}: found no images in the database, expected at least one to save")
        encoding = self._encoding(codes)
        copied = []
        if with_model or storage.carries_model(self.facts):
            model = self._model()
            copied = [model / saved.CONFIG, model / saved.MODEL, *self._made().values()]
        storage.write(Path(path), self.parts, self.index, self.facts, copied, encoding)

    def _encoding(self, name: coding.Name | None) -> Codes | None:
        """Return the codes to save: those that the database holds, or new ones."""
        if name is None or self.codes and self.codes.name == name:
            return self.codes
        if self.codes:
            raise ValueError(
                f"codes: found {self.codes.name} in the database, which cannot become {name}; save the run, or a "
                "database of embeddings"
            )
        return Codes.fit(name, storage.training(self.facts) or self.parts)

    def image(self, row: int) -> np.ndarray | None:
        """Return the image of a row, (H, W, 3) uint8, or None if it is neither in the store nor in a file."""
        entry = self.index.iloc[row]
        if entry["row"] >= 0 and self.stored is not None:
            return np.array(self.stored.images[entry["row"]])
        if entry["path"] and (path := self.place(entry["path"])).is_file():
            return np.asarray(decoding.decode(path))
        return None

    def shown(self, row: int) -> np.ndarray | None:
        """Return the image of a row as `image` does; None also if it cannot be read."""
        try:
            return self.image(row)
        except (ValueError, OSError):
            return None
