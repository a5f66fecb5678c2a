"""Checkpoints of a training: one file, whole or not there, from which it goes on bit by bit.

The file's name is a hash of everything that the training depends on, so that a training with other
parameters, data or code never goes on from it.
"""

import errno
import json
import time
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lrec import files


class Checkpoint:
    """The checkpoint of one training.

    Args:
        path: of the file; its folder holds no other training's.
        minutes: how often, beside the end of every epoch, one is due.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self.seconds, self.last = path, 60 * minutes, time.monotonic()
        for other in path.parent.glob("*.safetensors"):
            if other != path:
                other.unlink()

    def due(self) -> bool:
        """Whether the time since the last one is up."""
        return time.monotonic() - self.last >= self.seconds

    def save(self, model: nn.Module, optimizers: dict[str, torch.optim.Optimizer], progress: dict[str, Any]) -> None:
        """Write model, optimiser state and progress (plain JSON values), atomically.

        Raises:
            OSError: no room on the disk, among others; an earlier checkpoint stays.
        """
        tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
        for name, optimizer in optimizers.items():
            for number, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{name}.{number}.{key}": value for key, value in state.items()}
        plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        try:
            with files.atomic_path(self.path) as draft:
                safetensors.torch.save_file(plain, draft, metadata={"progress": json.dumps(progress)})
        except SafetensorError as error:
            size = sum(value.nbytes for value in plain.values()) / 1e9
            raise OSError(
                errno.EIO, f"cannot write a checkpoint of {size:.1f} GB ({error}); free disk space, then run again"
            ) from error
        self.last = time.monotonic()

    def load(self, model: nn.Module, optimizers: dict[str, torch.optim.Optimizer]) -> dict[str, Any] | None:
        """Put a checkpoint's state into model and optimisers and return its progress; None without one.

        Raises:
            ValueError: the file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            with safetensors.safe_open(self.path, "pt") as stream:
                progress = json.loads(stream.metadata()["progress"])
                tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 (it is no dict)
            model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
            for name, optimizer in optimizers.items():
                _restore(optimizer, f"optimizer.{name}.", tensors)
        except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path}: damaged checkpoint ({error}); delete it and run again") from error
        return progress

    def remove(self) -> None:
        """Delete the file, once the training's results are written."""
        self.path.unlink(missing_ok=True)


def _restore(optimizer: torch.optim.Optimizer, prefix: str, tensors: dict[str, Tensor]) -> None:
    """Load an optimiser's state, in the memory format of its parameters, which fused steps rely on."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            number, field = key.removeprefix(prefix).split(".")
            same_shape = value.shape == parameters[int(number)].shape and value.ndim > 0
            kept = torch.empty_like(parameters[int(number)], dtype=value.dtype).copy_(value) if same_shape else value
            state.setdefault(int(number), {})[field] = kept
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
