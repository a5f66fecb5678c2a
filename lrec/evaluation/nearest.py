"""The gallery item most similar to each query, excluding the query itself or its whole class.

This is accurate enough for confusions and the agreement of branches. Ranks and recalls must be exact; they are counted
in `lrec.metrics.ranking`.
"""

import numpy as np
import torch

from lrec.evaluation.task import Task
from lrec.metrics.similarity import full_precision, products

_BLOCK = 2048


def nearest(task: Task, *, others_only: bool = False, device: str = "cpu") -> np.ndarray:
    """Find the gallery item most similar to each query, by float32 products.

    Args:
        task: Q queries and G gallery items; if they are the same, the query itself is excluded by its index.
        others_only: also exclude the items of the query's own class.
        device: where products are computed.

    Returns:
        (Q,) int64 gallery rows; among equally similar items the lowest row, -1 if no item is left. This takes the
        memory of two blocks of rows and one block of products.
    """
    labels = torch.tensor(task.item_labels, device=device)
    best = torch.full((len(task.query),), -torch.inf, device=device)
    item = torch.full((len(task.query),), -1, device=device)
    with full_precision(torch.device(device)):
        for start in range(0, len(task.query), _BLOCK):
            rows = slice(start, min(start + _BLOCK, len(task.query)))
            queries = _floats(task.query[rows], device)
            own = torch.tensor(task.query_labels[rows], device=device)
            for first in range(0, len(task.items), _BLOCK):
                block = products(queries, _floats(task.items[first : first + _BLOCK], device))
                if others_only:
                    block.masked_fill_(own[:, None] == labels[first : first + _BLOCK], -torch.inf)
                if task.leave_one_out:
                    block.diagonal(start - first).fill_(-torch.inf)
                value, place = block.max(1)
                better = value > best[rows]
                best[rows] = torch.where(better, value, best[rows])
                item[rows] = torch.where(better, place + first, item[rows])
    return item.cpu().numpy()


def _floats(rows: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(np.array(rows, dtype=np.float32)).to(device)
