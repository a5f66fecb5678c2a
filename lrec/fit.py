"""The training loop: epochs, batches, history, checkpoints."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lrec import augment, batches, progress
from lrec.checkpoint import Checkpoint
from lrec.model import Ensemble
from lrec.schedule import learning_rate
from lrec.train import Trainer

COLUMNS = ["epoch", "learning_rate", "loss", "accuracy"]


@dataclass(frozen=True)
class Recipe:
    """How to train; the fields are those of `lrec.params.Train`, and the epochs."""

    epochs: int
    batch_size: int
    learning_rate: float
    milestones: Sequence[float] = (0.5, 0.7)
    gamma: float = 0.1
    schedule: str = "multistep"
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    flip: bool = True
    random_crop: float = 1.0
    freeze_batch_norm: bool = False
    accumulate: int = 1
    seed: int = 0
    precision: str = "float32"

    def rate(self, epoch: int, share: float) -> float:
        """Return the learning rate, see `lrec.schedule.learning_rate`."""
        return learning_rate(
            epoch,
            share,
            epochs=self.epochs,
            base=self.learning_rate,
            schedule=self.schedule,
            milestones=self.milestones,
            gamma=self.gamma,
            warmup_epochs=self.warmup_epochs,
        )


@dataclass
class State:
    """How far a training is: plain values that a checkpoint keeps."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    right: float = 0.0
    seen: int = 0
    history: list[list[float]] = field(default_factory=list)


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
    recipe: Recipe,
    *,
    device: str = "cpu",
    workers: int = 0,
    checkpoint: Checkpoint | None = None,
) -> pd.DataFrame:
    """Train an ensemble in place.

    Everything random in an epoch comes from a generator seeded with the recipe's seed and the epoch, so
    a training that goes on from a checkpoint ends with the same bytes as one that was never stopped.

    Args:
        model: the ensemble at its start.
        images: (N, S, S, 3) uint8.
        rows: (R,) training rows of `images`.
        targets: (M, R) int64, meta class of each training row, per branch.
        normalization: {"mean", "std"} per channel.
        recipe: how to train.
        device: where.
        workers: threads that fetch batches ahead; the result does not depend on it.
        checkpoint: where to go on from, and to write to at the end of every epoch and when one is due.

    Returns:
        One row per epoch: epoch (from 1), learning_rate of its last step, loss (mean over branches and
        images), accuracy (share of right meta classes, while training).

    Raises:
        ValueError: the loss is no longer finite; the message names epoch, step and branch.
        MemoryError: out of memory; the message says what to lower.
    """
    options = ("precision", "weight_decay", "label_smoothing", "freeze_batch_norm", "accumulate")
    trainer = Trainer(model, device, **{name: getattr(recipe, name) for name in options})
    state = State()
    if checkpoint and (found := checkpoint.load(model, trainer.optimizers)):
        state = State(**found)
        print(f"going on from a checkpoint: epoch {state.epoch + 1}, step {state.step + 1}")
    meta_classes = torch.from_numpy(targets).to(device)
    position = np.zeros(len(images), dtype=np.int64)
    position[rows] = np.arange(len(rows))
    while state.epoch < recipe.epochs:
        trainer.start_epoch()
        label = f"epoch {state.epoch + 1}/{recipe.epochs}"
        with progress.bar(len(rows), label) as bar:
            bar.update(state.seen)
            for chosen, batch, rate, last in _batches(images, rows, normalization, recipe, state, device, workers):
                trainer.set_learning_rate(rate)
                losses, right = _step(trainer, batch, meta_classes[:, position[chosen]], last)
                _require_finite(losses, state)
                state.step += 1
                state.seen += len(chosen)
                state.loss += float(losses.mean()) * len(chosen)
                state.right += float(right.float().mean())
                bar.update(len(chosen))
                figures = {"loss": state.loss / state.seen, "accuracy": state.right / state.seen}
                bar.set_postfix({key: f"{value:.3f}" for key, value in figures.items()}, refresh=False)
                if checkpoint and checkpoint.due() and not last and trainer.waiting == 0:
                    checkpoint.save(model, trainer.optimizers, vars(state))
        state.history.append([state.epoch + 1, rate, state.loss / state.seen, state.right / state.seen])
        state = State(epoch=state.epoch + 1, history=state.history)
        if checkpoint and state.epoch < recipe.epochs:
            checkpoint.save(model, trainer.optimizers, vars(state))
    return pd.DataFrame(state.history, columns=COLUMNS).astype({"epoch": int})


def _batches(
    images: np.ndarray,
    rows: np.ndarray,
    normalization: dict[str, list[float]],
    recipe: Recipe,
    state: State,
    device: str,
    workers: int,
) -> Iterator[tuple[np.ndarray, Tensor, float, bool]]:
    """Yield the rest of an epoch: rows, input, learning rate, and whether it is the last batch."""
    generator = np.random.default_rng([recipe.seed, state.epoch])
    selections = shuffled(rows, recipe.batch_size, generator)
    changes = [augment.draw(generator, len(chosen), recipe.flip, recipe.random_crop) for chosen in selections]
    start = state.step
    loaded = batches.gather(images, selections[start:], device, workers)
    for number, pixels in enumerate(loaded, start):
        flipped, windows = changes[number].flipped, changes[number].windows
        flipped = None if flipped is None else flipped.to(device)
        batch = batches.normalize(pixels, normalization["mean"], normalization["std"], flipped)
        batch = batch if windows is None else augment.crop(batch, windows)
        rate = recipe.rate(state.epoch, (number + 1) / len(selections))
        yield selections[number], batch, rate, number + 1 == len(selections)


def _step(trainer: Trainer, batch: Tensor, targets: Tensor, last: bool) -> tuple[Tensor, Tensor]:
    """Take a step; say what to change when memory runs out."""
    try:
        return trainer.step(batch, targets, last)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise MemoryError(
            f"out of memory on {trainer.device} with batches of {len(batch)} images of {batch.shape[2]} px: lower "
            "train.batch_size (train.accumulate makes up for it), the variant's image_size or its ensemble_size"
        ) from error


def _require_finite(losses: Tensor, state: State) -> None:
    finite = losses.isfinite()
    if not finite.all():
        branch = int((~finite).nonzero()[0])
        raise ValueError(
            f"the loss is {float(losses[branch])} in epoch {state.epoch + 1}, step {state.step + 1}, branch {branch}; "
            "expected a finite number: lower train.learning_rate, or set train.precision to float32"
        )
