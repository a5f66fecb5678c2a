"""CPU threads that each process their own items: images of a batch, blocks of a matrix, branches of an ensemble.

By default, torch divides every single operation among its threads, which synchronise after each operation.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


@contextlib.contextmanager
def pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield an executor with `workers` threads; torch's own threads are divided among them."""
    total = torch.get_num_threads()
    try:
        each = max(1, total // workers)
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,)) as executor:
            yield executor
    finally:
        # In some of torch's libraries, the number that any thread set last applies to all threads.
        torch.set_num_threads(total)


def distribute(work: Callable[[Iterator[Item]], None], items: Iterable[Item], workers: int) -> None:
    """Distribute items among threads: each takes the next item when it is free. After an error, none takes another.

    Args:
        work: iterates over its items; called once in each thread. It must set torch's per-thread state, such as
            `torch.no_grad`, itself.
        items: any number of items; an iterator may produce them on demand.
        workers: threads; with one, the work is done in the calling thread.

    Raises:
        Exception: the first one that `work` raises.
    """
    if workers == 1:
        work(iter(items))
        return
    source, lock, ended = iter(items), threading.Lock(), threading.Event()

    def taken() -> Iterator[Item]:
        while not ended.is_set():
            with lock:
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item

    def guarded() -> None:
        try:
            work(taken())
        except BaseException:
            ended.set()
            raise

    with pool(workers) as executor:
        try:
            for each in [executor.submit(guarded) for _ in range(workers)]:
                each.result()
        finally:
            ended.set()


@contextlib.contextmanager
def by_image(forward: Callable[[Tensor], Tensor], device: str) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield a forward pass that divides its batch among as many threads as torch would use for each operation.

    Threads synchronise once per batch. No additional memory is needed, since the parts together are as large as
    the batch. A batch with fewer images than threads, or on a GPU, is not divided.

    Args:
        forward: maps (B, ...) to (B, ...), image by image. It must set torch's per-thread state, such as
            inference mode, itself.
        device: device of the forward pass.

    Source: measured in benchmarks/extraction.py.
    """
    workers = torch.get_num_threads()
    if workers == 1 or torch.device(device).type != "cpu":
        yield forward
        return

    def divided(batch: Tensor) -> Tensor:
        if len(batch) < workers:
            return forward(batch)
        return torch.cat(list(executor.map(forward, batch.tensor_split(workers))))

    with pool(workers) as executor:
        yield divided
