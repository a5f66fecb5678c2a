"""Example queries with their search results: the hardest ones, and typical ones."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from lrec import paths
from lrec.data.store import Store, tested
from lrec.evaluation.task import Task
from lrec.io import files
from lrec.metrics import search

QUERIES, RESULTS = 6, 8
_SEED = 0
_SIDE = 128  # pixels of a stored image; smaller images keep their size and are stored losslessly


def choose(best_rank: np.ndarray, labels: np.ndarray, count: int, seed: int = _SEED) -> dict[str, np.ndarray]:
    """Choose queries to show.

    Args:
        best_rank: (Q,) rank of each query's best positive, from 1; 0 without a positive.
        labels: (Q,) classes.
        count: queries per section.
        seed: seed of the typical queries.

    Returns:
        {"hardest", "typical"}: query numbers. The hardest queries are those whose best positive ranks lowest, one per
        class, excluding queries without positives; typical queries are drawn at random from all queries.
    """
    order = np.lexsort((np.arange(len(best_rank)), -best_rank))
    _, first = np.unique(labels[order], return_index=True)
    hardest = order[np.sort(first)]
    typical = np.random.default_rng(seed).permutation(len(best_rank))[:count]
    return {"hardest": hardest[best_rank[hardest] > 0][:count], "typical": np.sort(typical)}


def write(task: Task, packed: Store, target: Path, device: str = "cpu") -> None:
    """Search a run's test images; write examples.json and the images that it names.

    Args:
        task: embeddings of all tested images of the store.
        packed: the store.
        target: the folder, which appears complete or not at all.
        device: device of the search.
    """
    with files.atomic_folder(target) as folder:
        make(task, packed, folder, QUERIES, RESULTS, device)


def make(task: Task, packed: Store, folder: Path, count: int, results: int, device: str = "cpu") -> None:
    """Write examples.json and the images that it names into a folder.

    Args:
        task: Q queries and their gallery, all tested images of the store.
        packed: the store.
        folder: the folder to fill.
        count: queries per section.
        results: results per query; all if there are fewer.
        device: device of the search.
    """
    splits = tested(packed.index["split"])
    queries, searched = (packed.index[packed.index["split"] == split] for split in (splits[0], splits[-1]))
    best_rank = task.evaluate([1], device, precision=False).best_rank
    chosen = choose(best_rank, task.query_labels, count)
    k = min(results, len(task.items) - task.leave_one_out)
    sections: dict[str, list[dict[str, Any]]] = {}
    for name, places in chosen.items():
        exclude = places if task.leave_one_out else np.full(len(places), search.NO_ROW)
        asked = np.asarray(task.query[places], np.float32)
        scores, hits = search.top(asked, [task.items], k, exclude, device=device)
        sections[name] = [
            {
                **_image(packed, queries.iloc[query], folder),
                "best_rank": int(best_rank[query]),
                "results": [
                    _image(packed, searched.iloc[hit], folder)
                    | {
                        "similarity": round(float(score), 4),
                        "right": bool(task.item_labels[hit] == task.query_labels[query]),
                    }
                    for score, hit in zip(scores[place], hits[place].tolist(), strict=True)
                ],
            }
            for place, query in enumerate(places.tolist())
        ]
    counts = {"searched": len(task.items), "queries": len(task.query)}
    files.write_json(folder / paths.EXAMPLES, {**counts, "sections": sections})


def _image(packed: Store, entry: pd.Series, folder: Path) -> dict[str, Any]:
    """Write the image of a row of the index once, and return its class, path and file name."""
    pixels = np.array(packed.images[entry["row"]])
    small = max(pixels.shape[:2]) < _SIDE
    name = f"{entry['row']}.{'png' if small else 'jpg'}"
    if not (folder / name).exists():
        (folder / name).write_bytes(_encoded(Image.fromarray(pixels), small))
    return {"path": entry["path"], "class": entry["class"], "image": name}


def _encoded(image: Image.Image, small: bool) -> bytes:
    buffer = io.BytesIO()
    try:
        if small:
            image.save(buffer, "PNG")
        else:
            image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
            image.save(buffer, "JPEG", quality=85)
    except OSError as error:
        # The buffer is in memory: an OSError here means that a codec ran out of memory.
        raise MemoryError(f"while an image was encoded: {error}") from error
    return buffer.getvalue()
