"""The R@1 that a network keeps in 8 bits."""

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from lrec.data import store
from lrec.data.batches import Images
from lrec.embedding import extract, graph, quantization, runtimes
from lrec.evaluation.task import Task
from lrec.io import files

FILE = "quantization.json"
MEASURED = 2000  # tested images, for R@1


def measure(folder: Path, packed: store.Store, reduced: bool) -> dict[str, Any]:
    """Quantise a model.onnx, and measure exact R@1 before and after, with ONNX Runtime on the files themselves.

    Args:
        folder: of the graph; quantization.json is written beside it.
        packed: whose training images calibrate, and whose tested images are embedded, at most 2,000 of whole classes.
        reduced: see `lrec.embedding.quantization.quantize`.

    Returns:
        What quantization.json says: {"recall_at_1": {"float32", "int8"}, "queries", ...}.
    """
    task, path = tested(packed), folder / graph.FILE
    recall = {"float32": recall_at_1(runtimes.Exported(path, "onnxruntime"), packed, task)}
    calibrated = quantization.quantize(folder, packed, reduced)
    recall["int8"] = recall_at_1(runtimes.Exported(path, "onnxruntime", "int8"), packed, task)
    facts = {"recall_at_1": recall, "queries": len(task.query), "calibration_images": calibrated}
    facts |= {"weight_bits": quantization.weight_bits(), "onnxruntime": metadata.version("onnxruntime")}
    files.write_json(folder / FILE, facts)
    return facts


def tested(packed: store.Store) -> Task:
    """Return a task of tested images, which has the rows of the store, (n, 1), in the place of embeddings."""
    splits = [packed.rows(split) for split in store.tested(packed.index["split"])]
    return Task(*(part for rows in splits for part in (rows[:, None], packed.labels(rows)))).sample(MEASURED)


def recall_at_1(network: runtimes.Exported, packed: store.Store, task: Task) -> float:
    """Return the exact R@1 (0-1) of a task of `tested` as a network embeds its images."""

    def embed(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), network.width("")), np.float32)
        images = Images(packed.images, rows[:, 0], **store.IMAGENET)  # the graph normalises by itself
        extract.extract(network, images, out, extract.Options(), description="measure")
        return out

    return task.changed(embed).evaluate([1], precision=False).recall[1]
