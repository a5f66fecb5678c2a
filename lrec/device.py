"""Choice of the device and of the arithmetic that runs on it."""

import contextlib

import torch


def choose(name: str) -> str:
    """Return the device for a parameter: "auto" takes a CUDA GPU where there is one.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: found {name!r}, which is not to be had here ({reason}); set auto or cpu") from error
    return name


def describe(device: str) -> str:
    """Return one line on the device, for logs and run records."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager:
    """Return the context of a forward pass: bfloat16 autocast, or plain float32."""
    if precision == "bfloat16":
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
