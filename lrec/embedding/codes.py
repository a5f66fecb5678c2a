"""Codes: embeddings stored as 8-bit integers, or as one bit per dimension.

Evaluation and search both encode with `Codes.encode`. Queries are encoded like the gallery, so the similarity of
codes is an exact integer: the inner product of int8 codes, or the number of dimensions in which binary codes differ
(Hamming distance).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Name = Literal["int8", "binary"]
NAMES: tuple[Name, ...] = ("int8", "binary")
DTYPES = {"int8": np.dtype(np.int8), "binary": np.dtype(np.uint8)}
_LARGEST = 127  # of an int8 code
_LEAST = 1e-30  # lower bound of the largest magnitude, so that the factor is finite
_FIT_ROWS = 4096  # evenly spaced rows to fit codes to


@dataclass(frozen=True)
class Codes:
    """How embeddings of d dimensions are encoded.

    Attributes:
        name: "int8": all numbers are multiplied by one factor, which maps the largest fitted number to 127, and
            rounded; larger numbers are clipped. "binary": whether a number is above its dimension's mean, eight
            dimensions per byte; the last byte is padded with zeros.
        dimensions: d.
        fitted: the factor, (1,), or the means, (d,); float32.
    """

    name: Name
    dimensions: int
    fitted: np.ndarray

    @classmethod
    def fit(cls, name: Name, parts: Sequence[np.ndarray]) -> "Codes":
        """Fit codes to embeddings, preferably those of training images.

        Args:
            name: one of `NAMES`.
            parts: one or more arrays (n, d) of float32 or float16; about 4,096 rows are used if there are more.

        Raises:
            ValueError: the name is unknown, there are no rows, or a value is not finite.
        """
        if name not in NAMES:
            raise ValueError(f"codes: found {name!r:.40}, expected one of {', '.join(NAMES)}")
        step = max(1, -(-sum(map(len, parts)) // _FIT_ROWS))
        some = np.concatenate([np.asarray(part[::step], dtype=np.float32) for part in parts])
        if not len(some) or not np.isfinite(some).all():
            found = "a value that is not finite" if len(some) else "no embeddings"
            raise ValueError(f"codes: found {found} to fit on, expected numbers")
        if name == "binary":
            fitted = some.mean(0, dtype=np.float64).astype(np.float32)
        else:
            fitted = np.array([_LARGEST / max(float(some.max()), -float(some.min()), _LEAST)], np.float32)
        return cls(name, some.shape[1], fitted)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the codes."""
        return DTYPES[self.name]

    @property
    def bytes(self) -> int:
        """Bytes per image."""
        return -(-self.dimensions // 8) if self.name == "binary" else self.dimensions

    def encode(self, embeddings: np.ndarray, first: int = 0) -> np.ndarray:
        """Return codes: (n, d) int8, or (n, ceil(d / 8)) uint8.

        Args:
            embeddings: (n, d) float32 or float16.
            first: number of the first row, for errors.

        Raises:
            ValueError: the shape is wrong, or a value is not finite.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dimensions:
            raise ValueError(f"embeddings: found the shape {embeddings.shape}, expected (N, {self.dimensions})")
        if not (finite := np.isfinite(embeddings).all(axis=1)).all():
            row = first + int(np.argmin(finite))
            raise ValueError(f"embeddings: found a value that is not finite in row {row}, expected numbers")
        if self.name == "binary":
            return np.packbits(embeddings > self.fitted, axis=1)
        scaled = np.multiply(embeddings, self.fitted, dtype=np.float32)
        return np.rint(np.clip(scaled, -_LARGEST, _LARGEST)).astype(np.int8)

    def numbers(self, codes: np.ndarray) -> np.ndarray:
        """Return (n, d) int8 numbers whose inner products rank like the codes: int8 codes, or 1 and -1 for bits."""
        if self.name == "int8":
            return codes
        return np.where(np.unpackbits(codes, axis=1, count=self.dimensions), 1, -1).astype(np.int8)

    def similarities(self, scores: np.ndarray) -> np.ndarray:
        """Map scores of any shape to the scale of cosine similarities, as float32.

        Args:
            scores: inner products of int8 codes, or negative Hamming distances -h, which give 1 - 2 h / d.
        """
        exact = np.asarray(scores, np.float64)
        if self.name == "binary":
            return (1 + 2 * exact / self.dimensions).astype(np.float32)
        return (exact / np.square(self.fitted, dtype=np.float64)).astype(np.float32)
