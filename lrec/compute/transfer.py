"""Copies between the CPU and a GPU for which neither waits, as far as that is possible."""

import numpy as np
import torch
from torch import Tensor

from lrec.compute.device import is_gpu


def to_device(values: np.ndarray | Tensor, device: str | torch.device) -> Tensor:
    """Return values of the CPU on a device; a GPU copies them when its turn comes, and the CPU goes on."""
    found = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if is_gpu(device) and found.device.type == "cpu":
        return found.pin_memory().to(device, non_blocking=True)
    return found.to(device)


class Reading:
    """Values on their way to the CPU. The work that is queued behind them is not waited for.

    Args:
        values: on any device. On a CPU they are not copied.
    """

    def __init__(self, values: Tensor) -> None:
        self._event = None
        self._values = values
        if is_gpu(values.device):
            self._values = values.to("cpu", non_blocking=True)  # into pinned memory
            self._event = torch.get_device_module(values.device).Event()
            self._event.record()

    def get(self) -> Tensor:
        """Return the values on the CPU, once they are there."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._values
