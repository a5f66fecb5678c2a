"""The graph of a trained ensemble, in ONNX: what other runtimes and other programs run.

It takes images (N, 3, S, S) float32, RGB scaled to 0-1, of any number N, normalises them and returns embeddings (N, d)
float32 of unit norm: those of the stage embed, reduced if they are.
"""

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from lrec.embedding.reduction import Reduction
from lrec.model.ensemble import Ensemble

FILE, WEIGHTS = "model.onnx", "model.onnx.data"  # the weights are in the first file, unless they exceed `ONE_FILE`
INPUT, OUTPUT = "images", "embeddings"
ONE_FILE = 2**31 - 2**24  # bytes of weights; a file of ONNX holds at most 2 GiB, and the graph needs some of it
PACKAGES = ("onnx", "onnxscript")  # torch.onnx needs them, and says so less clearly


class Embedding(nn.Module):
    """An ensemble with the normalisation of its images, and the reduction of its embeddings, inside.

    Args:
        ensemble: put into evaluation mode.
        normalization: {"mean", "std"} per channel, of values scaled to 0-1.
        kind: of embedding, see `lrec.model.kinds.KINDS`.
        reduced: the reduction, or None to keep embeddings whole.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        normalization: dict[str, list[float]],
        kind: str = "logits",
        reduced: Reduction | None = None,
    ) -> None:
        super().__init__()
        self.ensemble, self.kind, self.reduced = ensemble, kind, reduced or nn.Identity()
        self.register_buffer("mean", torch.tensor(normalization["mean"])[:, None, None])
        self.register_buffer("std", torch.tensor(normalization["std"])[:, None, None])
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, S, S) float32, 0-1, to (N, d) float32."""
        return self.reduced(self.ensemble.embed((images - self.mean) / self.std, self.kind))


def weight_bytes(network: nn.Module) -> int:
    """Return how many bytes a network's weights take."""
    return sum(value.nbytes for value in network.state_dict().values())


def require(packages: Sequence[str], what: str) -> None:
    """Refuse work whose optional packages are not installed.

    Raises:
        ValueError: one line that says what to install.
    """
    if absent := [package for package in packages if find_spec(package) is None]:
        raise ValueError(f"{what}: found no {', '.join(absent)}; pip install {' '.join(packages)}")


def write(network: Embedding, image_size: int, folder: Path) -> None:
    """Write model.onnx into a folder: one file up to 2 GB, larger weights beside it.

    Args:
        network: to write, on the CPU. Its activations no longer overwrite their input; it computes the same.
        image_size: S, pixels.
        folder: which is there.

    Raises:
        ValueError: onnx or onnxscript is not installed.
    """
    require(PACKAGES, "onnx")
    for module in network.modules():
        if hasattr(module, "inplace"):  # torch.onnx takes several times as long to rewrite these
            module.inplace = False
    with torch.no_grad(), warnings.catch_warnings():
        # The exporter warns that parts of it are deprecated; a user cannot change that.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.rand(2, 3, image_size, image_size),),
            folder / FILE,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("images")},),
            dynamo=True,
            verbose=False,
            external_data=weight_bytes(network) > ONE_FILE,
        )
