"""Other programs that run a network, from its ONNX graph and on a CPU: ONNX Runtime and OpenVINO."""

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

TORCH = "torch"  # none of them


class Opened(NamedTuple):
    """A graph in a runtime: maps (N, 3, S, S) float32, 0-1, to (N, d) float32; and d."""

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
    # Without a hint it rounds to bfloat16 wherever the CPU has that. What is in 8 bits is so in the graph.
    settings["INFERENCE_PRECISION_HINT"] = "bf16" if precision == "bfloat16" else "f32"
    network = openvino.Core().compile_model(path, "CPU", settings)
    requests = [network.create_infer_request() for _ in range(threads)]

    def run(images: np.ndarray) -> np.ndarray:
        # One thread starts them all: requests that threads of Python wait for one by one can wait for ever.
        started = list(zip(requests, _parts(images, threads), strict=False))
        for request, part in started:
            request.start_async({graph.INPUT: part})
        for request, _ in started:
            request.wait()
        return np.concatenate([request.get_tensor(graph.OUTPUT).data for request, _ in started])

    return Opened(run, network.output(0).partial_shape[1].get_length())


def _parts(images: np.ndarray, threads: int) -> list[np.ndarray]:
    """Divide a batch among threads; one of fewer images has fewer parts."""
    return np.array_split(images, max(1, min(len(images), threads)))


class Runtime(NamedTuple):
    """What a runtime can do: open a graph in a precision, and the precisions of its forward pass."""

    open: Callable[[Path, str], Opened]
    precisions: tuple[str, ...]


# Named as their packages are; each thread embeds images of its own, as in `lrec.compute.threads`.
RUNTIMES = {
    "onnxruntime": Runtime(_onnxruntime, ("float32", "int8")),
    "openvino": Runtime(_openvino, ("float32", "bfloat16", "int8")),
}
PRECISIONS = {TORCH: ("float32", "bfloat16")} | {name: runtime.precisions for name, runtime in RUNTIMES.items()}


def require_precision(runtime: str, precision: str) -> None:
    """Refuse a key of `PRECISIONS` that does not have the precision."""
    if precision not in PRECISIONS[runtime]:
        able = " or ".join(other for other, known in PRECISIONS.items() if precision in known)
        raise ValueError(
            f"embed.precision: found {precision}, which runtime {runtime} does not have; set embed.runtime to {able}, "
            "or this to float32"
        )


def require(runtime: str, precision: str = "float32", written: bool = False) -> str:
    """Refuse a runtime that cannot work here; return its version.

    Args:
        runtime: "torch", or a key of `RUNTIMES`.
        precision: of the forward pass, "float32", "bfloat16" or "int8".
        written: whether the graph is there already, and is only opened.

    Raises:
        ValueError: a package is missing, or the runtime does not have the precision.
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
    """A network in another runtime; `lrec.embedding.extract` takes it in the place of an ensemble.

    Args:
        path: of the graph, as `lrec.embedding.graph.write` writes it, or quantised.
        runtime: a key of `RUNTIMES`.
        precision: of the forward pass, "float32" or "bfloat16"; "int8" of a quantised graph.

    Attributes:
        run: maps images (N, 3, S, S) float32, 0-1, to embeddings (N, d) float32.
    """

    def __init__(self, path: Path, runtime: str, precision: str = "float32") -> None:
        self.run, self._width = RUNTIMES[runtime].open(path, precision)

    def width(self, kind: str) -> int:
        """Return d, the numbers in an embedding, whose kind is in the graph."""
        return self._width

    def embed(self, pixels: Tensor) -> Tensor:
        """Map (B, S, S, 3) uint8 to (B, d) float32."""
        images = pixels.permute(0, 3, 1, 2).float().div_(255).contiguous()
        return torch.from_numpy(self.run(images.numpy()))


def exported(network: graph.Embedding, image_size: int, runtime: str) -> Exported:
    """Return a network as a runtime runs it in float32; its graph is in a temporary folder while it is opened."""
    with tempfile.TemporaryDirectory() as folder:
        graph.write(network, image_size, Path(folder))
        return Exported(Path(folder) / graph.FILE, runtime)
