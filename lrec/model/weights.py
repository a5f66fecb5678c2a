"""Starting weights of a backbone: ImageNet's, a local file's, or none."""

import zipfile
from pathlib import Path

import safetensors.torch
import torch
from torchvision.models import get_model_weights

from lrec.io import hashing

PARAMETER = "train.weights"


def describe(backbone: str, weights: str) -> str:
    """Return what to record of a choice of weights: its name, and for a file the start of its SHA-256."""
    path = Path(weights.replace("{backbone}", backbone))
    return f"{path.name} {hashing.of_file(path)[:16]}" if path.is_file() else weights


def load(backbone: str, weights: str | None) -> dict[str, torch.Tensor] | None:
    """Return a state dict in torchvision's keys, or None for a random start.

    Args:
        backbone: torchvision's name of the network.
        weights: "imagenet" (torchvision's IMAGENET1K_V1, downloaded once), "none" or None, or the path
            of a .pth or .safetensors file, in which `{backbone}` stands for the name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the download failed, or the file holds something else; nothing is ever unpickled.
    """
    if weights is None or weights == "none":
        return None
    if weights == "imagenet":
        return _download(backbone)
    path = Path(weights.replace("{backbone}", backbone))
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found; {PARAMETER} must be imagenet, none, or the path of a .pth or .safetensors file"
        )
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            _refuse_compressed(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything inside torch
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"{path}: found no weights that load safely ({reason}), expected a state dict") from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise ValueError(f"{path}: found {type(state).__name__}, expected a state dict in torchvision's keys")
    require_usable(state, path)
    return state


def require_usable(state: dict[str, torch.Tensor], path: Path) -> None:
    """Refuse what no network can be made of.

    Raises:
        ValueError: a tensor is sparse, quantised, complex or elsewhere, larger than what is stored of it, or
            holds a value that is not finite.
    """
    for key, value in state.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex():
            found = f"a tensor of {value.dtype}, {value.layout}, on {value.device}"
            raise ValueError(f"{path}: found {found} as {key}, expected plain numbers; use another file")
        # Strides can make a tensor of any size out of a few numbers.
        if value.nbytes > value.untyped_storage().nbytes():
            found = f"{tuple(value.shape)} in {value.untyped_storage().nbytes():,} bytes"
            raise ValueError(
                f"{path}: found a tensor of {found} as {key}, expected all of its numbers; use another file"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{path}: found a value that is not finite in {key}, expected numbers; use another file")


def _refuse_compressed(path: Path) -> None:
    """Torch stores what is in its archives as it is; a compressed entry could unfold to any size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > path.stat().st_size:
            raise ValueError(f"an archive of {path.stat().st_size:,} bytes that unfolds to {size:,}")


def _download(backbone: str) -> dict[str, torch.Tensor]:
    """Fetch torchvision's first ImageNet weights, which the original implementation starts from."""
    entry = get_model_weights(backbone)["IMAGENET1K_V1"]
    try:
        return dict(entry.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{entry.url}: download failed ({error}); fetch it elsewhere and set {PARAMETER} to the file, or "
            f"{PARAMETER}=none for a random start"
        ) from error
