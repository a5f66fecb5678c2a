"""The progress of a training run: epoch, step, and loss and accuracy so far."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lrec.compute.transfer import Reading
from lrec.io.progress import tqdm

COLUMNS = ["epoch", "learning_rate", "loss", "accuracy"]
VALIDATION = "validation_recall_at_1"


@dataclass
class State:
    """The progress of a training run, as plain values that a checkpoint saves."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    right: float = 0.0
    seen: int = 0
    history: list[list[float]] = field(default_factory=list)

    def stopped_early(self, patience: int) -> bool:
        """Return whether validation has not improved for `patience` epochs."""
        return 0 < kept_epoch(self.history) <= self.epoch - patience


def kept_epoch(history: Sequence[Sequence[float]]) -> int:
    """Return the epoch, from 1, with the best validation recall, the first if tied; 0 without validation.

    >>> kept_epoch([[1, 0.1, 2.0, 0.3, 40.0], [2, 0.1, 1.0, 0.4, 45.0], [3, 0.1, 0.5, 0.5, 45.0]])
    2
    """
    found = [row[-1] for row in history if len(row) > len(COLUMNS)]
    return 1 + found.index(max(found)) if found else 0


class Tally:
    """Adds the losses and accuracies of an epoch's steps to its state, and shows them.

    Args:
        state: the state to update.
        bar: the progress bar.
        late: steps by which reading lags behind, so that the CPU prepares a step while a GPU computes the one before.
    """

    def __init__(self, state: State, bar: tqdm, late: int) -> None:
        self.state, self.bar, self.late = state, bar, late
        self.unread: deque[tuple[int, Reading]] = deque()
        bar.update(state.seen)

    def add(self, images: int, losses: Tensor, right: Tensor) -> None:
        """Add a step: its number of images, (M,) losses, (M,) right meta classes."""
        self.unread.append((images, Reading(torch.stack([losses, right]))))
        self.read(self.late)

    def read(self, left: int = 0) -> None:
        """Read all steps but the last `left`.

        Raises:
            ValueError: a loss is not finite; the message names epoch, step and branch.
        """
        while len(self.unread) > left:
            images, reading = self.unread.popleft()
            losses, right = reading.get()
            _require_finite(losses, self.state)
            self.state.step += 1
            self.state.seen += images
            self.state.loss += float(losses.mean()) * images
            self.state.right += float(right.mean())
            self.bar.update(images)
            figures = {"loss": self.state.loss / self.state.seen, "accuracy": self.state.right / self.state.seen}
            self.bar.set_postfix({key: f"{value:.3f}" for key, value in figures.items()}, refresh=False)


def _require_finite(losses: Tensor, state: State) -> None:
    finite = losses.isfinite()
    if not finite.all():
        branch = int((~finite).nonzero()[0])
        raise ValueError(
            f"the loss is {float(losses[branch])} in epoch {state.epoch + 1}, step {state.step + 1}, branch {branch}; "
            "expected a finite number: lower train.learning_rate, or set train.precision to float32"
        )
