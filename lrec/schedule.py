"""The learning rate of every optimisation step."""

import math
from collections.abc import Sequence

SCHEDULES = ("multistep", "cosine")


def learning_rate(
    epoch: int,
    share: float,
    *,
    epochs: int,
    base: float,
    schedule: str = "multistep",
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    warmup_epochs: float = 0,
) -> float:
    """Return the learning rate of one step.

    Args:
        epoch: from 0.
        share: how much of the epoch is done once the step is, above 0 and at most 1.
        epochs: of the whole training.
        base: the full learning rate.
        schedule: "multistep" multiplies by `gamma` at each of the milestones, which are shares of the
            epochs, rounded down, the first epoch apart; "cosine" falls from the warm-up's end to 0.
        milestones: for multistep.
        gamma: for multistep.
        warmup_epochs: the rate grows linearly from 0 over so many epochs first.

    >>> [learning_rate(epoch, 1, epochs=10, base=1.0, milestones=[0.5, 0.7], gamma=0.5) for epoch in (0, 4, 5, 6, 7)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    done = epoch + share
    if done < warmup_epochs:
        return base * done / warmup_epochs
    if schedule == "cosine":
        return base * (1 + math.cos(math.pi * (done - warmup_epochs) / (epochs - warmup_epochs))) / 2
    return base * gamma ** sum(epoch >= max(1, int(epochs * milestone)) for milestone in milestones)
