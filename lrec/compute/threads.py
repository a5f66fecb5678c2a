"""The threads of a processor at one job, each with work of its own: images of a batch, blocks of a matrix.

Threads that share every operation, as torch's do by themselves, wait for each other after each of them.
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
    """Give so many threads, among which torch's threads are divided, until the block ends."""
    total = torch.get_num_threads()
    try:
        each = max(1, total // workers)
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,)) as executor:
            yield executor
    finally:
        # Some of torch's libraries take the number of the thread that set it last for all.
        torch.set_num_threads(total)


def share(work: Callable[[Iterator[Item]], None], items: Iterable[Item], workers: int) -> None:
    """Let threads take items from one iterator until none is left; after an error nobody takes another.

    Args:
        work: goes through the items that it is given; called once in each thread. What torch keeps per
            thread, such as `torch.no_grad`, it sets itself.
        items: in any number; they need not be ready before they are taken.
        workers: threads; with one the caller does the work.

    Raises:
        Whatever `work` raises first.
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
    """Give a forward pass that divides its batch among as many threads as torch would give each operation.

    They wait for each other once per batch. No more memory is taken, for the parts are together as large as
    the batch. A batch of fewer images than threads, or on a GPU, passes as it is.

    Args:
        forward: maps (B, ...) to (B, ...), each image by itself. What torch keeps per thread, such as
            inference mode, it sets itself.
        device: where it computes.

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
