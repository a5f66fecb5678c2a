"""The batch-independence check, audit for short: does an embedding depend only on its image?

The images of stored embeddings are embedded again, in other batches, and the results compared. Anything that the
images of a batch share, such as batch statistics or a random number drawn in each forward pass, shows up as a
difference, if it changes from pass to pass or depends on the other images.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, NotRequired

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from lrec.embedding import runtimes
from lrec.embedding.reduction import Reduce
from lrec.io import reading
from lrec.model.kinds import KINDS

Difference = Annotated[float, Field(ge=0)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
ShortDigest = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


class Audit(TypedDict):
    """The number of images embedded again, and the largest differences."""

    images: int
    alone: Difference
    shuffled: Difference
    sorted: Difference
    largest: Difference


class Facts(TypedDict):
    """The keys of embedding.json; dimensions is d, weights the SHA-256 of the model's weights.

    data: `lrec.data.store.digest` of the packed images; absent if an earlier version embedded them.
    runtime: the runtime that computed the embeddings; runtime_version: its version, if it is not torch. graph: for
    int8, the SHA-256 of the graph, model.onnx in the same folder. reduce, reduction: for reduced embeddings, the
    method, and the SHA-256 of `lrec.paths.reduction`.
    """

    kind: Literal[tuple(KINDS)]
    runtime: NotRequired[Literal[(runtimes.TORCH, *runtimes.RUNTIMES)]]
    runtime_version: NotRequired[str]
    graph: NotRequired[Digest]
    reduce: NotRequired[Reduce]
    reduction: NotRequired[Digest]
    dimensions: Annotated[int, Field(ge=1)]
    weights: Digest
    data: NotRequired[ShortDigest]
    audit: Audit


def read(path: Path) -> Facts:
    """Read the embedding.json of a run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    return reading.read_json(path, "embed", Facts)


def measure(
    embed: Callable[[np.ndarray, int], np.ndarray],
    stored: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    *,
    images: int,
    batch_size: int,
    seed: int = 0,
) -> dict[str, float]:
    """Embed a sample of images one by one, in shuffled batches and in batches sorted by class; compare.

    Args:
        embed: maps row numbers (n,) and a batch size to (n, d) float32 embeddings in this order, by the same
            extraction as the stored embeddings, whose batches are in the store's order.
        stored: (R, d) float32 or float16 embeddings of the rows.
        rows: (R,) row numbers.
        labels: (R,) class labels.
        images: size of the sample; all images if there are fewer.
        batch_size: images per shuffled or sorted batch, limited to a quarter of the sample, so that the two kinds of
            batches differ in composition.
        seed: seed of the sample and the shuffle.

    Returns:
        The number of "images", and the largest absolute differences "alone", "shuffled" and "sorted" and their
        maximum, "largest", to two digits. The rounding error of the stored dtype (half the distance to the next
        number) is subtracted.
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(rows))[:images]
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    together = max(1, min(batch_size, len(shuffled) // 4))
    found = {
        "alone": _difference(embed(rows[shuffled], 1), stored[shuffled]),
        "shuffled": _difference(embed(rows[shuffled], together), stored[shuffled]),
        "sorted": _difference(embed(rows[by_class], together), stored[by_class]),
    }
    return {"images": len(shuffled), **found, "largest": max(found.values())}


def _difference(again: np.ndarray, stored: np.ndarray) -> float:
    """Return the largest absolute difference beyond half a step of the stored dtype; infinite for NaN."""
    step = np.spacing(np.abs(stored)).astype(np.float64)
    excess = np.abs(again.astype(np.float64) - stored) - step / 2
    largest = float(np.maximum(excess, 0).max())
    return float(f"{largest:.1e}") if np.isfinite(largest) else float("inf")


def require(audit: Mapping[str, float], tolerance: float, where: str) -> None:
    """Refuse embeddings that depend on more than their image.

    Raises:
        ValueError: the largest difference is above the tolerance; the message is one line.
    """
    if not audit["largest"] <= tolerance:
        worst = max(("alone", "shuffled", "sorted"), key=lambda name: audit[name])
        raise ValueError(
            f"{where}: embedded {worst}, the same images differ by {audit[worst]:g}, expected at most "
            f"{tolerance:g} (evaluate.audit_tolerance): an embedding must depend only on its image; find what in the "
            "network changes between forward passes, or raise the tolerance for a coarse embed.precision"
        )
