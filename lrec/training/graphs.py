"""CUDA graphs of the branches' steps: recorded once, then launched with one call per branch.

With the original's batch size, a GPU waits for the CPU, which launches thousands of kernels per step. The kernels of a
graph use fixed addresses, so its inputs and outputs are in fixed tensors; see `Record`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

WARM_UP = 3  # steps before recording, in which libraries choose kernels and optimisers create their state


def record(work: Callable[[], None], pool: object, device: str) -> Callable[[], None]:
    """Record the kernels that `work` launches on a GPU, without running them; return a function that runs them.

    Args:
        work: launches the same kernels on the same memory each time, and copies nothing to the CPU.
        pool: memory pool of the graph. Graphs that share a pool must be replayed in the order of recording.
        device: a GPU.
    """
    module = torch.get_device_module(device)
    graph = module.CUDAGraph()
    # Other threads may continue to pin memory for the next batches.
    with module.graph(graph, pool=pool, capture_error_mode="thread_local"):
        work()
    return graph.replay


@dataclass(frozen=True)
class Figures:
    """Results of the branches' steps: (M,) losses, (M,) right meta classes, the gradient of the stem's output."""

    losses: Tensor
    right: Tensor
    gradient: Tensor | None


class Record:
    """The steps of all branches on batches of one shape.

    Args:
        steps: for each branch, a function of the stem's output, (M, B) targets, and the tensors for (M,) losses and
            (M,) right meta classes; it returns the gradient of the stem's output, None if not needed.
        maps: the stem's output.
        targets: (M, B) int64.
        wanted: whether the gradient is needed.
        device: a GPU.
    """

    def __init__(
        self,
        steps: list[Callable[[Tensor, Tensor, Tensor, Tensor], Tensor | None]],
        maps: Tensor,
        targets: Tensor,
        wanted: bool,
        device: str,
    ) -> None:
        kind = torch.promote_types(maps.dtype, torch.float32)
        self._maps, self._targets = maps.clone(), targets.clone()
        losses, right = torch.zeros(2, len(targets), dtype=kind, device=maps.device)
        self._figures = Figures(losses, right, torch.empty_like(maps, dtype=kind) if wanted else None)
        pool = torch.get_device_module(device).graph_pool_handle()
        self._replays = [record(self._work(number, step), pool, device) for number, step in enumerate(steps)]

    def _work(self, number: int, step: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor | None]) -> Callable[[], None]:
        def work() -> None:
            part = step(self._maps, self._targets, self._figures.losses, self._figures.right)
            total = self._figures.gradient
            if total is not None and part is not None:
                _ = total.add_(part) if number else total.copy_(part)

        return work

    def run(self, maps: Tensor, targets: Tensor) -> Figures:
        """Take the steps; the next ones overwrite the gradient."""
        self._maps.copy_(maps)
        self._targets.copy_(targets)
        for replay in self._replays:
            replay()
        return Figures(self._figures.losses.clone(), self._figures.right.clone(), self._figures.gradient)


class Recorder:
    """Records the steps of one batch shape: the first that occurs more than `WARM_UP` times, that of full batches."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[torch.Size, torch.dtype]] = Counter()
        self._record: tuple[tuple[torch.Size, torch.dtype], Record] | None = None

    def find(self, maps: Tensor, make: Callable[[], Record]) -> Record | None:
        """Return the record for this output of the stem, created if it is due; None if the step is not recorded."""
        key = (maps.shape, maps.dtype)
        if self._record is None:
            self._seen[key] += 1
            if self._seen[key] <= WARM_UP:
                return None
            self._record = (key, make())
        return self._record[1] if self._record[0] == key else None
