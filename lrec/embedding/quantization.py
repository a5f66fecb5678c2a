"""8-bit networks: ONNX graphs quantised by ONNX Runtime.

Weights have one scale per channel, activations one per tensor, from their ranges on training images.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from lrec.data import store
from lrec.embedding import graph

PACKAGE = "onnxruntime"  # contains the quantiser
CALIBRATED = 256  # training images for the ranges of activations
_BATCH = 8  # for calibration; the activations of one batch are in memory
# Pooling, normalisation and reduction stay in float32: they are fast, and in 8 bits they would lower R@1.
_IN_8_BITS = ["Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "MaxPool"]


def require(packed: store.Store, setting: str) -> None:
    """Refuse a data set without training images, on which the ranges of the activations are measured.

    Args:
        packed: the data set.
        setting: the setting that requests int8.

    Raises:
        ValueError: it has no training images.
    """
    if not len(packed.rows(store.TRAIN)):
        raise ValueError(f"{setting}: found no training images, expected some to measure the ranges of activations on")


def quantize(folder: Path, packed: store.Store, reduced: bool) -> int:
    """Replace model.onnx with an 8-bit version.

    Args:
        folder: folder of the graph.
        packed: the ranges of the activations are measured on at most 256 of its training images, evenly spaced.
        reduced: whether the graph ends in a reduction, which stays in float32.

    Returns:
        The number of these images.

    Source: the advice for CPUs in the documentation of onnxruntime.quantization.quantize_static.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    rows = packed.rows(store.TRAIN)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, CALIBRATED).astype(np.int64))]
    calibrating = _batches(packed.images, rows)
    large = (folder / graph.WEIGHTS).exists()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        ready, done = Path(scratch, "ready.onnx"), Path(scratch, "done.onnx")
        # Symbolic shape inference is meant for transformers and fails on some of these graphs.
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
    return len(rows)


def weight_bits() -> int:
    """Return 8 if the CPU sums products of bytes in 32 bits, else 7, since other x86 CPUs sum pairs in 16 bits."""
    has = getattr(torch.cpu, "get_capabilities", dict)()
    x86 = has.get("architecture", "x86_64") == "x86_64"
    return 8 if not x86 or has.get("avx512_vnni") or has.get("avx_vnni") else 7


def _batches(pixels: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield batches of rows of (N, S, S, 3) uint8 images in the format that the graph takes."""
    for start in range(0, len(rows), _BATCH):
        yield np.ascontiguousarray(pixels[rows[start : start + _BATCH]].transpose(0, 3, 1, 2), np.float32) / 255
