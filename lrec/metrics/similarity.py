"""Embeddings read block by block, their dot products, and bounds on the rounding error of such a product.

Labels are not used here; `ranking` decides which items are similar to a query.
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch

from lrec.compute.device import is_gpu
from lrec.compute.transfer import to_device

Embeddings: TypeAlias = np.ndarray | torch.Tensor

# Long products are summed in sections, because the error bound grows with the longest section.
_SECTION = 1024
# Values processed at a time: few enough for a CPU's cache, or enough to keep a GPU busy.
_PAIRS, _PAIRS_ON_GPU = 2**19, 2**25
_SCANNED, _SCANNED_ON_GPU = 2**17, 2**24
_COUNTED = 2**14  # rows whose bits are counted together: 128 kB for one word of each
_DTYPES = ("float16", "float32", "float64")


class Rows:
    """A set of embeddings in a given row order, checked once and read on demand.

    If the largest magnitude is above 2 or below 2^-20, all values are multiplied by the power of two that brings it
    into [0.5, 1). This changes no ranking and prevents overflow and underflow of float32 products.

    Attributes:
        norms: (N,) float64 lengths of the rows as `take` returns them, in row order.
    """

    def __init__(self, data: Embeddings, order: np.ndarray, name: str, device: torch.device, keep_bytes: int) -> None:
        """Check the embeddings; keep a copy of them on the device if it fits `keep_bytes`.

        On a CPU, the copy is in float32. On a GPU, where converting is faster than copying, it has the stored dtype.

        Args:
            data: (N, d) float16, float32 or float64; a memory map is read block by block.
            order: (N,) int64; entry i is the row of `data` at place i.
            name: name of the embeddings in error messages.
            device: device of the blocks.
            keep_bytes: maximum size of the copy.

        Raises:
            ValueError: the data are not two-dimensional, have another dtype, or hold a value that is not finite.
        """
        kind = str(data.dtype).removeprefix("torch.")
        if data.ndim != 2 or data.shape[1] == 0 or kind not in _DTYPES:
            raise ValueError(f"{name}: found {kind} of shape {tuple(data.shape)}, expected (rows, d) of float16/32/64")
        self._data = data.detach() if isinstance(data, torch.Tensor) else data
        self._order, self._name, self._device = order, name, device
        self._exact_in_float32 = kind != "float64"
        self._kept: torch.Tensor | None = None
        self._kept_as_stored = is_gpu(device)
        self._scale = 1.0
        self.size, self.width = data.shape
        stored = getattr(torch, kind)
        if self._kept_as_stored and self.size * self.width * stored.itemsize <= keep_bytes:
            self._keep(stored, _SCANNED_ON_GPU // self.width)
        self.norms = self._scan()
        if not self._kept_as_stored and self.size * self.width * 4 <= keep_bytes:
            self._keep(torch.float32, 4096)

    def _keep(self, dtype: torch.dtype, count: int) -> None:
        """Copy all rows to the device, `count` at a time: as they are stored, or scaled to float32."""
        kept = torch.empty(self.size, self.width, dtype=dtype, device=self._device)
        for rows in self.blocks(max(1, count)):
            kept[rows] = self._read(rows) if self._kept_as_stored else self.take(rows, dtype)
        self._kept = kept

    @property
    def kept_bytes(self) -> int:
        """Memory of the copy on the device."""
        return 0 if self._kept is None else self._kept.nbytes

    def part(self, rows: slice) -> "Rows":
        """Return a view of some of the rows, numbered from 0."""
        view = copy.copy(self)
        view._order, view.norms = self._order[rows], self.norms[rows]
        view._kept = None if self._kept is None else self._kept[rows]
        view.size = len(view.norms)
        return view

    def blocks(self, size: int) -> Iterator[slice]:
        """Yield slices of at most `size` rows that cover all rows."""
        for start in range(0, self.size, size):
            yield slice(start, min(start + size, self.size))

    def take(self, rows: slice | torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return rows by place, as (n, d) on the device; float64 values are not rounded before scaling."""
        as_stored = self._kept_as_stored or self._kept is None
        if not as_stored and (self._exact_in_float32 or dtype == torch.float32):
            return self._kept[rows].to(dtype)
        values = self._read(rows)
        return values.to(dtype) if self._scale == 1.0 else (values.double() * self._scale).to(dtype)

    def _read(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """Return rows as they are stored."""
        if self._kept is not None and self._kept_as_stored:
            return self._kept[rows]
        places = self._order[rows if isinstance(rows, slice) else rows.cpu().numpy()]
        if isinstance(self._data, torch.Tensor):
            return to_device(self._data[to_device(places, self._data.device)], self._device)
        return to_device(np.asarray(self._data[places]), self._device)

    def _scan(self) -> torch.Tensor:
        """Check that all values are finite, set the scale, and return the lengths of the scaled rows."""
        norms, peaks = torch.empty(2, self.size, dtype=torch.float64, device=self._device)
        for rows in self.blocks(max(1, (_SCANNED_ON_GPU if is_gpu(self._device) else _SCANNED) // self.width)):
            values = self._read(rows)
            peaks[rows] = values.abs().amax(1)
            units = values.double() / peaks[rows, None].clamp(min=torch.finfo(torch.float64).tiny)
            norms[rows] = ordered_products(units, units).sqrt() * peaks[rows]
        found = peaks.cpu()
        if not torch.isfinite(found).all():
            places = self._order[~torch.isfinite(found).numpy()]
            raise ValueError(f"{self._name}: found a value that is not finite in row {places.min()}, expected numbers")
        largest = float(found.max())
        if largest and not 2.0**-20 <= largest <= 2.0:
            self._scale = float(np.ldexp(1.0, -max(int(np.frexp(largest)[1]), -1000)))
        return norms * self._scale


def pair_values(device: torch.device) -> int:
    """Return how many values are multiplied at a time in `exact_pairs`."""
    return _PAIRS_ON_GPU if is_gpu(device) else _PAIRS


def products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return all dot products of (n, d) with (m, d) rows as (n, m), each within `rounding` of the true value."""
    result = a[:, :_SECTION] @ b[:, :_SECTION].T
    for start in range(_SECTION, a.shape[1], _SECTION):
        result.addmm_(a[:, start : start + _SECTION], b[:, start : start + _SECTION].T)
    return result


def integer_products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return all dot products of (n, d) with (m, d) int8 codes held in float32, exact, as (n, m) float32 or float64.

    A sum of 1,024 products of magnitude 128 * 128 is at most 2^24, so all partial sums are exact in float32.
    """
    result = a[:, :_SECTION] @ b[:, :_SECTION].T
    if a.shape[1] > _SECTION:
        result = result.double()
    for start in range(_SECTION, a.shape[1], _SECTION):
        result += a[:, start : start + _SECTION] @ b[:, start : start + _SECTION].T
    return result


def differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the number of bits in which (n, w) rows differ from (m, w) rows of uint8, as (n, m) int32."""
    count = -(-a.shape[1] // 8)  # words of 64 bits, the last one padded with zeros
    rows, items = (np.pad(x, ((0, 0), (0, 8 * count - x.shape[1]))).view(np.uint64) for x in (a, b))
    found = np.zeros((len(a), len(b)), np.int32)
    for start in range(0, len(b), _COUNTED):
        columns = np.ascontiguousarray(items[start : start + _COUNTED].T)
        for row, counts in zip(rows, found[:, start : start + _COUNTED], strict=True):
            for word, column in zip(row, columns, strict=True):
                counts += np.bitwise_count(column ^ word)
    return found


def rounding(width: int, dtype: torch.dtype, lengths: torch.Tensor, section: int = _SECTION) -> torch.Tensor:
    """Bound the error of `products` of d = `width` terms computed in `dtype`, for any order of summation.

    Args:
        width: d.
        dtype: float32 or float64.
        lengths: float64 of any shape: the product of the lengths of the two vectors.
        section: number of terms per partial sum.

    Returns:
        The bounds, float64, in the shape of `lengths`. A sum of n rounded terms errs by at most
        n u / (1 - n u) times the sum of their magnitudes (Higham, Accuracy and Stability of Numerical
        Algorithms, section 3.1), and this sum is at most the product of the lengths. Eight more roundings
        account for casting the vectors and the value they are compared with; the last term accounts for underflow.
    """
    terms = min(width, section) + -(-width // section) + 8
    unit = terms * torch.finfo(dtype).eps / 2
    return unit / (1 - unit) * lengths + 8 * width * torch.finfo(dtype).tiny


def ordered_products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the dot products of (n, d) with (n, d) float64 rows, summed in one fixed order.

    Halves are added element-wise until one value is left, so the bits of a result depend only on
    its two vectors, not on the place of the row, the device or the number of threads. This is the
    project's definition of a similarity.
    """
    terms = a * b
    while terms.shape[1] > 1:
        half = terms.shape[1] // 2
        rest = terms.shape[1] - half
        terms[:, :half] += terms[:, rest:]
        terms = terms[:, :rest]
    return terms[:, 0]


def exact_pairs(
    queries: Rows, gallery: Rows, query: torch.Tensor, item: torch.Tensor, memory_bytes: int
) -> torch.Tensor:
    """Return the float64 similarities of (n,) queries to (n,) items, by `ordered_products`, as (n,)."""
    size = max(1, min(pair_values(query.device), memory_bytes // 64) // queries.width)
    values = torch.empty(len(query), dtype=torch.float64, device=query.device)
    for out, some, other in zip(values.split(size), query.split(size), item.split(size), strict=True):
        out.copy_(ordered_products(queries.take(some, torch.float64), gallery.take(other, torch.float64)))
    return values


def exact_block(
    queries: Rows, gallery: Rows, query: slice | torch.Tensor, items: torch.Tensor, memory_bytes: int
) -> torch.Tensor:
    """Return the float64 similarities of (n,) queries to (m,) items as (n, m), reading the items in chunks."""
    rows = queries.take(query, torch.float64)
    chunks = items.split(max(1, memory_bytes // (64 * rows.shape[1])))
    return torch.cat([products(rows, gallery.take(chunk, torch.float64)) for chunk in chunks], dim=1)


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute float32 products in float32, even if the caller enabled TF32, bfloat16 or autocast.

    This changes the settings of the two backends, since `torch.get_float32_matmul_precision` raises an error once one
    of them has been set. Contexts may be nested, also in threads: only the outermost one changes a setting.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    changed = [(backend, backend.fp32_precision) for backend in backends if backend.fp32_precision != "ieee"]
    for backend, _ in changed:
        backend.fp32_precision = "ieee"
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, before in changed:
            backend.fp32_precision = "none"  # inherits torch.backends.fp32_precision
            if backend.fp32_precision != before:
                backend.fp32_precision = before
