"""The processes that torchrun starts for one job: their ranks, their shards of the work, and their communication.

A process that torchrun has not started is rank 0 of 1 and does not communicate. RANK, WORLD_SIZE and the like are not
sufficient evidence of torchrun, since schedulers and notebooks set them too.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta

import torch
import torch.distributed
from torch import Tensor, nn

from lrec.compute.device import choose

# Variables that can prevent every connection.
NETWORK = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TORCH_DISTRIBUTED_DEBUG")
# How long processes wait for what one does alone, such as fitting a reduction; torch's 30 minutes are too short.
PATIENCE = timedelta(days=7)
# What gloo and NCCL say when a process at the other end has ended.
GONE = ("connection", "closed", "closure", "timed out", "timeout", "by peer", "broken pipe", "socket", "remote")


def rank() -> int:
    """Return the rank of this process, from 0."""
    return int(os.environ["RANK"]) if started() else 0


def count() -> int:
    """Return the number of processes."""
    return int(os.environ["WORLD_SIZE"]) if started() else 1


def started() -> bool:
    """Return whether torchrun has started this process; it sets all of these variables, a shell perhaps only one."""
    numbers = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")]
    return bool(os.environ.get("TORCHELASTIC_RUN_ID")) and all(number.isdecimal() for number in numbers)


def device(name: str) -> str:
    """Return this process's device for a parameter: if several processes run on a machine, each uses its own GPU.

    Raises:
        ValueError: the device is not available, or there are fewer GPUs than processes.
    """
    if count() == 1 or name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return choose(name)
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    own = name in ("auto", "cuda")
    gpus = torch.cuda.device_count() if own else 1
    if here > gpus:
        raise ValueError(
            f"machine.processes: found {here} on this machine for {gpus} GPU ({name}), expected at most one for each; "
            "set it to gpu or 1, and machine.device to auto"
        )
    return choose(f"cuda:{os.environ['LOCAL_RANK']}" if own else name)


def shard(size: int, of: int | None = None) -> range:
    """Return a process's shard of `size` items, a range.

    The sizes of shards differ by at most one.

    Args:
        size: number of items.
        of: rank of the process; None for this one.

    >>> shard(5)
    range(0, 5)
    """
    place = rank() if of is None else of
    return range(size * place // count(), size * (place + 1) // count())


@contextlib.contextmanager
def together(device: str = "cpu") -> Iterator[None]:
    """Connect the processes while the block runs, with gloo for tensors on CPUs and NCCL for tensors on GPUs.

    After an error the connection is left open: closing it, NCCL would wait for processes that may be waiting for this
    one. The connection ends with the process.
    """
    if count() == 1:
        yield
        return
    if torch.device(device).type == "cuda":
        # Otherwise NCCL guesses the GPU from the rank, and its barriers use memory on another process's GPU.
        torch.cuda.set_device(device)
        with _explained():
            backends = "cpu:gloo,cuda:nccl"
            torch.distributed.init_process_group(backends, timeout=PATIENCE, device_id=torch.device(device))
    else:
        with _explained():
            torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    yield
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    wait()  # until the others have received everything from this process
    torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn an error of the connection into one that explains it.

    Raises:
        ConnectionError: another process has ended, or the processes cannot reach each other at all.
    """
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if "out of memory" in text.lower():
            raise
        if any(sign in text.lower() for sign in GONE):
            raise ConnectionError(
                f"another of the {count()} processes has ended ({text[:120]}); the last checkpoint is kept: run "
                "again, with any number of processes"
            ) from error
        named = [f"{name}={os.environ[name]}" for name in NETWORK if os.environ.get(name)]
        check = f"unset {', '.join(named)}" if named else "NCCL_DEBUG=INFO shows why"
        raise ConnectionError(
            f"the {count()} processes cannot exchange tensors ({text[:200]}); {check}, or set machine.processes to 1"
        ) from error


def wait() -> None:
    """Wait until all processes have called this function."""
    if count() > 1:
        with _explained():
            torch.distributed.barrier()


def agree(value: bool) -> bool:
    """Return rank 0's value in every process."""
    if count() == 1:
        return value
    message = torch.tensor([value])
    with _explained():
        torch.distributed.broadcast(message, 0)
    return bool(message)


def add_up(tensors: Sequence[Tensor]) -> int:
    """Replace tensors of one dtype with their sums over all processes, in place and in one message.

    All processes get the same bits.

    Returns:
        Bytes of the message.
    """
    if count() == 1 or not tensors:
        return 0
    message = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with _explained():
        torch.distributed.all_reduce(message)
    for tensor, part in zip(tensors, message.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))
    return message.nbytes


def gather(rows: Tensor, own: range, size: int) -> Tensor:
    """Return all rows, of which each process has computed a part.

    Gradients flow only into this process's rows, multiplied by the number of processes. So if all processes compute the
    same function of all rows, the mean of their gradients is the gradient that one process with all rows would get.

    Args:
        rows: (len(own), ...), this process's rows.
        own: their places among all rows.
        size: number of all rows; if `own` has all, they are returned as they are.
    """
    if len(own) == size:
        return rows
    # Sums in float32, of which gloo has every operation; adding zeros changes no value.
    whole = rows.new_zeros(size, *rows.shape[1:], dtype=torch.promote_types(rows.dtype, torch.float32))
    whole[own.start : own.stop] = rows.detach()
    add_up([whole])
    whole = whole.to(rows.dtype)
    if rows.requires_grad:
        rows.register_hook(lambda gradient: gradient * count())
    return torch.cat([whole[: own.start], rows, whole[own.stop :]])


def bring(module: nn.Module, owner: int) -> None:
    """Copy a module's parameters and buffers from the process `owner` to rank 0; both have the module's layers."""
    if owner == 0 or rank() not in (0, owner):
        return
    with torch.no_grad(), _explained():
        for value in module.state_dict(keep_vars=True).values():
            message = value.detach().contiguous()
            if rank() == owner:
                torch.distributed.send(message, 0)
            else:
                torch.distributed.recv(message, owner)
                value.copy_(message)
