"""Training of an ensemble in the memory of one branch.

The loss is a mean over branches, so each branch runs forward, backward and its optimiser step alone,
against the detached output of the stem; the gradient of that output adds up, and one backward pass
through the stem follows. The numbers are those of the plain loop over all branches, up to the order
of floating-point sums; activations and gradients of only one branch exist at a time.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lrec import batches, progress
from lrec.device import autocast
from lrec.model import Ensemble


class Trainer:
    """An ensemble with one Adam optimiser per branch and one for the stem.

    Adam works on each number by itself, so this equals a single optimiser over all parameters.
    """

    def __init__(self, model: Ensemble, learning_rate: float, device: str, precision: str = "float32") -> None:
        self.model = model.to(device, memory_format=torch.channels_last)
        self.device, self.precision = device, precision
        self.optimizers = [
            torch.optim.Adam(part.parameters(), lr=learning_rate, fused=True) for part in [model.stem, *model.branches]
        ]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Change the learning rate of the next steps."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate

    def step(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Take one optimisation step.

        Args:
            images: (B, 3, S, S) float32, normalised.
            targets: (M, B) int64 meta classes.

        Returns:
            (M,) cross entropies, and (M,) counts of right meta classes.
        """
        stem_optimizer, *optimizers = self.optimizers
        with autocast(self.device, self.precision):
            trunk = self.model.stem(images)
        leaf = trunk.detach().requires_grad_()
        losses, right = [], []
        for branch, optimizer, target in zip(self.model.branches, optimizers, targets, strict=True):
            with autocast(self.device, self.precision):
                logits = branch(leaf)
                loss = cross_entropy(logits, target)
            (loss / len(optimizers)).backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            right.append((logits.detach().argmax(1) == target).sum())
        trunk.backward(leaf.grad)
        stem_optimizer.step()
        stem_optimizer.zero_grad()
        return torch.stack(losses), torch.stack(right)


def learning_rate_at(epoch: int, epochs: int, learning_rate: float, milestones: Sequence[float], gamma: float) -> float:
    """Return the learning rate of an epoch (from 0): times gamma at each milestone, a share of the epochs.

    The first epoch always has the full rate.

    >>> [learning_rate_at(epoch, 10, 1.0, [0.5, 0.7], 0.5) for epoch in (0, 4, 5, 6, 7)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    return learning_rate * gamma ** sum(epoch >= max(1, int(epochs * milestone)) for milestone in milestones)


def shuffled(rows: np.ndarray, batch_size: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Split rows at random into batches; every row is in one of them.

    A last batch of one image would give batch norm nothing to average: it joins the batch before.
    """
    order = generator.permutation(rows)
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


def fit(
    model: Ensemble,
    images: np.ndarray,
    rows: np.ndarray,
    targets: np.ndarray,
    normalization: dict[str, list[float]],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    milestones: Sequence[float],
    gamma: float,
    flip: bool,
    seed: int,
    precision: str,
    device: str,
    workers: int,
) -> pd.DataFrame:
    """Train an ensemble in place.

    Args:
        model: the ensemble at its start.
        images: (N, S, S, 3) uint8.
        rows: (R,) training rows of `images`.
        targets: (M, R) meta class of each training row, per branch.
        normalization: {"mean", "std"} per channel.
        epochs, batch_size, learning_rate, milestones, gamma, flip, seed, precision, device, workers:
            the recipe, see `lrec.params.Train`.

    Returns:
        One row per epoch: epoch (from 1), learning_rate, loss (mean over branches and images), accuracy
        (share of right meta classes, while training).

    Raises:
        ValueError: the loss is no longer finite; the message names epoch, step and branch.
    """
    trainer = Trainer(model, learning_rate, device, precision)
    position = np.zeros(len(images), dtype=np.int64)
    position[rows] = np.arange(len(rows))
    meta_classes = torch.from_numpy(targets).to(device)
    history = []
    for epoch in range(epochs):
        rate = learning_rate_at(epoch, epochs, learning_rate, milestones, gamma)
        trainer.set_learning_rate(rate)
        model.train()
        generator = np.random.default_rng([seed, epoch])
        selections = shuffled(rows, batch_size, generator)
        loss_sum = right_sum = seen = 0.0
        with progress.bar(len(rows), f"epoch {epoch + 1}/{epochs}") as bar:
            loaded = batches.gather(images, selections, device, workers)
            for step, (chosen, pixels) in enumerate(zip(selections, loaded, strict=True)):
                mirror = (
                    torch.from_numpy(np.flatnonzero(generator.random(len(chosen)) < 0.5)).to(device) if flip else None
                )
                batch = batches.normalize(pixels, normalization["mean"], normalization["std"], mirror)
                losses, right = trainer.step(batch, meta_classes[:, position[chosen]])
                _require_finite(losses, epoch, step)
                seen += len(chosen)
                loss_sum += float(losses.mean()) * len(chosen)
                right_sum += float(right.float().mean())
                bar.update(len(chosen))
                bar.set_postfix(loss=f"{loss_sum / seen:.3f}", accuracy=f"{right_sum / seen:.3f}", refresh=False)
        history.append((epoch + 1, rate, loss_sum / seen, right_sum / seen))
    return pd.DataFrame(history, columns=["epoch", "learning_rate", "loss", "accuracy"])


def _require_finite(losses: Tensor, epoch: int, step: int) -> None:
    finite = losses.isfinite()
    if not finite.all():
        branch = int((~finite).nonzero()[0])
        raise ValueError(
            f"the loss is {float(losses[branch])} in epoch {epoch + 1}, step {step + 1}, branch {branch}; expected a "
            "finite number: lower train.learning_rate, or set train.precision to float32"
        )
