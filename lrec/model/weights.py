"""Starting weights of a backbone: from ImageNet, from a local file, or none.

`lrec.model.checkpoints` finds the state dict in a checkpoint of another trainer.
"""

import argparse
import re
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from lrec.io import hashing, missing
from lrec.io.text import escaped
from lrec.model import checkpoints

PARAMETER = "train.weights"


def describe(backbone: str, weights: str) -> str:
    """Return a record of the choice of weights: its name, and for a file the start of its SHA-256."""
    path = _path(backbone, weights)
    return f"{path.name} {hashing.of_file(path)[:16]}" if path.is_file() else weights


def _path(backbone: str, weights: str) -> Path:
    """Return the path that `weights` stands for; a leading ~ is expanded if possible."""
    path = Path(weights.replace("{backbone}", backbone))
    try:
        return path.expanduser()
    except RuntimeError:  # no such user, or no HOME
        return path


def load(backbone: str, weights: str | None) -> dict[str, torch.Tensor] | None:
    """Return a state dict in torchvision's keys, or None for a random start.

    Args:
        backbone: torchvision's name of the network.
        weights: "imagenet" (torchvision's IMAGENET1K_V1, downloaded once), "none" or None, or the path
            of a .pth or .safetensors file, in which `{backbone}` stands for the name. The state dict may be nested in
            the file, and its keys may have a prefix; a printed line then says so.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the download failed, or the file holds something else. Code in the file is never run.
    """
    if weights is None or weights == "none":
        return None
    if weights == "imagenet":
        return _download(backbone)
    path = _path(backbone, weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found{missing.hint(path)}; {PARAMETER} must be imagenet, none, or the path of a .pth or "
            ".safetensors file"
        )
    state, place = checkpoints.state_dict(_read(path), backbone, path)
    if place:
        print(escaped(f"{path}: {place}"))
    require_usable(state, path)
    return state


def _read(path: Path) -> Any:
    """Return a file's content without running code in it."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        _refuse_compressed(path)
        # Trainers store their command line with the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything inside torch
        reason = " ".join(str(error).split())
        short = _cause(path, reason) or reason[:120] or type(error).__name__
        raise ValueError(f"{path}: found no weights that load safely ({short}), expected a state dict") from error


def _cause(path: Path, reason: str) -> str:
    """Return what a file that does not load safely holds instead, if known."""
    with path.open("rb") as stream:
        start = stream.read(9)
    if "TorchScript" in reason:
        return "a TorchScript archive; save the network's state_dict() in its place"
    if found := re.search(r"(?:GLOBAL|[Cc]lass|function) ([A-Za-z_]\w*(?:\.\w+)+)", reason):
        return (
            f"an object of {found[1][:80]}, as of a whole module or a trainer's settings, which only code could bring "
            "back; where it was made, save the network's state_dict() alone"
        )
    if path.suffix == ".safetensors" and start[:2] in (b"PK", b"\x80\x02"):
        return "its content is that of a .pth file; rename it"
    if path.suffix != ".safetensors" and start[8:9] == b"{":
        return "its content is that of a .safetensors file; rename it"
    return ""


def require_usable(state: dict[str, torch.Tensor], path: Path) -> None:
    """Refuse tensors that cannot be weights of a network.

    Raises:
        ValueError: a tensor is sparse, quantised, complex or not on the CPU, is larger than its storage, or
            holds a value that is not finite.
    """
    for key, value in state.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex():
            found = f"a tensor of {value.dtype}, {value.layout}, on {value.device}"
            raise ValueError(f"{path}: found {found} as {key}, expected plain numbers; use another file")
        # With strides, a few stored numbers can pass for a tensor of any size.
        if value.nbytes > value.untyped_storage().nbytes():
            found = f"{tuple(value.shape)} in {value.untyped_storage().nbytes():,} bytes"
            raise ValueError(
                f"{path}: found a tensor of {found} as {key}, expected all of its numbers; use another file"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{path}: found a value that is not finite in {key}, expected numbers; use another file")


def _refuse_compressed(path: Path) -> None:
    """Refuse compressed archives, which could unpack to any size; torch does not compress."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ValueError("TorchScript")
            size = sum(entry.file_size for entry in archive.infolist())
        if size > path.stat().st_size:
            raise ValueError(f"an archive of {path.stat().st_size:,} bytes that unfolds to {size:,}")


def _download(backbone: str) -> dict[str, torch.Tensor]:
    """Download torchvision's first ImageNet weights, from which the original implementation starts."""
    from torchvision.models import get_model_weights

    entry = get_model_weights(backbone)["IMAGENET1K_V1"]
    try:
        return dict(entry.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{entry.url}: download failed ({error}); fetch it elsewhere and set {PARAMETER} to the file, or "
            f"{PARAMETER}=none for a random start"
        ) from error
