"""Quantised, binary and reduced storage formats of the embedding, with their bytes per image and their recall.

The parameters of a format (a factor, means, directions) are fitted to training images.
The similarity of two stored embeddings is the dot product of the restored vectors.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lrec.embedding import codes, reduction
from lrec.embedding.codes import Codes
from lrec.evaluation.task import Task

Row = dict[str, str | int | float]


@dataclass(frozen=True)
class Format:
    """A storage format of embeddings.

    Attributes:
        name: name in results.
        size: bytes per image.
        restored: maps (n, d) embeddings to the vectors restored from storage, (n, e).
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
    for some in formats(train, dimensions, device=device):
        retrieval = task.changed(some.restored).evaluate([1], device)
        figures = {"recall_at_1": retrieval.recall[1], "map_at_r": float(retrieval.map_at_r or 0)}
        percent = {name: round(100 * value, 4) for name, value in figures.items()}
        rows.append({"code": some.name, "bytes": some.size, **percent})
    return rows


def formats(train: np.ndarray, dimensions: Sequence[int], *, device: str = "cpu") -> Iterator[Format]:
    """Yield the storage formats of embeddings with d dimensions.

    float32 and float16: plain numbers. int8 and binary: codes, see `lrec.embedding.codes.Codes`.
    pca k: the first k principal components, as float32, scaled to unit norm; whitened: each component is first divided
    by its standard deviation (`lrec.embedding.reduction`). Ties, which are frequent with short binary embeddings, count
    against the query, see `lrec.metrics.recall`.

    Args:
        train: (n, d) training embeddings.
        dimensions: numbers k of principal components; only those below both d and n are used.
        device: where principal components are computed.
    """
    width = train.shape[1]
    yield Format("float32", 4 * width, lambda x: np.asarray(x, np.float32))
    yield Format("float16", 2 * width, lambda x: np.asarray(x, np.float16))
    for name in codes.NAMES:
        code = Codes.fit(name, [train])
        yield Format(name, code.bytes, lambda x, code=code: code.numbers(code.encode(x)).astype(np.float16))
    usable = [k for k in dimensions if k < min(train.shape)]
    if usable:
        components = reduction.principal(train, max(usable), device=device)
        for k in usable:
            yield Format(f"pca {k}", 4 * k, components.first(k, "pca").apply_to)
            yield Format(f"pca {k} whitened", 4 * k, components.first(k, "whitened").apply_to)
