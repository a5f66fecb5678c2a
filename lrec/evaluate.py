"""Metrics of stored embeddings: which split is searched in which, and what comes out."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrec import files, recall


def evaluate(folder: Path, index: pd.DataFrame, ks: list[int], prefix: str = "") -> dict[str, Any] | None:
    """Compute Recall@K of a combination's embeddings.

    Args:
        folder: the embeddings, `<prefix><split>.npy`.
        index: of the packed store they were made from.
        ks: cut-offs.
        prefix: "" for the trained network, "untrained_" for the start of training.

    Returns:
        recall {k: share}, queries, lone_queries (without a positive, counted as misses) and gallery; or
        None when nothing with this prefix was embedded. Query images are searched in the gallery where
        the data set has one, else every test image in all the others.

    Raises:
        ValueError: embeddings and index disagree.
    """
    splits = ["query", "gallery"] if (index["split"] == "query").any() else ["test"]
    if not all((folder / f"{prefix}{split}.npy").exists() for split in splits) and prefix:
        return None
    arrays = [_read(folder, prefix + split, index, split) for split in splits]
    (query, query_labels), (gallery, gallery_labels) = arrays[0], arrays[1] if len(arrays) > 1 else (None, None)
    found = recall.recall_at_k(query, query_labels, ks, gallery, gallery_labels)
    size = len(query) - 1 if gallery is None else len(gallery)
    lone = _lone(query_labels, gallery_labels)
    return {
        "recall": {str(k): found[k] for k in ks},
        "queries": len(query),
        "lone_queries": lone,
        "gallery": size,
    }


def _lone(query_labels: np.ndarray, gallery_labels: np.ndarray | None) -> int:
    """Count queries that no gallery item shares a class with."""
    if gallery_labels is not None:
        return int((~np.isin(query_labels, gallery_labels)).sum())
    _, counts = np.unique(query_labels, return_counts=True)
    return int((counts == 1).sum())


def _read(folder: Path, name: str, index: pd.DataFrame, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a split's embeddings and labels."""
    path = folder / f"{name}.npy"
    embeddings = files.read_array(path, "embed", 2, np.float32)
    labels = index.loc[index["split"] == split, "label"].to_numpy()
    if len(embeddings) != len(labels):
        raise ValueError(f"{path}: found {len(embeddings)} rows, expected {len(labels)} as in the index; embed anew")
    return embeddings, labels
