"""Approximate search with faiss, an optional dependency (pip install faiss-cpu), for galleries beyond a million.

Only this module needs faiss: `lrec.metrics.search` is exact and keeps only one block in memory.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrec.embedding.codes import Codes
from lrec.metrics import search
from lrec.retrieve.storage import BLOCK

KINDS = ("flat", "ivfpq", "hnsw")
_TRAINING = 100_000  # rows to learn the lists and codebooks of ivfpq from


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ValueError(f"faiss: not installed ({error}); pip install faiss-cpu") from error
    return faiss


class Index:
    """A faiss index over the rows of one or more arrays (n, d).

    Args:
        kind: "flat" (exact), "ivfpq" (16 to 64 bytes per row instead of 4 d) or "hnsw" (a graph: fast, a few hundred
            bytes more per row than "flat").
        gallery: arrays of float32, float16 or codes, memory maps for example; read block by block. "flat" and
            "hnsw" store int8 and binary codes unchanged.
        codes: the encoding of the gallery, or None.

    Raises:
        ValueError: the kind is unknown or not for binary codes, faiss is not installed, or there are too few rows to
            learn codebooks from.
    """

    def __init__(self, kind: str, gallery: Sequence[np.ndarray], codes: Codes | None = None) -> None:
        faiss = _faiss()
        size, width, self._codes = sum(len(part) for part in gallery), gallery[0].shape[1], codes
        # The dtype that faiss takes.
        self._dtype = np.uint8 if codes and codes.name == "binary" else np.float32
        if kind == "flat":
            self._index = self._flat(faiss, width)
        elif kind == "hnsw":
            self._index = self._graph(faiss, width)
            self._index.hnsw.efConstruction, self._index.hnsw.efSearch = 100, 128
        elif kind == "ivfpq":
            if self._dtype == np.uint8:
                raise ValueError("index: found ivfpq for binary codes, which are short already; use flat or hnsw")
            self._index = self._quantised(faiss, gallery, size, width)
        else:
            raise ValueError(f"index: found {kind!r}, expected one of {', '.join(KINDS)}")
        for part in gallery:
            for start in range(0, len(part), BLOCK):
                self._index.add(np.ascontiguousarray(part[start : start + BLOCK], dtype=self._dtype))

    def _flat(self, faiss: Any, width: int) -> Any:
        if self._codes is None:
            return faiss.IndexFlatIP(width)
        if self._dtype == np.uint8:
            found = faiss.IndexBinaryFlat(8 * width)
            found.use_heap = False  # counting instead keeps equally distant rows in order
            return found
        return faiss.IndexScalarQuantizer(
            width, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )

    def _graph(self, faiss: Any, width: int) -> Any:
        if self._codes is None:
            return faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
        if self._dtype == np.uint8:
            return faiss.IndexBinaryHNSW(8 * width, 32)
        return faiss.IndexHNSWSQ(width, faiss.ScalarQuantizer.QT_8bit_direct_signed, 32, faiss.METRIC_INNER_PRODUCT)

    @staticmethod
    def _quantised(faiss: Any, gallery: Sequence[np.ndarray], size: int, width: int) -> Any:
        if size < 256:
            raise ValueError(f"index: found {size} rows, expected at least 256 for ivfpq; use flat")
        lists = max(1, min(int(4 * size**0.5), size // 39))  # faiss asks for 39 training rows per list
        pieces = next(count for count in (64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1) if width % count == 0)
        # A codebook needs 39 training rows per entry as well.
        bits = min(8, (size // 39).bit_length() - 1)
        quantizer = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFPQ(quantizer, width, lists, pieces, bits, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = max(1, lists // 16)
        taken = [part[:: max(1, size // _TRAINING)] for part in gallery]
        index.train(np.concatenate([np.asarray(part, dtype=np.float32) for part in taken]))
        return index

    def search(self, queries: np.ndarray, k: int, exclude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find about the k most similar rows of each query.

        Args:
            queries: (Q, d) floats; codes, if the gallery holds codes.
            k: results per query.
            exclude: (Q,) rows to exclude, `lrec.metrics.search.NO_ROW` for none.

        Returns:
            Scores (Q, k) float32, approximate with ivfpq, and rows (Q, k) int64; where fewer were found, -inf
            and `NO_ROW` at the end.
        """
        scores, rows = self._index.search(np.ascontiguousarray(queries, dtype=self._dtype), k + 1)
        if self._codes:
            scores = self._codes.similarities(-scores if self._dtype == np.uint8 else scores)
        own = (rows == exclude[:, None]) & (rows != search.NO_ROW)
        # k + 1 results were requested; a stable sort moves an excluded row to the end.
        order = np.argsort(own, axis=1, kind="stable")[:, :k]
        scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
        return np.where(rows == search.NO_ROW, -np.inf, scores).astype(np.float32), rows


def agreement(exact: np.ndarray, found: np.ndarray) -> float:
    """Return the fraction of the exact results (Q, k) that are among those found (Q, k)."""
    return float(np.mean([np.isin(right, rows).mean() for right, rows in zip(exact, found, strict=True)]))
