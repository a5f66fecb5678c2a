"""The result of a run: metrics and analyses of its embeddings. `METRICS` is the registry of metrics."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lrec.evaluation import compression, ensemble_size
from lrec.evaluation.task import Task
from lrec.metrics.recall import Retrieval


class Metric(NamedTuple):
    """A metric of result.json.

    value: a function of a retrieval. title: title of a fraction that tables, page and `dvc metrics` show in percent; ""
    for a metric that is only in result.json.
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
    """Return the titles of the displayed metrics, by key in result.json."""
    return {name: metric.title for name, metric in METRICS.items() if metric.title}


def figures(task: Task, retrieval: Retrieval) -> dict[str, Any]:
    """Return all metrics of a retrieval, and its numbers of queries and gallery items, for result.json."""
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
    reduced: bool = False,
    device: str = "cpu",
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Evaluate smaller ensembles, the agreement of branches, and storage formats of the embedding.

    Args:
        task: the whole task; if it is large, whole classes are sampled at random.
        train: (n, d) embeddings of training images, to which formats are fitted.
        branches: M.
        analysis_images: maximum number of queries and gallery items.
        subsets: sets of branches per ensemble size, see `ensemble_size.evaluate`.
        pca_dimensions: see `compression.formats`.
        reduced: whether the embeddings are already reduced: then no columns belong to a branch, and they are not
            reduced again.
        device: where similarities are computed.

    Returns:
        {"images", "classes", "agreement", "ensemble_size", "compression"}: the numbers of images and classes used, and
        the results, for reduced embeddings without agreement and ensemble_size; and the table of
        `ensemble_size.evaluate`, with only one row, for all branches, if smaller ensembles are not evaluated.
    """
    some = task.sample(analysis_images)
    if reduced:
        sets = ensemble_size.whole(some.evaluate([1], device), branches)
    else:
        sets = ensemble_size.evaluate(some, branches, subsets, device=device)
    analysis: dict[str, Any] = {
        "images": len(some.query) + (0 if some.gallery is None else len(some.gallery)),
        "classes": len(np.unique(some.query_labels)),
    }
    if not reduced:
        analysis["agreement"] = round(ensemble_size.agreement(some, branches, device=device), 4)
        analysis["ensemble_size"] = ensemble_size.curve(sets).to_dict("records")
    dimensions = [] if reduced else pca_dimensions
    analysis["compression"] = compression.compare(some, train, dimensions, device=device)
    return analysis, sets
