"""A database of embeddings to search, grow and save; it stays on disk until it is searched."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import AfterValidator
from typing_extensions import TypedDict

from lrec import paths
from lrec.data import store
from lrec.datasets import picture
from lrec.embedding import audit
from lrec.io import files, hashing, reading
from lrec.metrics import search
from lrec.model import saved
from lrec.model.kinds import KINDS
from lrec.retrieve.encoder import Encoder, Picture

EMBEDDINGS, INDEX, FACTS = "embeddings.npy", "index.csv", "database.json"
COLUMNS = ("path", "class", "row")
_BLOCK = 65536


class Facts(TypedDict, total=False):
    """What database.json may say; of the model that embeds images all, or nothing.

    weights: SHA-256 of the model's weights, with which the database was embedded.
    """

    model: str
    weights: str
    store: str
    resize: Literal["squash", "crop"]
    kind: Literal[tuple(KINDS)]


def _whole(facts: dict[str, Any]) -> dict[str, Any]:
    if missing := [name for name in ("resize", "kind") if "model" in facts and name not in facts]:
        raise ValueError(f"{missing[0]} beside model")
    return facts


class Database:
    """Embeddings of G images, what each image is, and the model that embeds new ones.

    Attributes:
        parts: arrays (n, d) of float32 or float16 that hold rows 0 to G-1 one after the other.
        index: G rows with the columns path, class ("" where unknown) and row, the row in the packed
            store (-1 where the image is not in it).
        facts: where the model and the packed store are, and how pictures are resized.
    """

    def __init__(self, embeddings: np.ndarray, index: pd.DataFrame, facts: dict[str, Any], device: str = "cpu") -> None:
        """Make a database; `load` reads one."""
        if embeddings.ndim != 2 or embeddings.dtype not in (np.float32, np.float16) or not embeddings.shape[1]:
            found = f"{embeddings.dtype} of shape {embeddings.shape}"
            raise ValueError(f"embeddings: found {found}, expected (G, d) of float32 or float16")
        if len(index) != len(embeddings):
            raise ValueError(f"index: found {len(index):,} rows, expected {len(embeddings):,}, one per embedding")
        self.parts, self.index, self.facts, self._device = [embeddings], index, facts, device

    @classmethod
    def load(cls, path: str | Path, split: str | None = None, device: str = "cpu") -> "Database":
        """Open a database; embeddings are memory-mapped, and the model waits until it is needed.

        Args:
            path: a folder that `save` wrote, or a combination that the pipeline has embedded, as
                "car_cropped/resnet18".
            split: of a combination: "train", "test", "query" or "gallery"; None is the gallery where
                there is one, else test.
            device: of embedding and search.

        Raises:
            FileNotFoundError: there is no such database, or no such split.
            ValueError: a file is damaged, or files do not belong together.
        """
        folder = Path(path)
        if (folder / FACTS).is_file():
            if split is not None:
                raise ValueError(f"{folder}: found a split ({split}), expected none: a saved database is one whole")
            table = reading.read_table(folder / INDEX, COLUMNS, reading.SAVED, integers=["row"]).astype(
                {"row": np.int64}
            )
            facts = reading.read_json(folder / FACTS, reading.SAVED, Annotated[Facts, AfterValidator(_whole)])
            return cls(_open_array(folder / EMBEDDINGS, reading.SAVED), table, facts, device)
        if folder.is_dir() and folder.parts[:1] == paths.EMBEDDINGS.parts:
            folder = folder.relative_to(paths.EMBEDDINGS)
        if len(folder.parts) != 2 or not paths.embeddings(*folder.parts).is_dir():
            known = sorted(p.relative_to(p.parents[1]).as_posix() for p in paths.EMBEDDINGS.glob("*/*") if p.is_dir())
            raise FileNotFoundError(
                f"{path}: found no such database, expected one of {', '.join(known) or 'none yet'}, or a folder that "
                "Database.save wrote; list the data set in params.yaml and run `dvc repro`"
            )
        return cls._of_pipeline(*folder.parts, split, device)

    @classmethod
    def _of_pipeline(cls, variant: str, backbone: str, split: str | None, device: str) -> "Database":
        folder, packed = paths.embeddings(variant, backbone), paths.store(variant)
        table = store.read_index(packed / store.INDEX)
        there = list(dict.fromkeys(table["split"]))
        split = split or next(name for name in ("gallery", "test", there[-1]) if name in there)
        if split not in there:
            raise ValueError(f"split: found {split!r}, expected one of {', '.join(there)} for {variant}")
        rows = table[table["split"] == split]
        dataset, made = store.read_facts(packed), audit.read(paths.embedding_facts(variant, backbone))
        facts = {
            "name": f"{variant}/{backbone}",
            "split": split,
            "model": paths.model(variant, backbone).as_posix(),
            "weights": made["weights"],
            "store": packed.as_posix(),
            "resize": dataset["resize"],
            "crop": dataset["crop"],
            "kind": made["kind"],
        }
        embeddings = _open_array(folder / f"{split}.npy", "embed")
        return cls(embeddings, rows[list(COLUMNS)].reset_index(drop=True), facts, device)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def width(self) -> int:
        """Dimensions d of an embedding."""
        return self.parts[0].shape[1]

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
            ValueError: the database was made without one, or with other weights than the model has now.
        """
        if "model" not in self.facts:
            raise ValueError("database: names no model that could embed an image; pass embeddings, (N, d) of floats")
        folder = Path(self.facts["model"])
        path, expected = folder / saved.MODEL, self.facts.get("weights")
        if expected and path.is_file() and (found := hashing.of_file(path)) != expected:
            raise ValueError(
                f"{path}: found other weights (SHA-256 {found[:16]}) than the database was embedded with "
                f"({expected[:16]}), so their similarities would mean nothing; run `dvc repro`, and save the database "
                "anew"
            )
        return Encoder(folder, self.facts["resize"], self._device, self.facts["kind"])

    @cached_property
    def stored(self) -> store.Store | None:
        """The packed store the images come from, or None where it is not here."""
        folder = Path(self.facts.get("store") or "")
        if not (folder / store.IMAGES).is_file():
            return None
        opened = store.open_store(folder)
        rows, last = self.index["row"], len(opened.images) - 1
        if len(strange := rows[(rows < search.NO_ROW) | (rows > last)]):
            found = f"found row {strange.iloc[0]} in the index, expected {search.NO_ROW} to {last}"
            raise ValueError(f"{folder}: {found}; save the database anew")
        return opened

    def embed(self, images: Picture | Sequence[Picture]) -> np.ndarray:
        """Embed files, decoded pictures or (H, W, 3) uint8 arrays, one or several, as (N, d) float32."""
        single = isinstance(images, str | Path) or not isinstance(images, Sequence | np.ndarray)
        if isinstance(images, np.ndarray) and images.ndim == 3:
            single = True
        embedded = self.encoder.embed([images] if single else images)
        if embedded.shape[1] != self.width:
            raise ValueError(
                f"{self.facts['model']}: makes {embedded.shape[1]} dimensions, expected {self.width} as in the database"
            )
        return embedded

    def search(
        self,
        queries: np.ndarray | torch.Tensor | Picture | Sequence[Picture],
        k: int,
        exclude: np.ndarray | None = None,
        memory_bytes: int = search.MEMORY_BYTES,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k most similar images of each query, exactly.

        Args:
            queries: embeddings (Q, d) of floats, or what `embed` takes.
            k: results per query.
            exclude: (Q,) rows that a query must not find, -1 for none.
            memory_bytes: bound of the working memory.

        Returns:
            Similarities (Q, k) float32, descending, and rows (Q, k) int64 of `index`; equal ones in the order
            of rows.

        Raises:
            ValueError: k is out of range, or the queries do not fit.
        """
        return search.top(
            self._embeddings(queries), self.parts, k, exclude, memory_bytes=memory_bytes, device=self._device
        )

    def add(
        self, images: np.ndarray | torch.Tensor | Sequence[Picture], classes: Sequence[str] | None = None
    ) -> np.ndarray:
        """Append images in memory; `save` makes that last.

        Args:
            images: N files, decoded pictures or arrays, which are embedded; or embeddings (N, d) of floats.
            classes: their N names, where known.

        Returns:
            Their rows, (N,) int64.

        Raises:
            ValueError: numbers or dimensions differ.
        """
        if classes is not None and len(classes) != len(images):
            raise ValueError(f"classes: found {len(classes)}, expected {len(images)}, one per image")
        first = len(self)
        embedded = self._embeddings(images)
        if embedded.ndim != 2 or embedded.shape[1] != self.width:
            raise ValueError(f"embeddings: found the shape {embedded.shape}, expected (N, {self.width})")
        names = [str(image) if isinstance(image, str | Path) else "" for image in images]
        known = list(classes) if classes is not None else [""] * len(images)
        self.parts.append(embedded.astype(self.parts[0].dtype))
        new = pd.DataFrame({"path": names, "class": known, "row": np.full(len(names), search.NO_ROW, np.int64)})
        self.index = pd.concat([self.index, new], ignore_index=True)
        return np.arange(first, len(self))

    def _embeddings(self, images: np.ndarray | torch.Tensor | Picture | Sequence[Picture]) -> np.ndarray:
        """Return embeddings as they are, and images embedded."""
        if isinstance(images, torch.Tensor):
            images = images.detach().cpu().numpy()
        is_embedded = isinstance(images, np.ndarray) and np.issubdtype(images.dtype, np.floating)
        return images if is_embedded else self.embed(images)

    def save(self, path: str | Path) -> None:
        """Write a folder that `load` opens; it appears complete or not at all, and may be the one loaded.

        Raises:
            ValueError: there is a folder with other files in it.
        """
        files.require_replaceable(Path(path), (EMBEDDINGS, INDEX, FACTS))
        files.clear_drafts(Path(path))
        with files.atomic_folder(Path(path)) as draft:
            out = files.map_array(draft / EMBEDDINGS, self.parts[0].dtype, (len(self), self.width))
            first = 0
            for part in self.parts:
                for start in range(0, len(part), _BLOCK):
                    block = part[start : start + _BLOCK]
                    out[first : first + len(block)] = block
                    first += len(block)
            out.flush()
            files.write_table(draft / INDEX, self.index)
            files.write_json(draft / FACTS, self.facts | {"split": None})

    def picture(self, row: int) -> np.ndarray | None:
        """Return the picture of a row, (H, W, 3) uint8, or None where neither store nor file is here."""
        entry = self.index.iloc[row]
        if entry["row"] >= 0 and self.stored is not None:
            return np.array(self.stored.images[entry["row"]])
        if entry["path"] and Path(entry["path"]).is_file():
            return np.asarray(picture.decode(Path(entry["path"])))
        return None


def _open_array(path: Path, made_by: str) -> np.ndarray:
    """Memory-map embeddings of either precision; what is not finite in them is noticed when it is searched."""
    return reading.read_array(path, made_by, 2, np.float32, np.float16)
