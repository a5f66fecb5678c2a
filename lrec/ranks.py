"""Several processes at one job, as torchrun starts them: who is who, and waiting for each other.

Started plainly, a process is rank 0 of 1 and waits for nobody.
"""

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed


def rank() -> int:
    """Return which of the processes this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """Return how many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def device(name: str) -> str:
    """Return this process's own device: of several processes on "cuda" each takes a GPU in turn."""
    if name == "cuda" and count() > 1:
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return name


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Connect the processes while the block runs. They exchange no tensors, so gloo serves GPUs as well."""
    if count() == 1:
        yield
        return
    torch.distributed.init_process_group("gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def wait() -> None:
    """Return when every process has come here."""
    if count() > 1:
        torch.distributed.barrier()
