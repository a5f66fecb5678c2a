"""The training loop: epochs, batches, history, checkpoints."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from lrec.compute import collective
from lrec.compute.device import is_gpu
from lrec.compute.transfer import to_device
from lrec.data import batches
from lrec.data.batches import Images
from lrec.io import progress
from lrec.io.errors import OUT_OF_MEMORY
from lrec.model.ensemble import Ensemble
from lrec.training import augment, validation
from lrec.training.checkpoint import Checkpoint
from lrec.training.distillation import Teacher, start_heads
from lrec.training.recipe import Recipe
from lrec.training.state import COLUMNS, VALIDATION, State, Tally, kept_epoch
from lrec.training.step import Trainer
from lrec.training.validation import Held


@dataclass(frozen=True)
class Machine:
    """Settings that do not affect the result of training, except for floating-point noise.

    Attributes:
        device: where to train.
        workers: threads that read batches ahead, 0 for none.
        branches_at_once: see `lrec.training.step.Trainer`.
    """

    device: str = "cpu"
    workers: int = 0
    branches_at_once: int = 1


ALONE = Machine()


def balanced(rows: np.ndarray, classes: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Put rows into a random order of runs of `count` images of one class; the rest of each class comes last.

    Args:
        rows: (R,).
        classes: (R,) int64, the classes of the rows.
        count: images per run.
        generator: source of the randomness.
    """
    order = generator.permutation(len(rows))
    order = order[np.argsort(classes[order], kind="stable")]
    starts = np.flatnonzero(np.diff(classes[order], prepend=classes[order][0] - 1))
    runs = [run[at : at + count] for run in np.split(order, starts[1:]) for at in range(0, len(run), count)]
    mixed = [runs[place] for place in generator.permutation(len(runs))]
    return rows[np.concatenate(sorted(mixed, key=lambda run: len(run) < count))]


def cut(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cut rows into batches; every row is in one of them.

    A last batch of one image is merged into the batch before: batch norm cannot average over one image.
    """
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if len(parts) > 1 and len(parts[-1]) < 2:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


def _own(size: int, parallel: str) -> range:
    """Return the places of this process's images in a batch.

    Data-parallel processes share it, unless one would have fewer than two images: then each takes the whole batch, so
    that batches do not depend on the number of processes, with which a resumed training may differ.
    """
    divided = parallel == "data" and size >= 2 * collective.count()
    return collective.shard(size) if divided else range(size)


def fit(
    model: Ensemble,
    images: Images,
    targets: np.ndarray,
    recipe: Recipe,
    *,
    held: Held | None = None,
    machine: Machine = ALONE,
    checkpoint: Checkpoint | None = None,
    teacher: Teacher | None = None,
) -> pd.DataFrame:
    """Train an ensemble in place, in this process or together with the others that torchrun has started.

    All random numbers of an epoch come from a generator seeded with the recipe's seed and the epoch, so
    a resumed training run ends with the same bytes as one that was never interrupted.

    Args:
        model: the initial ensemble; in ensemble parallel, this process's part of it.
        images: the R training images.
        targets: (M, R) int64, meta class of each training image, per branch.
        recipe: how to train.
        held: images of held-out classes to validate on after each epoch. Training stops after `patience` epochs
            without improvement, and the model of the best epoch is kept.
        machine: device and threads; the result does not depend on the threads.
        checkpoint: the checkpoint to resume from, written at the ends of epochs and when due.
        teacher: for the loss distillation.

    Returns:
        One row per epoch: epoch (from 1), learning_rate of its last step, loss (mean over branches and
        images), accuracy (fraction of right meta classes, while training), and with `held`
        validation_recall_at_1 (percent).

    Raises:
        ValueError: the loss is no longer finite; the message names epoch, step and branch. Or the batches
            are too small for the number of data-parallel processes.
        MemoryError: out of memory; the message says what to lower.
        ConnectionError: another process has ended.
    """
    device = machine.device
    trainer = Trainer(model, recipe, device, machine.branches_at_once, int(targets.max()) + 1, teacher)
    divided = recipe.parallel == "data"
    smallest = 2 * collective.count() if divided else 2  # of all batches but the last
    if min(len(images), recipe.batch_size) < smallest:
        raise ValueError(
            f"train.batch_size: found {recipe.batch_size} of {len(images)} images, expected at least {smallest}, two "
            f"for each of {collective.count()} processes; raise it, or set train.parallel to ensemble"
        )
    state, best = State(), {}
    found = checkpoint.load(trainer.learned, trainer.optimizers) if checkpoint else None
    if teacher and recipe.epochs and not found:
        start_heads(model, teacher, images, recipe.batch_size, device)
    if found:
        state, best = found
        if collective.rank() == 0:
            print(f"resuming from a checkpoint: epoch {state.epoch + 1}, step {state.step + 1}")

    def save() -> None:
        if checkpoint:
            checkpoint.save(trainer.learned, trainer.optimizers, state, best, shared=not divided)

    position = np.zeros(len(images.pixels), dtype=np.int64)
    position[images.rows] = np.arange(len(images))
    classes = np.unique(targets, axis=1, return_inverse=True)[1].reshape(-1)  # a class is the tuple of its meta classes
    late = int(is_gpu(device))
    while state.epoch < recipe.epochs and not state.stopped_early(recipe.patience):
        trainer.start_epoch()
        label = f"epoch {state.epoch + 1}/{recipe.epochs}"
        with progress.bar(len(images), label, quiet=collective.rank() > 0) as bar:
            tally = Tally(state, bar, late)
            for batch in _batches(images, classes, recipe, state, machine):
                trainer.set_learning_rate(batch.rate)
                meta = to_device(targets[:, position[batch.rows]], device)
                tally.add(len(batch.rows), *_step(trainer, batch, meta))
                if checkpoint and not batch.last and trainer.waiting == 0 and checkpoint.due():
                    tally.read()
                    save()
            tally.read()
        row = [state.epoch + 1, batch.rate, state.loss / state.seen, state.right / state.seen]
        state = State(epoch=state.epoch + 1, history=[*state.history, row])
        if held:
            row.append(_validated(model, held, recipe, device))
            if kept_epoch(state.history) == state.epoch:
                best = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
        if checkpoint and state.epoch < recipe.epochs and checkpoint.due_after_epoch():
            save()
    if best:
        model.load_state_dict(best)
    if collective.rank() == 0 and trainer.steps and trainer.sent:
        together = f"{collective.count()} processes, {recipe.parallel} parallel"
        print(f"{together}: {trainer.sent / trainer.steps / 1e6:.2f} MB of gradients added up per step")
    columns = [*COLUMNS, *([VALIDATION] if held else [])]
    return pd.DataFrame(state.history, columns=columns).astype({"epoch": int})


def _validated(model: Ensemble, held: Held, recipe: Recipe, device: str) -> float:
    """Return the recall at 1 of the held-out images, in percent."""
    recall = validation.measure(model, held, recipe, device)
    if collective.rank() == 0:
        print(f"validation: R@1 {100 * recall:.2f} on {len(held.images):,} images of held-out training classes")
    return 100 * recall


@dataclass(frozen=True)
class Batch:
    """The input of one step.

    Attributes:
        rows: (B,) int64, rows of the store.
        own: places in it of the images that this process takes.
        images: (len(own), 3, S, S), these images.
        rate: learning rate.
        together: batches whose mean gradient makes one step of the optimisers.
        last: whether it is the last batch of the epoch.
    """

    rows: np.ndarray
    own: range
    images: Tensor
    rate: float
    together: int
    last: bool


def _drawn(rows: np.ndarray, classes: np.ndarray, recipe: Recipe, generator: np.random.Generator) -> list[np.ndarray]:
    """Return an epoch's rows in batches, in random order; `classes` are those of the R rows."""
    if not recipe.images_per_class:
        return cut(generator.permutation(rows), recipe.batch_size)
    wholes = cut(balanced(rows, classes, recipe.images_per_class, generator), recipe.batch_size)
    # The last runs of the classes are short and have few pairs; they should not end every epoch.
    return [*(wholes[place] for place in generator.permutation(len(wholes) - 1)), wholes[-1]]


def _batches(images: Images, classes: np.ndarray, recipe: Recipe, state: State, machine: Machine) -> Iterator[Batch]:
    """Yield the remaining batches of an epoch; `classes` are those of the R images."""
    generator = np.random.default_rng([recipe.seed, state.epoch])
    wholes = _drawn(images.rows, classes, recipe, generator)
    changes = [augment.draw(generator, len(whole), recipe.flip, recipe.random_crop) for whole in wholes]
    start = state.step
    own = [_own(len(whole), recipe.parallel) for whole in wholes]
    selections = [whole[part.start : part.stop] for whole, part in zip(wholes, own, strict=True)]
    loaded = batches.gather(images.pixels, selections[start:], machine.device, machine.workers)
    for number, pixels in enumerate(loaded, start):
        change = changes[number].part(own[number])
        flipped = None if change.flipped is None else to_device(change.flipped, machine.device)
        batch = images.normalize(pixels, flipped)
        batch = batch if change.windows is None else augment.crop(batch, to_device(change.windows, machine.device))
        rate = recipe.rate(state.epoch, (number + 1) / len(wholes))
        together = min(recipe.accumulate, len(wholes) - number // recipe.accumulate * recipe.accumulate)
        yield Batch(wholes[number], own[number], batch, rate, together, number + 1 == len(wholes))


def _step(trainer: Trainer, batch: Batch, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Take a step; if memory runs out, raise an error that says what to change."""
    try:
        return trainer.step(batch.images, targets, batch.together, batch.own)
    except RuntimeError as error:
        if not any(sign in str(error).lower() for sign in OUT_OF_MEMORY):
            raise
        first = "set machine.branches_at_once to 1 (slower, the same figures), or " if trainer.threads > 1 else ""
        raise MemoryError(
            f"out of memory on {trainer.device}: {len(batch.own)} images of {batch.images.shape[2]} px in a batch; "
            f"{first}lower train.batch_size (raise train.accumulate to keep as many images per step), the variant's "
            "image_size or its ensemble_size"
        ) from error
