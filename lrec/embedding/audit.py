"""The batch-independence check, audit for short: does an embedding depend on its image alone?

Stored embeddings are compared with those of the same images embedded again in other company. Anything
that a batch shares, from batch statistics to one random number per forward pass, shows as a difference:
if it is drawn anew each time, or if it depends on the other images.
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


class Audit(TypedDict):
    """How many images were embedded again, and the largest differences."""

    images: int
    alone: Difference
    shuffled: Difference
    sorted: Difference
    largest: Difference


class Facts(TypedDict):
    """What embedding.json must say; dimensions is d, weights the SHA-256 of the model's weights.

    runtime: what computed the embeddings; of another than torch, with its version. graph: in int8, SHA-256 of the
    graph that did, the model.onnx beside it.

    Of reduced embeddings it says how, and the SHA-256 of the file with their reduction, `lrec.paths.reduction`.
    """

    kind: Literal[tuple(KINDS)]
    runtime: NotRequired[Literal[(runtimes.TORCH, *runtimes.RUNTIMES)]]
    runtime_version: NotRequired[str]
    graph: NotRequired[Digest]
    reduce: NotRequired[Reduce]
    reduction: NotRequired[Digest]
    dimensions: Annotated[int, Field(ge=1)]
    weights: Digest
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
    """Embed a sample of images alone, in shuffled batches and in batches sorted by class; compare.

    Args:
        embed: maps row numbers (n,) and a batch size to (n, d) float32 embeddings in this order; the
            extraction that made the stored ones, whose own batches are in the store's order.
        stored: (R, d) float32 or float16 embeddings of the rows.
        rows: (R,) row numbers.
        labels: (R,) class labels.
        images: how many to draw; all if there are fewer.
        batch_size: images, of the shuffled and the sorted batches; at most a quarter of the sample, so that
            the two differ in composition.
        seed: of the drawing and the shuffle.

    Returns:
        {"images": their number, and the largest absolute differences "alone", "shuffled", "sorted" and of
        all three, "largest"}, to two digits. What rounding to the stored dtype alone can cause (half the
        distance to the next number) is subtracted.
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
        ValueError: the largest difference is above the tolerance, in one line.
    """
    if not audit["largest"] <= tolerance:
        worst = max(("alone", "shuffled", "sorted"), key=lambda name: audit[name])
        raise ValueError(
            f"{where}: embedded {worst}, the same images differ by {audit[worst]:g}, expected at most "
            f"{tolerance:g} (evaluate.audit_tolerance): an embedding must depend on its image alone; find what in the "
            "network changes between forward passes, or allow for a coarse embed.precision by the tolerance"
        )
