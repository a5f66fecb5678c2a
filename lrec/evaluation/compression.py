"""What the embedding costs: smaller codes of it, their bytes per image, and the recall they keep.

Everything a code needs beside the embeddings (a scale, a mean, directions) is fitted on training images.
The similarity of two codes is the dot product of what they decode to.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lrec.evaluation.task import Task

_FIT_IMAGES = 4096  # training images, evenly spaced, that a code is fitted on
Row = dict[str, str | int | float]


@dataclass(frozen=True)
class Code:
    """A way to store embeddings: its name, bytes per image, and (n, d) to what the codes decode to, (n, e)."""

    name: str
    size: int
    decoded: Callable[[np.ndarray], np.ndarray]


def compare(task: Task, train: np.ndarray, dimensions: Sequence[int], *, device: str = "cpu") -> list[Row]:
    """Measure every code of `codes` on a task.

    Returns:
        One row per code: code, bytes (per image), recall_at_1 and map_at_r in percent.
    """
    rows: list[Row] = []
    for code in codes(train, dimensions):
        found = task.changed(code.decoded).evaluate([1], device)
        figures = {"recall_at_1": found.recall[1], "map_at_r": float(found.map_at_r or 0)}
        percent = {name: round(100 * share, 4) for name, share in figures.items()}
        rows.append({"code": code.name, "bytes": code.size, **percent})
    return rows


def codes(train: np.ndarray, dimensions: Sequence[int]) -> Iterator[Code]:
    """Yield the codes of embeddings with d dimensions.

    float32 and float16: the numbers. int8: the numbers times one factor for all that brings the largest
    training value to 127, rounded. signs: one bit per dimension, whether the number is above the training
    mean. pca k: the k main directions of the training embeddings, as float32, scaled to unit norm; whitened:
    each direction divided by its standard deviation first. Ties, which are many among short codes of
    signs, count against the query, see `lrec.metrics.recall`.

    Args:
        train: (n, d) training embeddings.
        dimensions: k of the principal components; those below both d and n are used.
    """
    width = train.shape[1]
    some = np.asarray(train[:: -(-len(train) // _FIT_IMAGES)], dtype=np.float32)
    mean = some.mean(0, dtype=np.float64).astype(np.float32)
    factor = np.float32(127 / max(float(np.abs(some).max()), np.finfo(np.float32).tiny))
    yield Code("float32", 4 * width, lambda x: np.asarray(x, np.float32))
    yield Code("float16", 2 * width, lambda x: np.asarray(x, np.float16))
    yield Code("int8", width, lambda x: np.rint(np.clip(x * factor, -127, 127)).astype(np.float16))
    yield Code("signs", -(-width // 8), lambda x: np.where(x > mean, 1, -1).astype(np.float16))
    usable = [k for k in dimensions if k < min(some.shape)]
    if usable:
        directions, deviations = principal(some - mean, max(usable))
        for k in usable:
            whitened = directions[:, :k] / deviations[:k]
            yield Code(f"pca {k}", 4 * k, _projection(mean, directions[:, :k]))
            yield Code(f"pca {k} whitened", 4 * k, _projection(mean, whitened))


def principal(centred: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the main directions of rows with mean zero, and the standard deviation along each.

    Args:
        centred: (n, d) float32.
        count: k, below n and d.

    Returns:
        (d, k) float32 orthonormal columns, from the widest, and (k,) float32, at least 10^-6 of the widest.
        The smaller of the two Gram matrices is decomposed, in float64.
    """
    rows = torch.from_numpy(centred).double()
    wide = rows.shape[1] > rows.shape[0]
    gram = rows @ rows.T if wide else rows.T @ rows
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    lengths = values.clamp(min=float(values[0]) * 1e-12).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    directions = rows.T @ vectors / lengths if wide else vectors
    return directions.float().numpy(), (lengths / len(rows) ** 0.5).float().numpy()


def _projection(mean: np.ndarray, directions: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def project(embeddings: np.ndarray) -> np.ndarray:
        found = (np.asarray(embeddings, np.float32) - mean) @ directions
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.finfo(np.float32).tiny)

    return project
