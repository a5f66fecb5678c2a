"""A database of embeddings that can be searched, extended and saved; it stays on disk until it is searched."""

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrec.data import store
from lrec.datasets import decoding, names
from lrec.embedding import reduction
from lrec.io import missing
from lrec.metrics import search
from lrec.model import saved
from lrec.retrieve import given, storage
from lrec.retrieve.encoder import Encoder, require_weights
from lrec.retrieve.given import SomeImages


class Database:
    """Embeddings of G images, what each image is, and the model that embeds new ones.

    Attributes:
        parts: arrays (n, d) of float32 or float16 that together hold rows 0 to G-1, in order.
        index: G rows with the columns path, class ("" where unknown) and row, the row in the packed
            store (-1 where the image is not in it).
        facts: where the model and the packed store are, and how images are resized. Their paths, and those of added
            images, start from its entry "root", or else from the current folder.
    """

    def __init__(self, embeddings: np.ndarray, index: pd.DataFrame, facts: dict[str, Any], device: str = "cpu") -> None:
        """Make a database; `load` reads one."""
        if embeddings.ndim != 2 or embeddings.dtype not in (np.float32, np.float16) or not embeddings.shape[1]:
            found = f"{embeddings.dtype} of shape {embeddings.shape}"
            raise ValueError(f"embeddings: found {found}, expected (G, d) of float32 or float16")
        self.parts, self.index, self.facts, self._device = [embeddings], index, facts, device
        self._require_whole()

    def _require_whole(self) -> None:
        """Refuse an index that does not have one row per embedding."""
        if len(self.index) != (rows := sum(map(len, self.parts))):
            raise ValueError(f"index: found {len(self.index):,} rows, expected {rows:,}, one per embedding")

    @classmethod
    def load(cls, path: str | Path, split: str | None = None, device: str = "cpu") -> "Database":
        """Open a database; embeddings are memory-mapped, and the model waits until it is needed.

        Args:
            path: a folder that `save` wrote, or a run that the pipeline has embedded, as "car_cropped/resnet18".
            split: of a run: "train", "test", "query" or "gallery"; None is the gallery where there is one, else
                test.
            device: for embedding and search.

        Raises:
            FileNotFoundError: there is no such database, or no such split.
            ValueError: a file is damaged, or the files do not belong together.
        """
        return cls(*storage.read(Path(path), split), device)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def width(self) -> int:
        """Dimensions d of an embedding."""
        return self.parts[0].shape[1]

    def place(self, path: str) -> Path:
        """Return where a path of the facts or the index leads."""
        return Path(self.facts.get("root") or "") / path

    def _written(self, image: str | Path) -> str:
        """The path of an image as the index has it: as it was given, where that leads to it from the root as well."""
        here = os.path.realpath(self.facts.get("root") or "") == os.path.realpath("")
        return str(image) if here else os.path.abspath(image)

    def embedding(self, row: int) -> np.ndarray:
        """Return the embedding of a row, (d,) float32."""
        for part in self.parts:
            if row < len(part):
                break
            row -= len(part)
        return np.array(part[row], dtype=np.float32)

    @cached_property
    def encoder(self) -> Encoder:
        """The model, read on first use.

        Raises:
            FileNotFoundError: the model is not there.
            ValueError: the database has none, or its embeddings come from other weights, or another reduction, than
                there are now.
        """
        return Encoder(self._model(), self.facts["resize"], self._device, self.facts["kind"], self._reduction())

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
            require_weights(folder, expected, "database", "run `dvc repro`, and save the database anew")
        return folder

    def _reduction(self) -> Path | None:
        """Return the file with the reduction of the database's embeddings, once it is the right one; None if whole."""
        if "reduction" not in self.facts:
            return None
        path = self.place(self.facts["reduction"])
        reduction.require(path, self.facts["reduction_digest"])
        return path

    @cached_property
    def stored(self) -> store.Store | None:
        """The packed store the images come from, or None where it is not here."""
        folder = self.place(self.facts.get("store") or "")
        if not (folder / store.IMAGES).is_file():
            return None
        opened = store.open_store(folder)
        rows, last = self.index["row"], len(opened.images) - 1
        if len(strange := rows[(rows < search.NO_ROW) | (rows > last)]):
            found = f"found row {strange.iloc[0]} in the index, expected {search.NO_ROW} to {last}"
            raise ValueError(f"{folder}: {found}; save the database anew")
        return opened

    def embed(self, images: SomeImages) -> np.ndarray:
        """Embed files, opened images or (H, W, 3) uint8 arrays, one or several, as (N, d) float32."""
        embedded = self.encoder.embed(images)
        if embedded.shape[1] != self.width:
            raise ValueError(
                f"{self.facts['model']}: makes {embedded.shape[1]} dimensions, expected {self.width} as in the database"
            )
        return embedded

    def search(
        self,
        queries: SomeImages,
        k: int,
        exclude: np.ndarray | Sequence[int] | int | None = None,
        memory_bytes: int = search.MEMORY_BYTES,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k most similar images of each query, exactly.

        Args:
            queries: one or several, Q: embeddings (Q, d) of floats, or what `embed` takes.
            k: results per query.
            exclude: (Q,) rows that a query must not find, -1 for none.
            memory_bytes: bound of the working memory.

        Returns:
            Similarities (Q, k) float32, descending, and rows (Q, k) int64 of `index`; equal ones in the order
            of rows.

        Raises:
            ValueError: k is out of range, or the queries do not fit.
        """
        embedded = self._embeddings(queries)
        hidden = None if exclude is None else np.atleast_1d(exclude)
        if hidden is not None and hidden.shape != (len(embedded),):
            raise ValueError(f"exclude: found the shape {hidden.shape}, expected ({len(embedded)},), a row per query")
        return search.top(embedded, self.parts, k, hidden, memory_bytes=memory_bytes, device=self._device)

    def add(self, images: SomeImages, classes: str | Sequence[str | None] | None = None) -> np.ndarray:
        """Append images in memory; `save` writes them to disk.

        Args:
            images: one or several, N: files, opened images or arrays, which are embedded; or embeddings (N, d) of
                floats.
            classes: names of their N classes; "" or None where unknown.

        Returns:
            Their rows, (N,) int64.

        Raises:
            ValueError: lengths or dimensions differ, or a class has a name that no data set may have.
        """
        vectors = given.embeddings(images)
        listed = given.images(images) if vectors is None else [""] * len(vectors)
        known = self._classes(classes, len(listed))
        embedded = self.embed(listed) if vectors is None else vectors
        if embedded.ndim != 2 or embedded.shape[1] != self.width:
            raise ValueError(f"embeddings: found the shape {embedded.shape}, expected (N, {self.width})")
        if not np.isfinite(embedded).all():
            raise ValueError("embeddings: found a value that is not finite, expected numbers")
        paths = [self._written(image) if isinstance(image, str | Path) else "" for image in listed]
        new = pd.DataFrame({"path": paths, "class": known, "row": np.full(len(paths), search.NO_ROW, np.int64)})
        first = len(self)
        self.index = pd.concat([self.index, new], ignore_index=True)
        self.parts.append(embedded.astype(self.parts[0].dtype))
        return np.arange(first, len(self))

    def _classes(self, classes: str | Sequence[str | None] | None, count: int) -> list[str]:
        """Return the class names of new images, checked by the rules for data sets."""
        if not isinstance(classes, str | Iterable | None):
            raise ValueError(f"classes: found {classes!r:.80}, expected a name per image")
        given_names = [classes] if isinstance(classes, str) else [""] * count if classes is None else list(classes)
        if len(given_names) != count:
            raise ValueError(f"classes: found {len(given_names)}, expected {count}, one per image")
        for name in given_names:
            if not isinstance(name, str | None):
                raise ValueError(f"classes: found {name!r:.80}, expected a name")
        found = [names.composed(name or "") for name in given_names]
        if new := set(found).difference(["", *self.index["class"].unique()]):
            there = filter(None, self.index["class"].unique())
            names.require_classes(dict.fromkeys([*there, *sorted(new)], "classes"))
        return found

    def _embeddings(self, images: SomeImages) -> np.ndarray:
        """Return embeddings as they are, and images embedded."""
        vectors = given.embeddings(images)
        return self.embed(images) if vectors is None else vectors

    def save(self, path: str | Path, with_model: bool = False) -> None:
        """Write a folder that `load` opens; it appears complete or not at all, and may be the one loaded from.

        Args:
            path: of the folder.
            with_model: copy the model, and the reduction where there is one, into it, so that the folder embeds new
                images wherever it is taken. A database that was loaded with copies keeps them. Else their paths,
                relative to the folder, are noted.

        Raises:
            FileNotFoundError: the model to copy is not there.
            ValueError: the folder holds other files, index and embeddings differ in length, the database has no model
                to copy, or the model is not the one it was embedded with.
        """
        self._require_whole()
        copied = []
        if with_model or storage.carries_model(self.facts):
            model = self._model()
            copied = [model / saved.CONFIG, model / saved.MODEL, *filter(None, [self._reduction()])]
        storage.write(Path(path), self.parts, self.index, self.facts, copied)

    def image(self, row: int) -> np.ndarray | None:
        """Return the image of a row, (H, W, 3) uint8, or None where neither the store nor the file has it."""
        entry = self.index.iloc[row]
        if entry["row"] >= 0 and self.stored is not None:
            return np.array(self.stored.images[entry["row"]])
        if entry["path"] and (path := self.place(entry["path"])).is_file():
            return np.asarray(decoding.decode(path))
        return None
