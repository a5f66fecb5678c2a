"""Storage formats of the embedding: quantised, binary and reduced ones, their bytes per image and their recall.

Whatever a format needs in addition to the embeddings (a scale, a mean, directions) is fitted on training images.
The similarity of two stored embeddings is the dot product of the restored vectors.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lrec.evaluation.task import Task

_FIT_IMAGES = 4096  # training images, evenly spaced, that a format is fitted on
Row = dict[str, str | int | float]


@dataclass(frozen=True)
class Format:
    """A storage format of embeddings.

    Attributes:
        name: in results.
        size: bytes per image.
        restored: maps (n, d) embeddings to the vectors that are restored from storage, (n, e).
    """

    name: str
    size: int
    restored: Callable[[np.ndarray], np.ndarray]


def compare(task: Task, train: np.ndarray, dimensions: Sequence[int], *, device: str = "cpu") -> list[Row]:
    """Evaluate a task in every format of `formats`.

    Returns:
        One row per format: code (its name), bytes (per image), recall_at_1 and map_at_r in percent.
    """
    rows: list[Row] = []
    for some in formats(train, dimensions):
        retrieval = task.changed(some.restored).evaluate([1], device)
        figures = {"recall_at_1": retrieval.recall[1], "map_at_r": float(retrieval.map_at_r or 0)}
        percent = {name: round(100 * value, 4) for name, value in figures.items()}
        rows.append({"code": some.name, "bytes": some.size, **percent})
    return rows


def formats(train: np.ndarray, dimensions: Sequence[int]) -> Iterator[Format]:
    """Yield the storage formats of embeddings with d dimensions.

    float32 and float16: the numbers. int8: the numbers, scaled by one common factor that maps the largest training
    value to 127, and rounded. signs: binary, one bit per dimension: whether the number is above the training mean.
    pca k: the first k principal components, as float32, scaled to unit norm; whitened: each component is divided by
    its standard deviation first. Ties, which short binary embeddings have many of, count against the query, see
    `lrec.metrics.recall`.

    Args:
        train: (n, d) training embeddings.
        dimensions: the k of the principal components; those below both d and n are used.
    """
    width = train.shape[1]
    some = np.asarray(train[:: -(-len(train) // _FIT_IMAGES)], dtype=np.float32)
    mean = some.mean(0, dtype=np.float64).astype(np.float32)
    factor = np.float32(127 / max(float(np.abs(some).max()), np.finfo(np.float32).tiny))
    yield Format("float32", 4 * width, lambda x: np.asarray(x, np.float32))
    yield Format("float16", 2 * width, lambda x: np.asarray(x, np.float16))
    yield Format("int8", width, lambda x: np.rint(np.clip(x * factor, -127, 127)).astype(np.float16))
    yield Format("signs", -(-width // 8), lambda x: np.where(x > mean, 1, -1).astype(np.float16))
    usable = [k for k in dimensions if k < min(some.shape)]
    if usable:
        directions, deviations = principal(some - mean, max(usable))
        for k in usable:
            whitened = directions[:, :k] / deviations[:k]
            yield Format(f"pca {k}", 4 * k, _projection(mean, directions[:, :k]))
            yield Format(f"pca {k} whitened", 4 * k, _projection(mean, whitened))


def principal(centred: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal directions of rows with mean zero, and the standard deviation along each.

    Args:
        centred: (n, d) float32.
        count: k, below n and d.

    Returns:
        (d, k) float32 orthonormal columns, by decreasing deviation, and (k,) float32, at least 10^-6 of the largest.
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
        projected = (np.asarray(embeddings, np.float32) - mean) @ directions
        return projected / np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), np.finfo(np.float32).tiny)

    return project
