"""Reduction of embeddings to fewer dimensions: principal components of training images, plain or whitened.

They are found by subspace iteration (Halko, Martinsson and Tropp, SIAM Review 53, 2011, section 4.5) over embeddings
that stay on disk. Memory holds a few times 2 k vectors and one block of rows, for any number of images. The covariance
matrix, which would take 77 GB for the features of 48 ResNet50 branches, is not computed.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import normalize

from lrec.io import files, reading

FILE = "reduction.safetensors"
Reduce = Literal["pca", "whitened"]
_BLOCK = 2**22  # numbers read at a time
_LEAST = 1024  # least dimension of the subspace; up to this embedding size, the components are exact
_PASSES = 30
_CHANGE = 1e-3  # relative change of a variance between passes below which it has converged
# Relative to the largest standard deviation. A smaller variation of training images, such as between copies of an
# image, says nothing about other images, and whitening would amplify it until it dominates the similarities.
_SMALLEST = 1e-3


class Components(NamedTuple):
    """Principal components: mean (d,), orthonormal directions (d, k), standard deviations (k,), decreasing; float32."""

    mean: Tensor
    directions: Tensor
    deviations: Tensor

    def first(self, count: int, reduce: Reduce) -> "Reduction":
        """Return the reduction to the first components.

        Args:
            count: number of components.
            reduce: "whitened" divides each by its standard deviation; one with less than a thousandth of the largest
                becomes 0.
        """
        directions = self.directions[:, :count]
        if reduce == "whitened":
            known = self.deviations[:count] > _SMALLEST * self.deviations[0]
            directions = torch.where(known, directions / self.deviations[:count], 0.0)
        return Reduction(self.mean, directions.contiguous())


class Reduction(nn.Module):
    """A linear map of embeddings (N, d) to (N, k) of unit norm.

    Args:
        mean: (d,) float32, subtracted first.
        components: (d, k) float32, one per column.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, mean: Tensor, components: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("components", components)

    @property
    def dimensions(self) -> int:
        """Number of dimensions k after reduction."""
        return self.components.shape[1]

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map (N, d) float32 to (N, k) float32."""
        return normalize((embeddings - self.mean) @ self.components, dim=1)

    def apply_to(self, rows: np.ndarray) -> np.ndarray:
        """Map (n, d) floats in memory to (n, k) float32."""
        with torch.inference_mode():
            given = torch.from_numpy(np.require(rows, np.float32, ["W"])).to(self.mean.device)
            return self(given).cpu().numpy()

    def fill(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Map (n, d) floats, such as a memory map, into (n, k), block by block."""
        size = max(1, _BLOCK // rows.shape[1])
        for start in range(0, len(rows), size):
            out[start : start + size] = self.apply_to(rows[start : start + size])


def principal(rows: np.ndarray, count: int, *, device: str = "cpu") -> Components:
    """Find the principal components of embeddings.

    The iteration starts from a random subspace of 2 k, at least 1,024, dimensions. Each pass over the rows multiplies
    it by their covariance, until no variance changes by more than a thousandth. All sums are float64. The same rows
    give the same bytes on one machine with the same number of threads.

    Args:
        rows: (n, d) float16 or float32, such as a memory map.
        count: k, at most n - 1 and d.
        device: where products are computed.
    """
    images, width = rows.shape
    size = min(max(2 * count, _LEAST), images, width)
    mean = sum(block.sum(0) for block in _blocks(rows, device)) / images
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(width, size, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(start.to(device)).Q
    before = torch.zeros(count, dtype=torch.float64, device=device)
    for _ in range(_PASSES):
        product, inside = torch.zeros_like(basis), basis.new_zeros(size, size)
        for block in _blocks(rows, device):
            projected = block.sub_(mean) @ basis
            product.addmm_(block.T, projected)
            inside.addmm_(projected.T, projected)
        values, vectors = torch.linalg.eigh(inside)
        values, vectors = values.flip(0)[:count].clamp(min=0), vectors.flip(1)[:, :count]
        enough = _CHANGE * values.clamp(min=_SMALLEST**2 * float(values[0]))
        if size == width or bool(((values - before).abs() <= enough).all()):
            break
        before, basis = values, torch.linalg.qr(product).Q
    return Components(*(found.float().cpu() for found in (mean, basis @ vectors, (values / images).sqrt())))


def _blocks(rows: np.ndarray, device: str) -> Iterator[Tensor]:
    """Yield rows as float64, block by block."""
    size = max(1, _BLOCK // rows.shape[1])
    for start in range(0, len(rows), size):
        yield torch.from_numpy(np.array(rows[start : start + size], dtype=np.float64)).to(device)


def save(path: Path, reduction: Reduction, about: dict[str, Any]) -> None:
    """Write a reduction, with notes on what it was fitted to, atomically.

    Args:
        path: the .safetensors file.
        reduction: the reduction to write.
        about: the notes, which must be valid in JSON.
    """
    # A single entry: the order of several would vary, and so would the bytes of the file.
    metadata = {"lrec": json.dumps(about, sort_keys=True)}
    with files.atomic(path) as stream:
        stream.write(safetensors.torch.save(dict(reduction.state_dict()), metadata))


def about(path: Path) -> dict[str, Any]:
    """Return the notes that `save` stored with a reduction; {} for a file that another program wrote."""
    with safe_open(path, "pt") as stream:
        return json.loads((stream.metadata() or {}).get("lrec", "{}"))


def read(path: Path, digest: str | None = None) -> Reduction:
    """Read a reduction on the CPU.

    Args:
        path: the .safetensors file.
        digest: SHA-256 that the file must have; None for any.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or is not the reduction that made the embeddings.
    """
    reading.require_made(path, digest, "another reduction")
    try:
        state = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a .safetensors file ({error}); delete it and run `dvc repro`") from error
    shapes = {name: list(value.shape) for name, value in state.items()}
    if not (shapes.keys() == {"mean", "components"} and len(shapes["mean"]) == 1 and len(shapes["components"]) == 2):
        raise ValueError(f"{path}: found {shapes!r:.160}, expected mean (d) and components (d, k); run `dvc repro`")
    if shapes["mean"][0] != shapes["components"][0] or not all(v.isfinite().all() for v in state.values()):
        raise ValueError(f"{path}: found {shapes} or a value that is not finite; delete it and run `dvc repro`")
    return Reduction(state["mean"].float(), state["components"].float())
