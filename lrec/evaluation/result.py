"""The result of a run: the metrics of its embeddings, and analyses of them. A metric is added in `METRICS`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lrec.evaluation import compression, ensemble_size
from lrec.evaluation.task import Task
from lrec.metrics.recall import Retrieval


class Metric(NamedTuple):
    """A metric of result.json.

    value: from the ranks and figures of a retrieval. title: under which tables, page and `dvc metrics` show it, in
    percent, if it is a share of its own; "" keeps it in result.json alone.
    """

    value: Callable[[Retrieval], float | None | dict[str, float] | list[float]]
    title: str = ""


# By key in result.json.
METRICS = {
    "recall": Metric(lambda retrieval: {str(k): value for k, value in retrieval.recall.items()}),
    "map_at_r": Metric(lambda retrieval: retrieval.map_at_r, "MAP@R"),
    "r_precision": Metric(lambda retrieval: retrieval.r_precision, "R-precision"),
    "mean_reciprocal_rank": Metric(lambda retrieval: retrieval.mean_reciprocal_rank),
    "macro_recall_at_1": Metric(lambda retrieval: retrieval.macro_recall_at_1),
    "recall_at_1_interval": Metric(lambda retrieval: list(retrieval.recall_at_1_interval)),
}


def titles() -> dict[str, str]:
    """Return the titles of the metrics that are shown, by key in result.json."""
    return {name: metric.title for name, metric in METRICS.items() if metric.title}


def figures(task: Task, retrieval: Retrieval) -> dict[str, Any]:
    """Return all metrics of a retrieval, and how many queries and gallery items it has, as result.json holds them."""
    return {
        **{name: metric.value(retrieval) for name, metric in METRICS.items()},
        "queries": len(task.query),
        "lone_queries": retrieval.lone_queries,
        "gallery": len(task.items) - task.leave_one_out,
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
    """Evaluate smaller ensembles, the agreement of branches, and smaller formats of the embedding.

    Args:
        task: the whole task; of a large one whole classes are drawn at random.
        train: (n, d) embeddings of training images, that formats are fitted on.
        branches: M.
        analysis_images: how many queries and gallery items to use at most; 0 = analyse nothing.
        subsets: sets of branches per ensemble size, see `ensemble_size.evaluate`.
        pca_dimensions: of principal components, see `compression.formats`.
        device: where similarities are computed.

    Returns:
        {"images", "classes", "agreement", "ensemble_size", "compression"}: how many of them were used, and
        the figures of the two modules; and the table of `ensemble_size.evaluate`. Without analyses the
        table has one row, all branches, and the dictionary is empty.
    """
    if analysis_images == 0:
        return {}, ensemble_size.evaluate(task, 1, 1, device=device).assign(branches=branches, members="all")
    some = task.sample(analysis_images)
    sets = ensemble_size.evaluate(some, branches, subsets, device=device)
    analysis = {
        "images": len(some.query) + (0 if some.gallery is None else len(some.gallery)),
        "classes": len(np.unique(some.query_labels)),
        "agreement": round(ensemble_size.agreement(some, branches, device=device), 4),
        "ensemble_size": ensemble_size.curve(sets).to_dict("records"),
        "compression": compression.compare(some, train, pca_dimensions, device=device),
    }
    return analysis, sets
