"""CUDA graphs of the branches' steps: recorded once, then started by the CPU with one call for each branch.

At the original's batch size a GPU waits for the CPU, which starts thousands of kernels per step. A graph keeps the
addresses that its kernels work on, so what it reads and writes lies at fixed places; see `Record`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

WARM_UP = 3  # steps before one is recorded: libraries choose their kernels, and optimisers make their state


def record(work: Callable[[], None], pool: object, device: str) -> Callable[[], None]:
    """Record what `work` starts on a GPU, without doing it; return a function that does it.

    Args:
        work: starts the same kernels on the same memory each time, and reads nothing back.
        pool: of the graphs' memory. Graphs that share one must be replayed in the order of their recording.
        device: a GPU.
    """
    module = torch.get_device_module(device)
    graph = module.CUDAGraph()
    # Other threads may go on: they pin memory for the next batches.
    with module.graph(graph, pool=pool, capture_error_mode="thread_local"):
        work()
    return graph.replay


@dataclass(frozen=True)
class Figures:
    """What the branches' steps give: (M,) losses, (M,) right meta classes, the gradient of the stem's output."""

    losses: Tensor
    right: Tensor
    gradient: Tensor | None


class Record:
    """The steps of all branches on batches of one shape.

    Args:
        steps: for each branch, maps the stem's output, (M, B) targets, and where (M,) losses and (M,) right meta
            classes go to the gradient of the stem's output, None if it has no use.
        maps: the stem's output.
        targets: (M, B) int64.
        wanted: whether the gradient is.
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
    """Decides which steps are recorded: those of the shape that comes first so often, that of all but odd batches."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[torch.Size, torch.dtype]] = Counter()
        self._record: tuple[tuple[torch.Size, torch.dtype], Record] | None = None

    def find(self, maps: Tensor, make: Callable[[], Record]) -> Record | None:
        """Return the record for this output of the stem, made if it is time; None if the step is not recorded."""
        key = (maps.shape, maps.dtype)
        if self._record is None:
            self._seen[key] += 1
            if self._seen[key] <= WARM_UP:
                return None
            self._record = (key, make())
        return self._record[1] if self._record[0] == key else None
