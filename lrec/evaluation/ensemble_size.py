"""Retrieval as a function of the number of branches, computed from the stored embeddings.

An embedding is the concatenation of its branches' parts, all of the same length, so the columns of some branches are
the embedding of a smaller ensemble.
"""

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd

from lrec.evaluation.nearest import nearest
from lrec.evaluation.task import Task
from lrec.metrics.recall import Retrieval

COLUMNS = ["branches", "members", "recall_at_1", "map_at_r"]


def evaluate(task: Task, branches: int, subsets: int, *, device: str = "cpu", seed: int = 0) -> pd.DataFrame:
    """Evaluate sets of 1, 2, 4, ... and all branches.

    Args:
        task: task with embeddings of d columns, d / M per branch.
        branches: M.
        subsets: number of sets of branches to draw for each size between 1 and M, or all if there are fewer; all M
            single branches are evaluated.
        device: where similarities are computed.
        seed: seed of the drawing.

    Returns:
        One row per set: branches (their number), members (their indices from 0), recall_at_1 and map_at_r in
        percent.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for size in sizes(branches):
        for chosen in _draw(branches, size, branches if size == 1 else subsets, generator):
            retrieval = task.columns(_columns(chosen, task, branches)).evaluate([1], device)
            rows.append((size, " ".join(map(str, chosen)), *_figures(retrieval)))
    return pd.DataFrame(rows, columns=COLUMNS)


def whole(retrieval: Retrieval, branches: int) -> pd.DataFrame:
    """Return the table of `evaluate` with only the row for all M branches, from their retrieval."""
    return pd.DataFrame([(branches, "all", *_figures(retrieval))], columns=COLUMNS)


def _figures(retrieval: Retrieval) -> list[float]:
    """Return recall at 1 and MAP@R in percent."""
    recall_at_1 = np.mean(retrieval.best_rank == 1)  # `recall` has only the requested cutoffs
    return [round(100 * float(value or 0), 4) for value in (recall_at_1, retrieval.map_at_r)]


def curve(sets: pd.DataFrame) -> pd.DataFrame:
    """Summarise the table of `evaluate`: one row per number of branches.

    Returns:
        branches, subsets (the number evaluated), and for recall_at_1 and map_at_r the mean over the subsets and,
        as <name>_spread, the standard deviation (with n, not n - 1), in percent.
    """
    rows = []
    for size, some in sets.groupby("branches"):
        row = {"branches": size, "subsets": len(some)}
        for name in ("recall_at_1", "map_at_r"):
            row |= {name: round(some[name].mean(), 4), f"{name}_spread": round(some[name].std(ddof=0), 4)}
        rows.append(row)
    return pd.DataFrame(rows)


def agreement(task: Task, branches: int, *, device: str = "cpu") -> float:
    """Return how often two branches agree, from 0 to 1; 1 for a single branch.

    Two branches agree on a query if the items that they rank first, each by its own part of the
    embedding, have the same class, right or wrong. The result is the mean over queries and all pairs of branches.
    """
    if branches == 1:
        return 1.0
    labels = task.item_labels
    votes = np.stack(
        [labels[nearest(task.columns(_columns([branch], task, branches)), device=device)] for branch in range(branches)]
    )
    votes.sort(axis=0)
    # In a query's M sorted votes, every run of n equal votes has n (n - 1) / 2 pairs that agree.
    pairs = np.zeros(votes.shape[1], np.int64)
    run = np.zeros(votes.shape[1], np.int64)
    for vote, before in zip(votes[1:], votes, strict=False):
        run = np.where(vote == before, run + 1, 0)
        pairs += run
    return float(pairs.mean() / math.comb(branches, 2))


def sizes(branches: int) -> list[int]:
    """Return the powers of two below M, and M.

    >>> sizes(1), sizes(4), sizes(48)
    ([1], [1, 2, 4], [1, 2, 4, 8, 16, 32, 48])
    """
    return [2**power for power in range(branches.bit_length()) if 2**power < branches] + [branches]


def _draw(branches: int, size: int, subsets: int, generator: np.random.Generator) -> Iterator[list[int]]:
    """Yield distinct random sets of `size` branches; all sets, in order, if there are at most `subsets`."""
    if math.comb(branches, size) <= subsets:
        yield from map(list, combinations(range(branches), size))
        return
    seen: set[tuple[int, ...]] = set()
    while len(seen) < subsets:
        chosen = tuple(sorted(generator.choice(branches, size, replace=False).tolist()))
        if chosen not in seen:
            seen.add(chosen)
            yield list(chosen)


def _columns(chosen: list[int], task: Task, branches: int) -> np.ndarray:
    """Return the columns of some branches."""
    return np.arange(task.query.shape[1]).reshape(branches, -1)[chosen].ravel()
