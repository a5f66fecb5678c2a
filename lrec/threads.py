"""The threads of a processor at one forward pass: each takes images of its own."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


@contextlib.contextmanager
def by_image(forward: Callable[[Tensor], Tensor], device: str) -> Iterator[Callable[[Tensor], Tensor]]:
    """Give a forward pass that divides its batch among as many threads as torch would give each operation.

    Threads that share every operation wait for each other after each of them; these wait once per batch. No
    more memory is taken, for the parts are together as large as the batch. A batch of fewer images than threads, or
    on a GPU, passes as it is.

    Args:
        forward: maps (B, ...) to (B, ...), each image by itself. What torch keeps per thread, such as
            inference mode, it sets itself.
        device: where it computes.

    Source: measured in benchmarks/extraction.py.
    """
    threads = torch.get_num_threads()
    if threads == 1 or torch.device(device).type != "cpu":
        yield forward
        return

    def divided(batch: Tensor) -> Tensor:
        if len(batch) < threads:
            return forward(batch)
        return torch.cat(list(pool.map(forward, batch.tensor_split(threads))))

    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield divided
    finally:
        # Some of torch's libraries take the number of the thread that set it last for all.
        torch.set_num_threads(threads)
