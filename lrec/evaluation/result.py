"""What a combination's result says: the metrics of its embeddings, and the analyses of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrec.evaluation import compression, ensemble_size
from lrec.evaluation.task import Task
from lrec.metrics.recall import Retrieval


def figures(task: Task, found: Retrieval) -> dict[str, Any]:
    """Return the figures of `lrec.metrics.recall.Retrieval` as plain numbers.

    With them the numbers of queries and of gallery items that each is searched in.
    """
    return {
        "recall": {str(k): share for k, share in found.recall.items()},
        "map_at_r": found.map_at_r,
        "r_precision": found.r_precision,
        "mean_reciprocal_rank": found.mean_reciprocal_rank,
        "macro_recall_at_1": found.macro_recall_at_1,
        "recall_at_1_interval": list(found.recall_at_1_interval),
        "queries": len(task.query),
        "lone_queries": found.lone_queries,
        "gallery": len(task.query) - 1 if task.gallery is None else len(task.gallery),
    }


def analyse(
    task: Task,
    train: np.ndarray,
    branches: int,
    *,
    analysis_images: int,
    subsets: int,
    pca_dimensions: Sequence[int],
    device: str = "cpu",
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Measure what the ensemble buys and what the embedding costs.

    Args:
        task: the whole task; of a large one whole classes are drawn at random.
        train: (n, d) embeddings of training images, that codes are fitted on.
        branches: M.
        analysis_images: how many queries and gallery items to use at most; 0 = analyse nothing.
        subsets: sets of branches per ensemble size, see `ensemble_size.measure`.
        pca_dimensions: of principal components, see `compression.codes`.
        device: where similarities are computed.

    Returns:
        {"images", "classes", "agreement", "ensemble_size", "compression"}: how many of them were used, and
        the figures of the two modules; and the table of `ensemble_size.measure`. Without analyses the
        latter has one row, all branches, and the former is empty.
    """
    if analysis_images == 0:
        return {}, ensemble_size.measure(task, 1, 1, device=device).assign(branches=branches, members="all")
    some = task.sample(analysis_images)
    sets = ensemble_size.measure(some, branches, subsets, device=device)
    analysis = {
        "images": len(some.query) + (0 if some.gallery is None else len(some.gallery)),
        "classes": len(np.unique(some.query_labels)),
        "agreement": round(ensemble_size.agreement(some, branches, device=device), 4),
        "ensemble_size": ensemble_size.curve(sets).to_dict("records"),
        "compression": compression.compare(some, train, pca_dimensions, device=device),
    }
    return analysis, sets
