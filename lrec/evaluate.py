"""Metrics of stored embeddings: which split is searched in which, and what comes out."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrec import files, recall


def evaluate(
    folder: Path, index: pd.DataFrame, ks: list[int], prefix: str = "", device: str = "cpu"
) -> dict[str, Any] | None:
    """Compute the retrieval metrics of a combination's embeddings.

    Args:
        folder: the embeddings, `<prefix><split>.npy`.
        index: of the packed store they were made from.
        ks: cut-offs.
        prefix: "" for the trained network, "untrained_" for the start of training.
        device: where similarities are computed; the figures do not depend on it.

    Returns:
        The figures of `lrec.recall.Retrieval` as plain numbers, with the numbers of queries and of
        gallery items that each is searched in; or None when nothing with this prefix was embedded. Query
        images are searched in the gallery where the data set has one, else every test image in all others.

    Raises:
        ValueError: embeddings and index disagree.
    """
    splits = ["query", "gallery"] if (index["split"] == "query").any() else ["test"]
    if not all((folder / f"{prefix}{split}.npy").exists() for split in splits) and prefix:
        return None
    arrays = [_read(folder, prefix + split, index, split) for split in splits]
    (query, query_labels), (gallery, gallery_labels) = arrays[0], arrays[1] if len(arrays) > 1 else (None, None)
    found = recall.evaluate(query, query_labels, ks, gallery, gallery_labels, device=device)
    return {
        "recall": {str(k): found.recall[k] for k in ks},
        "map_at_r": found.map_at_r,
        "r_precision": found.r_precision,
        "mean_reciprocal_rank": found.mean_reciprocal_rank,
        "macro_recall_at_1": found.macro_recall_at_1,
        "recall_at_1_interval": list(found.recall_at_1_interval),
        "queries": len(query),
        "lone_queries": found.lone_queries,
        "gallery": len(query) - 1 if gallery is None else len(gallery),
    }


def _read(folder: Path, name: str, index: pd.DataFrame, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a split's embeddings and labels."""
    path = folder / f"{name}.npy"
    embeddings = files.read_array(path, "embed", 2, np.float32)
    labels = index.loc[index["split"] == split, "label"].to_numpy()
    if len(embeddings) != len(labels):
        raise ValueError(f"{path}: found {len(embeddings)} rows, expected {len(labels)} as in the index; embed anew")
    return embeddings, labels
