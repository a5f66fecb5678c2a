"""One optimisation step by branch-wise backpropagation, in the memory of one branch, in one process or several.

The loss is a mean over branches, so each branch runs its forward pass, backward pass and optimiser step separately, on
the detached output of the stem. The gradients of that output are summed, and one backward pass through the stem
follows. The results are those of the baseline loop over all branches, up to the order of floating-point sums. Only one
branch's activations and gradients are in memory at a time; on a CPU, one per thread, and threads synchronise once per
step, not after every operation.

Several processes share the work in one of two ways. Branch parallel: each holds some of the branches and sees all
images; only the stem's gradients are summed. Data parallel: each holds all branches and sees some of the images;
all gradients are averaged, one branch at a time, and batch norm sees only the images of its own process. The outputs of
a branch are gathered first, since some losses compare the images of a batch with each other.
"""

import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from lrec.compute import collective, threads
from lrec.compute.device import autocast, is_gpu
from lrec.model.ensemble import Ensemble, memory_format
from lrec.training.distillation import Teacher
from lrec.training.graphs import Figures, Record, Recorder
from lrec.training.losses import LOSSES, right_ones
from lrec.training.recipe import Recipe


class Trainer:
    """An ensemble with one Adam optimiser per branch and one for the stem.

    Adam is element-wise, so this equals a single optimiser over all parameters.

    Args:
        model: the ensemble, or this process's part of it; it is moved to the device.
        recipe: how to train. With `accumulate` above 1 the gradients of all branches are kept. `compile`
            compiles stem and branch with torch.compile, once for all branches.
        device: where to train.
        classes: D, meta classes per branch, if a branch's outputs are not D logits.
        teacher: maps the images of a batch to the embeddings that a loss wants, where it wants any.
        branches_at_once: on a CPU, at most this many threads train one branch each, and torch's threads are divided
            among them. Branches are trained one by one if they are compiled, or if processes are data-parallel, since
            their messages must be in order. The sums do not depend on which thread is first.

    Attributes:
        learned: all modules with parameters: the stem, the branches, and the losses that learn.
        steps: optimiser steps so far.
        sent: bytes of gradients that this process has sent to be summed.
    """

    def __init__(
        self,
        model: Ensemble,
        recipe: Recipe,
        device: str = "cpu",
        branches_at_once: int = 1,
        classes: int = 0,
        teacher: Teacher | None = None,
    ) -> None:
        self.model, self.recipe, self.device, self.teacher = model, recipe, device, teacher
        self.format = memory_format(model.backbone, device)
        model.to(device, memory_format=self.format)
        self.parts = {"stem": model.stem} | {str(number): model.branches[number] for number in model.own}
        self._stem_learns = any(value.requires_grad for value in model.stem.parameters())
        self.losses = _losses(model, recipe, classes or model.outputs).to(device)
        learning = {f"loss.{number}": loss for number, loss in self.losses.items()}
        self.recorder = Recorder() if self._can_record() else None
        self.optimizers = {
            name: self._optimizer(part)
            for name, part in (self.parts | learning).items()
            if any(True for _ in part.parameters())
        }
        self.learned = nn.ModuleDict({"stem": model.stem, "branches": model.branches, "losses": self.losses})
        in_order = recipe.compile or (recipe.parallel == "data" and collective.count() > 1)
        one_by_one = in_order or torch.device(device).type != "cpu"
        self.threads = 1 if one_by_one else min(branches_at_once, torch.get_num_threads(), len(model.own))
        self.waiting = self.steps = self.sent = 0
        self._divisor = collective.count() if recipe.parallel == "data" else 1
        self._wanted: Tensor | None = None
        self._is_due = False
        self._forward: Callable[[nn.Module, Tensor], Tensor] = torch.compile(_call) if recipe.compile else _call

    def _can_record(self) -> bool:
        """Return whether the branches' steps can be recorded: they send and keep no gradients and read no values."""
        recipe = self.recipe
        alone = recipe.parallel != "data" or collective.count() == 1
        fixed = recipe.accumulate == 1 and not LOSSES[recipe.loss].is_metric
        return recipe.cuda_graphs == "auto" and is_gpu(self.device) and alone and fixed

    def _optimizer(self, part: nn.Module) -> torch.optim.AdamW:
        """Return the Adam optimiser of a part; for a graph, the learning rate is a tensor on the GPU."""
        options = {"weight_decay": self.recipe.weight_decay, "fused": True}
        if self.recorder is None:
            return torch.optim.AdamW(part.parameters(), lr=0.0, **options)
        made = torch.optim.AdamW(part.parameters(), lr=0.0, capturable=True, **options)
        for group in made.param_groups:
            group["lr"] = torch.zeros((), device=self.device)
        return made

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the next steps."""
        factor = self.recipe.loss_learning_rate / self.recipe.learning_rate
        for name, optimizer in self.optimizers.items():
            rate = learning_rate * (factor if name.startswith("loss.") else 1)
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def start_epoch(self) -> None:
        """Put the model into training mode, except for batch norms if they are frozen."""
        self.model.train()
        if self.recipe.freeze_batch_norm:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def step(
        self, images: Tensor, targets: Tensor, together: int | None = None, own: range | None = None
    ) -> tuple[Tensor, Tensor]:
        """Process one batch, and step the optimisers after the last of the batches that belong together.

        Args:
            images: (B, 3, S, S) float32, normalised: the batch, or this process's part of it.
            targets: (M, B) int64 meta classes of the whole batch.
            together: batches whose mean gradient makes one step of the optimisers; None for the recipe's `accumulate`.
            own: places of these images in the batch; None for all.

        Returns:
            (M,) losses of the whole batch, and (M,) counts of right meta classes in it.
        """
        recipe, own, together = self.recipe, own or range(len(images)), together or self.recipe.accumulate
        self._wanted = collective.gather(self.teacher(images), own, targets.shape[1]) if self.teacher else None
        self.waiting += 1
        self._is_due = self.waiting == together
        with autocast(self.device, recipe.precision):
            maps = self._forward(self.model.stem, images.contiguous(memory_format=self.format))
        record = self.recorder.find(maps, lambda: self._recorded(maps, targets)) if self.recorder else None
        found = record.run(maps.detach(), targets) if record else self._branches(maps, targets, own, together)
        if found.gradient is not None:
            maps.backward(found.gradient.to(maps.dtype))
            self._update("stem")
        if self._is_due:
            self.waiting = 0
            self.steps += 1
        if recipe.parallel == "ensemble":
            collective.add_up([found.losses, found.right])
        return found.losses, found.right

    def _branches(self, maps: Tensor, targets: Tensor, own: range, together: int) -> Figures:
        """Train all branches on the stem's output."""
        kind = torch.promote_types(maps.dtype, torch.float32)
        losses, right = torch.zeros(2, len(targets), dtype=kind, device=maps.device)
        gradient = _OrderedSum(self.model.own.start)

        def train(numbers: Iterator[int]) -> None:
            for number in numbers:
                found = self._branch(number, maps, targets, losses, right, own=own, together=together)
                if found is not None:
                    gradient.add(number, found)

        threads.distribute(train, self.model.own, self.threads)
        return Figures(losses, right, gradient.total)

    def _branch(
        self,
        number: int,
        maps: Tensor,
        targets: Tensor,
        losses: Tensor,
        right: Tensor,
        *,
        own: range | None = None,
        together: int = 1,
    ) -> Tensor | None:
        """Train a branch; write its loss and count into (M,) tensors, and return the gradient of the stem's output."""
        leaf = maps.detach().requires_grad_(self._stem_learns)
        with autocast(self.device, self.recipe.precision, cached=self.recorder is None):
            logits = self._forward(self.model.branches[number], leaf)
        logits = collective.gather(logits, own or range(len(logits)), targets.shape[1])
        goal = targets[number] if self._wanted is None else self._wanted
        # In float32 even after a forward pass in bfloat16, in which small differences of similarities are lost.
        loss = self.losses[str(number)](logits.to(torch.promote_types(logits.dtype, torch.float32)), goal)
        (loss / len(targets) / together / self._divisor).backward()
        self._update(str(number))
        self._update(f"loss.{number}")
        losses[number] = loss.detach()
        right[number] = right_ones(logits.detach(), targets[number], LOSSES[self.recipe.loss].is_metric)
        return leaf.grad

    def _recorded(self, maps: Tensor, targets: Tensor) -> Record:
        """Record the branches' steps for batches of this shape."""
        steps = [partial(self._branch, number) for number in self.model.own]
        return Record(steps, maps.detach(), targets, maps.requires_grad, self.device)

    def _update(self, part: str) -> None:
        """Step a part's optimiser and free its gradients, if the last batch of a step has been processed."""
        if self._is_due and part in self.optimizers:
            if part == "stem" or self.recipe.parallel == "data":
                held = [value for group in self.optimizers[part].param_groups for value in group["params"]]
                self.sent += collective.add_up([value.grad for value in held])
            self.optimizers[part].step()
            self.optimizers[part].zero_grad()


def _losses(model: Ensemble, recipe: Recipe, classes: int) -> nn.ModuleDict:
    """Return the losses of this process's branches; their parameters are initialised by the seed and the branch."""
    made = nn.ModuleDict()
    for number in model.own:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed + number)
            made[str(number)] = LOSSES[recipe.loss].make(classes, model.outputs, recipe.label_smoothing)
    return made


class _OrderedSum:
    """Sums tensors in the order of their numbers, not of their arrival, so that the sum has the same bits.

    Args:
        first: the lowest number; no later number may be missing.

    Attributes:
        total: the sum so far, initially None.
    """

    def __init__(self, first: int) -> None:
        self.total: Tensor | None = None
        self._next, self._early, self._lock = first, {}, threading.Lock()

    def add(self, number: int, value: Tensor) -> None:
        """Add a tensor, which may be overwritten with the sum."""
        with self._lock:
            self._early[number] = value
            while (value := self._early.pop(self._next, None)) is not None:
                # Summing many gradients in bfloat16 would lose precision.
                value = value.to(torch.promote_types(value.dtype, torch.float32))
                self.total = value if self.total is None else self.total.add_(value)
                self._next += 1


def collect(model: Ensemble) -> None:
    """Collect all branches in rank 0's ensemble, after each process has trained its own."""
    owners = [rank for rank in range(collective.count()) for _ in collective.shard(model.ensemble_size, rank)]
    for number, owner in enumerate(owners):
        if collective.rank() == 0 and owner > 0:
            model.branches[number] = deepcopy(model.branches[0])
        collective.bring(model.branches[number], owner)


def _call(module: nn.Module, value: Tensor) -> Tensor:
    return module(value)
