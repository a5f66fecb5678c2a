"""The ONNX graph of a trained ensemble, for other runtimes and programs.

It takes any number N of images (N, 3, S, S) float32, RGB scaled to 0-1, normalises them, and returns embeddings (N, d)
float32 of unit norm, the same as those of the stage embed, reduction included.
"""

import json
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrec.embedding.reduction import Reduction
from lrec.model.ensemble import Ensemble

FILE, WEIGHTS = "model.onnx", "model.onnx.data"  # weights that exceed `ONE_FILE` are in the second file
INPUT, OUTPUT = "images", "embeddings"
METADATA = "lrec"  # the key of a graph's metadata under which `describe` writes
ONE_FILE = 2**31 - 2**24  # bytes of weights; an ONNX file holds at most 2 GiB, including the graph
PACKAGES = ("onnx", "onnxscript")  # needed by torch.onnx, whose own message is less clear


class Embedding(nn.Module):
    """An ensemble that includes the normalisation of its images and the reduction of its embeddings.

    Args:
        ensemble: put into evaluation mode.
        normalization: {"mean", "std"} per channel, for values scaled to 0-1.
        kind: kind of embedding, see `lrec.model.kinds.KINDS`.
        reduced: the reduction, or None.
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
    """Return the size of a network's weights in bytes."""
    return sum(value.nbytes for value in network.state_dict().values())


def require(packages: Sequence[str], what: str) -> None:
    """Refuse a task whose optional packages are not installed.

    Raises:
        ValueError: one line that says what to install.
    """
    if absent := [package for package in packages if find_spec(package) is None]:
        raise ValueError(f"{what}: found no {', '.join(absent)}; pip install {' '.join(packages)}")


def write(network: Embedding, image_size: int, folder: Path) -> None:
    """Write model.onnx into a folder: one file up to 2 GB, larger weights beside it.

    Args:
        network: the network, on the CPU. Its activations are made not in-place; its outputs stay the same.
        image_size: S, pixels.
        folder: an existing folder.

    Raises:
        ValueError: onnx or onnxscript is not installed.
    """
    require(PACKAGES, "onnx")
    for module in network.modules():
        if hasattr(module, "inplace"):  # in-place modules make torch.onnx several times slower
            module.inplace = False
    with torch.no_grad(), warnings.catch_warnings():
        # The exporter warns about its own deprecated parts, which a user cannot change.
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


def describe(path: Path, about: dict[str, Any]) -> None:
    """Add notes about a graph to the metadata of its file, as JSON under the key `METADATA`.

    The weights are not read: appending a message of protobuf to another one merges the two.

    Args:
        path: the file, whose metadata do not have the key yet.
        about: the notes, which must be valid in JSON.
    """
    import onnx

    entry = onnx.StringStringEntryProto(key=METADATA, value=json.dumps(about, sort_keys=True))
    with path.open("ab") as stream:
        stream.write(onnx.ModelProto(metadata_props=[entry]).SerializeToString())
