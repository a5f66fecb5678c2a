"""R@1 of a network after 8-bit quantisation."""

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
MEASURED = 2000  # test images for R@1


def measure(folder: Path, packed: store.Store, reduced: bool) -> dict[str, Any]:
    """Quantise model.onnx, and measure exact R@1 before and after by running both files with ONNX Runtime.

    Args:
        folder: folder of the graph, to which quantization.json is written.
        packed: the store; its training images are used for calibration, and at most 2,000 of its test images, in whole
            classes, are embedded.
        reduced: see `lrec.embedding.quantization.quantize`.

    Returns:
        The content of quantization.json: {"recall_at_1": {"float32", "int8"}, "queries", ...}.
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
    """Return a task of test images, with rows of the store, (n, 1), in place of embeddings."""
    splits = [packed.rows(split) for split in store.tested(packed.index["split"])]
    return Task(*(part for rows in splits for part in (rows[:, None], packed.labels(rows)))).sample(MEASURED)


def recall_at_1(network: runtimes.Exported, packed: store.Store, task: Task) -> float:
    """Return the exact R@1 (0-1) of a network on a task of `tested`."""

    def embed(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), network.width("")), np.float32)
        images = Images(packed.images, rows[:, 0], **store.IMAGENET)  # the graph includes normalisation
        extract.extract(network, images, out, extract.Options(), description="measure")
        return out

    return task.changed(embed).evaluate([1], precision=False).recall[1]
