"""A network in 8 bits: its ONNX graph quantised by ONNX Runtime, and the R@1 that it keeps.

Weights have a scale per channel, activations one per tensor, from their ranges on training images.
"""

import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from lrec.data import store
from lrec.data.batches import Images
from lrec.embedding import extract, graph, runtimes
from lrec.evaluation.task import Task
from lrec.io import files

FILE = "quantization.json"
CALIBRATED, MEASURED = 256, 2000  # images: of training, for the ranges of activations; tested, for R@1
_BATCH = 8  # of calibration; the activations of one are in memory
# What computes in 8 bits. Pooling, normalisation and reduction stay in float32: they are quick, and R@1 needs them.
_IN_8_BITS = ["Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "MaxPool"]


def measure(folder: Path, packed: store.Store, width: int, reduced: bool) -> dict[str, Any]:
    """Quantise a model.onnx, and measure exact R@1 before and after, with ONNX Runtime on the files themselves.

    Args:
        folder: of the graph; quantization.json is written beside it.
        packed: whose training images calibrate, and whose tested images are embedded, at most 2,000 of whole classes.
        width: d, the numbers in an embedding.
        reduced: see `quantize`.

    Returns:
        What quantization.json says: {"recall_at_1": {"float32", "int8"}, "queries", ...}.

    Raises:
        ValueError: there are no training images.
    """
    calibrating, task = calibration(packed.rows(store.TRAIN)), tested(packed)
    recall = {"float32": recall_at_1(open_graph(folder, width), packed, task)}
    quantize(folder, batches(packed.images, calibrating), reduced)
    recall["int8"] = recall_at_1(open_graph(folder, width), packed, task)
    facts = {"recall_at_1": recall, "queries": len(task.query), "calibration_images": len(calibrating)}
    facts |= {"weight_bits": weight_bits(), "onnxruntime": metadata.version("onnxruntime")}
    files.write_json(folder / FILE, facts)
    return facts


def open_graph(folder: Path, width: int) -> runtimes.Exported:
    """Open a graph of d = `width` in ONNX Runtime."""
    return runtimes.Exported(folder / graph.FILE, width, "onnxruntime")


def quantize(folder: Path, calibrating: Iterator[np.ndarray], reduced: bool) -> None:
    """Replace a model.onnx by one that computes in 8 bits.

    Args:
        folder: of the graph.
        calibrating: batches (N, 3, S, S) float32, 0-1, on which the ranges of the activations are measured.
        reduced: whether the graph ends in a reduction, which is left in float32.

    Source: the advice for CPUs in the documentation of onnxruntime.quantization.quantize_static.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large = (folder / graph.WEIGHTS).exists()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        ready, done = Path(scratch, "ready.onnx"), Path(scratch, "done.onnx")
        # Symbolic shapes are for transformers, and are not found in some of these graphs.
        apart = {"save_as_external_data": large, "all_tensors_to_one_file": True}
        quant_pre_process(folder / graph.FILE, ready, skip_symbolic_shape=True, **apart)
        nodes = onnx.load(ready, load_external_data=False).graph.node
        last = [node.name for node in nodes if node.op_type == "MatMul"][-1:] if reduced else []
        quantization.quantize_static(
            ready,
            done,
            SimpleNamespace(get_next=lambda: next(({graph.INPUT: images} for images in calibrating), None)),
            op_types_to_quantize=_IN_8_BITS,
            nodes_to_exclude=last,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=weight_bits() == 7,
            use_external_data_format=large,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        quantized = onnx.load(done)
    for name in (graph.FILE, graph.WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    large = quantized.ByteSize() > graph.ONE_FILE
    onnx.save_model(quantized, folder / graph.FILE, save_as_external_data=large, location=graph.WEIGHTS)


def weight_bits() -> int:
    """Return 8 where the CPU adds products of bytes in 32 bits; else 7, because other x86 CPUs add pairs in 16."""
    has = getattr(torch.cpu, "get_capabilities", dict)()
    x86 = has.get("architecture", "x86_64") == "x86_64"
    return 8 if not x86 or has.get("avx512_vnni") or has.get("avx_vnni") else 7


def calibration(rows: np.ndarray) -> np.ndarray:
    """Return at most 256 of the rows of the training images, evenly spaced."""
    if not len(rows):
        raise ValueError("--quantize: found no training images, expected some to measure the ranges of activations on")
    return rows[np.unique(np.linspace(0, len(rows) - 1, CALIBRATED).astype(np.int64))]


def batches(pixels: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield rows of (N, S, S, 3) uint8 images as the graph takes them, a few at a time."""
    for some in extract.split(len(rows), _BATCH):
        yield np.ascontiguousarray(pixels[rows[some]].transpose(0, 3, 1, 2), np.float32) / 255


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
