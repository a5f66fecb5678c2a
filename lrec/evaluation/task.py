"""A retrieval task: the embeddings of queries and gallery, with their class labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from lrec.data.store import tested
from lrec.io import reading
from lrec.metrics import recall


@dataclass(frozen=True)
class Task:
    """Embeddings with their class labels.

    Attributes:
        query: (Q, d) float32 or float16, often a memory map.
        query_labels: (Q,) int64.
        gallery: (G, d), or None: every query searches the other queries (leave-one-out).
        gallery_labels: (G,) int64, None if and only if `gallery` is.
    """

    query: np.ndarray
    query_labels: np.ndarray
    gallery: np.ndarray | None = None
    gallery_labels: np.ndarray | None = None

    @property
    def leave_one_out(self) -> bool:
        """Whether the query set is the gallery, so that a query must not find itself."""
        return self.gallery is None

    @property
    def items(self) -> np.ndarray:
        """The embeddings that are searched: the gallery, or the queries."""
        return self.query if self.gallery is None else self.gallery

    @property
    def item_labels(self) -> np.ndarray:
        """The class labels of `items`."""
        return self.query_labels if self.gallery_labels is None else self.gallery_labels

    def evaluate(self, ks: Sequence[int], device: str = "cpu", precision: bool = True) -> recall.Retrieval:
        """Compute the exact metrics, see `lrec.metrics.recall.evaluate`."""
        return recall.evaluate(
            self.query, self.query_labels, ks, self.gallery, self.gallery_labels, device=device, precision=precision
        )

    def changed(self, change: Callable[[np.ndarray], np.ndarray]) -> "Task":
        """Return the task with a function applied to its embeddings, (n, d) to (n, e)."""
        return replace(self, query=change(self.query), gallery=None if self.gallery is None else change(self.gallery))

    def columns(self, chosen: Sequence[int] | np.ndarray) -> "Task":
        """Return the task with only some of the embeddings' columns, in memory."""
        return self.changed(lambda embeddings: np.asarray(embeddings[:, chosen]))

    def sample(self, images: int, seed: int = 0) -> "Task":
        """Return a task of randomly drawn whole classes with at most `images` queries and items in total.

        It has all classes if they fit, and at least two with queries. The embeddings are copied into memory. Fewer
        classes make an easier task, so results on samples are comparable only with each other.
        """
        labels = self.query_labels if self.gallery is None else np.concatenate([self.query_labels, self.gallery_labels])
        classes, counts = np.unique(labels, return_counts=True)
        order = np.random.default_rng(seed).permutation(len(classes))
        # Start with classes that have queries: a gallery may have large classes without queries.
        searched = np.isin(classes[order], self.query_labels)
        first = order[searched][:2]
        chosen, total = list(classes[first]), int(counts[first].sum())
        for place in order[~np.isin(order, first)]:
            if total + counts[place] <= images:
                chosen.append(classes[place])
                total += int(counts[place])
        some = np.isin(self.query_labels, chosen)
        if self.gallery is None or self.gallery_labels is None:
            return Task(self.query[some], self.query_labels[some])
        others = np.isin(self.gallery_labels, chosen)
        return Task(self.query[some], self.query_labels[some], self.gallery[others], self.gallery_labels[others])


def read(folder: Path, index: pd.DataFrame, prefix: str = "") -> Task:
    """Open the embeddings of a run as memory maps.

    Query images search the gallery if the data set has one; otherwise every test image searches all others.

    Args:
        folder: folder of the embeddings, `<prefix><split>.npy`.
        index: index of the packed store that was embedded.
        prefix: "" for the trained network, "untrained_" for the network before training.

    Raises:
        FileNotFoundError: there are none.
        ValueError: embeddings and index disagree.
    """
    return Task(
        *(
            part
            for split in tested(index["split"])
            for part in read_split(folder / f"{prefix}{split}.npy", index, split)
        )
    )


def find(folder: Path, index: pd.DataFrame, prefix: str) -> Task | None:
    """Open embeddings as `read` does, or return None if there are none with this prefix."""
    there = all((folder / f"{prefix}{split}.npy").exists() for split in tested(index["split"]))
    return read(folder, index, prefix) if there else None


def read_split(path: Path, index: pd.DataFrame, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a split's embeddings, a memory map, and its labels; errors are those of `read`."""
    embeddings = reading.read_array(path, "embed", 2, np.float32, np.float16, finite=True)
    labels = index.loc[index["split"] == split, "label"].to_numpy()
    if len(embeddings) != len(labels):
        raise ValueError(f"{path}: found {len(embeddings)} rows, expected {len(labels)} as in the index; embed again")
    return embeddings, labels
