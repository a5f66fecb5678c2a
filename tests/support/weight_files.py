"""Files of starting weights, and a tiny project that uses one."""

import io
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import tiny_pipeline as tiny
import torch

State = dict[str, torch.Tensor]


def saved(value: object, **options: object) -> bytes:
    """Return the bytes that torch.save writes."""
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def safe(value: State) -> bytes:
    """Return the bytes that safetensors writes."""
    return safetensors.torch.save(value)


def prefixed(text: str) -> Callable[[State], State]:
    """Add a prefix to every key."""
    return lambda state: {text + key: value for key, value in state.items()}


def use(project: Path, root: Path, name: str) -> None:
    """Make the project start from the weights of this name."""
    values = tiny.settings(root)
    values["variants"]["tiny"]["train"]["weights"] = name
    tiny.write_settings(project, values)
