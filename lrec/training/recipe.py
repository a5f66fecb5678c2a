"""The recipe: how an ensemble is trained, including the learning-rate schedule."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True)
class Recipe:
    """How to train: epochs, and keys of the section `train` in params.yaml, which explains them."""

    epochs: int
    batch_size: int = 10
    learning_rate: float = 1e-4
    milestones: Sequence[float] = (0.5, 0.7)
    gamma: float = 0.1
    schedule: str = "multistep"
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    loss: str = "cross_entropy"
    loss_learning_rate: float = 0.01
    images_per_class: int = 0
    validation_kind: str = "logits"
    label_smoothing: float = 0.0
    flip: bool = True
    random_crop: float = 1.0
    freeze_batch_norm: bool = False
    accumulate: int = 1
    seed: int = 0
    precision: str = "float32"
    parallel: str = "ensemble"
    compile: bool = False
    cuda_graphs: str = "auto"
    patience: int = 5

    @classmethod
    def of(cls, section: Mapping[str, Any], epochs: int) -> Self:
        """Return the recipe of a section `train`; keys that take effect before training are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(epochs=epochs, **{key: value for key, value in section.items() if key in known})

    def rate(self, epoch: int, done: float) -> float:
        """Return the learning rate of one step.

        "multistep" multiplies the rate by `gamma` at each milestone, a fraction of the epochs rounded down, but not
        in the first epoch; "cosine" decreases to 0 after the warm-up. During the warm-up the rate grows linearly
        from 0.

        Args:
            epoch: from 0.
            done: fraction of the epoch that is done after the step, above 0 and at most 1.

        >>> recipe = Recipe(epochs=10, learning_rate=1.0, milestones=[0.5, 0.7], gamma=0.5)
        >>> [recipe.rate(epoch, 1) for epoch in (0, 4, 5, 6, 7)]
        [1.0, 1.0, 0.5, 0.5, 0.25]
        >>> Recipe(epochs=90, learning_rate=1.0, milestones=[0.7]).rate(62, 1)  # though 90 * 0.7 is 62.99...
        1.0
        """
        time = epoch + done
        if time < self.warmup_epochs:
            return self.learning_rate * time / self.warmup_epochs
        if self.schedule == "cosine":
            phase = (time - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
            return self.learning_rate * (1 + math.cos(math.pi * phase)) / 2
        passed = sum(epoch >= max(1, int(round(self.epochs * milestone, 9))) for milestone in self.milestones)
        return self.learning_rate * self.gamma**passed
