"""Runtimes for the ONNX graph of a network on a CPU: ONNX Runtime and OpenVINO."""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lrec.embedding import graph, quantization

TORCH = "torch"  # PyTorch itself


class Opened(NamedTuple):
    """A graph opened by a runtime: a function from (N, 3, S, S) float32, 0-1, to (N, d) float32; and d."""

    run: Callable[[np.ndarray], np.ndarray]
    width: int


def _onnxruntime(path: Path, precision: str) -> Opened:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads)

    def run(images: np.ndarray) -> np.ndarray:
        parts = _parts(images, threads)
        return np.concatenate(list(pool.map(lambda part: session.run([graph.OUTPUT], {graph.INPUT: part})[0], parts)))

    return Opened(run, session.get_outputs()[0].shape[1])


def _openvino(path: Path, precision: str) -> Opened:
    import openvino

    threads = torch.get_num_threads()
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads}
    # Without a hint, OpenVINO rounds to bfloat16 if the CPU supports it. The graph defines what is computed in 8 bits.
    settings["INFERENCE_PRECISION_HINT"] = "bf16" if precision == "bfloat16" else "f32"
    network = openvino.Core().compile_model(path, "CPU", settings)
    requests = [network.create_infer_request() for _ in range(threads)]

    def run(images: np.ndarray) -> np.ndarray:
        # One thread starts all requests: starting and waiting in several Python threads can deadlock.
        started = list(zip(requests, _parts(images, threads), strict=False))
        for request, part in started:
            request.start_async({graph.INPUT: part})
        for request, _ in started:
            request.wait()
        return np.concatenate([request.get_tensor(graph.OUTPUT).data for request, _ in started])

    return Opened(run, network.output(0).partial_shape[1].get_length())


def _parts(images: np.ndarray, threads: int) -> list[np.ndarray]:
    """Divide a batch among threads, into fewer parts if it has fewer images."""
    return np.array_split(images, max(1, min(len(images), threads)))


class Runtime(NamedTuple):
    """A runtime: a function that opens a graph in a precision, and the supported precisions."""

    open: Callable[[Path, str], Opened]
    precisions: tuple[str, ...]


# Named like their packages; each thread embeds its own images, as in `lrec.compute.threads`.
RUNTIMES = {
    "onnxruntime": Runtime(_onnxruntime, ("float32", "int8")),
    "openvino": Runtime(_openvino, ("float32", "bfloat16", "int8")),
}
PRECISIONS = {TORCH: ("float32", "bfloat16")} | {name: runtime.precisions for name, runtime in RUNTIMES.items()}


def require_precision(runtime: str, precision: str) -> None:
    """Refuse a runtime, a key of `PRECISIONS`, that does not support the precision."""
    if precision not in PRECISIONS[runtime]:
        able = " or ".join(other for other, known in PRECISIONS.items() if precision in known)
        raise ValueError(
            f"embed.precision: found {precision}, which runtime {runtime} does not have; set embed.runtime to {able}, "
            "or this to float32"
        )


def require(runtime: str, precision: str = "float32", written: bool = False) -> str:
    """Refuse a runtime that cannot be used here; return its version.

    Args:
        runtime: "torch", or a key of `RUNTIMES`.
        precision: precision of the forward pass, "float32", "bfloat16" or "int8".
        written: whether the graph already exists and is only opened.

    Raises:
        ValueError: a package is missing, or the runtime does not support the precision.
    """
    if runtime not in PRECISIONS:
        raise ValueError(f"runtime: found {runtime!r:.40}, expected one of {', '.join(PRECISIONS)}")
    require_precision(runtime, precision)
    if runtime == TORCH:
        return torch.__version__
    writing = [*graph.PACKAGES, *([quantization.PACKAGE] if precision == "int8" else [])]
    graph.require(list(dict.fromkeys([*([] if written else writing), runtime])), f"runtime {runtime}")
    return metadata.version(runtime)


class Exported:
    """A network in another runtime; `lrec.embedding.extract` accepts it instead of an ensemble.

    Args:
        path: the graph, as written by `lrec.embedding.graph.write`, or quantised.
        runtime: a key of `RUNTIMES`.
        precision: precision of the forward pass, "float32" or "bfloat16"; "int8" for a quantised graph.

    Attributes:
        run: maps images (N, 3, S, S) float32, 0-1, to embeddings (N, d) float32.
    """

    def __init__(self, path: Path, runtime: str, precision: str = "float32") -> None:
        self.run, self._width = RUNTIMES[runtime].open(path, precision)

    def width(self, kind: str) -> int:
        """Return d, the dimensions of an embedding; the graph determines its kind."""
        return self._width

    def embed(self, pixels: Tensor) -> Tensor:
        """Map (B, S, S, 3) uint8 to (B, d) float32."""
        images = pixels.permute(0, 3, 1, 2).float().div_(255).contiguous()
        return torch.from_numpy(self.run(images.numpy()))


def exported(network: graph.Embedding, image_size: int, runtime: str) -> Exported:
    """Open a network in a runtime, in float32, with its graph in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        graph.write(network, image_size, Path(folder))
        return Exported(Path(folder) / graph.FILE, runtime)
