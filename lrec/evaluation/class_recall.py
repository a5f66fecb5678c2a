"""Recall per class, and confusions between classes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lrec.evaluation.nearest import nearest
from lrec.evaluation.task import Task


def per_class(best_rank: np.ndarray, labels: np.ndarray, names: dict[int, str], ks: Sequence[int]) -> pd.DataFrame:
    """Return one row per class of the queries, in the order of labels.

    Args:
        best_rank: (Q,) rank of each query's best positive, from 1; 0 without a positive.
        labels: (Q,) the queries' classes.
        names: class names by label.
        ks: cutoffs.

    Returns:
        Columns label, class, queries, recall_at_<k> for every k, in percent.
    """
    classes, number = np.unique(labels, return_inverse=True)
    queries = np.bincount(number)
    table = pd.DataFrame({"label": classes, "class": [names[label] for label in classes], "queries": queries})
    for k in ks:
        hits = np.bincount(number, (best_rank > 0) & (best_rank <= k))
        table[f"recall_at_{k}"] = np.round(100 * hits / queries, 2)
    return table


def extremes(table: pd.DataFrame, count: int = 5) -> dict[str, list[list[str | float]]]:
    """Return the classes with the lowest and the highest recall at the first cutoff, each as [class, percent].

    Classes with the same recall are in the order of labels, and no class is in both lists.
    """
    column = next(name for name in table.columns if name.startswith("recall_at_"))
    count = min(count, len(table) // 2)
    worst = table.sort_values(column, kind="stable").head(count)
    best = table.sort_values(column, ascending=False, kind="stable")
    best = best[~best["label"].isin(worst["label"])].head(count)
    pairs = {name: some[["class", column]] for name, some in (("worst_classes", worst), ("best_classes", best))}
    return {
        name: [[str(c), float(recall)] for c, recall in some.itertuples(index=False)] for name, some in pairs.items()
    }


def confusions(task: Task, best_rank: np.ndarray, names: dict[int, str], device: str = "cpu") -> pd.DataFrame:
    """Return which classes were ranked first for queries whose first result is wrong.

    Args:
        task: the queries and the gallery.
        best_rank: (Q,) as for `per_class`; a query whose rank is not 1 is a miss.
        names: class names by label.
        device: where similarities are computed.

    Returns:
        One row per pair of classes, the most frequent first: class, returned, queries, and share, the percentage
        of the class's queries.
    """
    missed = best_rank != 1
    item = nearest(task, others_only=True, device=device)[missed]
    pairs = pd.DataFrame({"label": task.query_labels[missed], "other": task.item_labels[item]})[item >= 0]
    table = pairs.value_counts().rename("queries").reset_index()
    table = table.sort_values(["queries", "label", "other"], ascending=[False, True, True])
    total = pd.Series(task.query_labels).value_counts()
    return pd.DataFrame(
        {
            "class": table["label"].map(names),
            "returned": table["other"].map(names),
            "queries": table["queries"],
            "share": (100 * table["queries"] / table["label"].map(total)).round(2),
        }
    )
