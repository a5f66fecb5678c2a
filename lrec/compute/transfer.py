"""Asynchronous copies between the CPU and a GPU."""

import numpy as np
import torch
from torch import Tensor

from lrec.compute.device import is_gpu


def to_device(values: np.ndarray | Tensor, device: str | torch.device) -> Tensor:
    """Return values on a device; a copy to a GPU is asynchronous."""
    found = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if is_gpu(device) and found.device.type == "cpu":
        return found.pin_memory().to(device, non_blocking=True)
    return found.to(device)


class Reading:
    """An asynchronous copy to the CPU, which can be read without waiting for work queued after it.

    Args:
        values: values on any device; on a CPU they are not copied.
    """

    def __init__(self, values: Tensor) -> None:
        self._event = None
        self._values = values
        if is_gpu(values.device):
            self._values = values.to("cpu", non_blocking=True)  # into pinned memory
            module = torch.get_device_module(values.device)
            self._event = module.Event()
            self._event.record(module.current_stream(values.device))  # by default, of the current GPU

    def get(self) -> Tensor:
        """Wait for the copy and return the values on the CPU."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._values
