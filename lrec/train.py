"""One optimisation step of an ensemble in the memory of one branch.

The loss is a mean over branches, so each branch runs forward, backward and its optimiser step alone,
against the detached output of the stem; the gradient of that output adds up, and one backward pass
through the stem follows. The numbers are those of the plain loop over all branches, up to the order
of floating-point sums; activations and gradients of only one branch exist at a time.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lrec.device import autocast
from lrec.model import Ensemble


class Trainer:
    """An ensemble with one Adam optimiser per branch and one for the stem.

    Adam works on each number by itself, so this equals a single optimiser over all parameters.

    Args:
        model: the ensemble; it is moved to the device.
        device: where it trains.
        precision: of the forward pass, "float32" or "bfloat16" (autocast).
        weight_decay: decoupled, as in AdamW; 0 is Adam.
        label_smoothing: share of the target spread over all meta classes.
        freeze_batch_norm: keep the running statistics of the start and normalise by them.
        accumulate: batches per optimiser step. Above 1 the gradients of all branches are kept.
    """

    def __init__(
        self,
        model: Ensemble,
        device: str,
        *,
        precision: str = "float32",
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
        freeze_batch_norm: bool = False,
        accumulate: int = 1,
    ) -> None:
        self.model = model.to(device, memory_format=torch.channels_last)
        self.device, self.precision = device, precision
        self.label_smoothing, self.freeze_batch_norm, self.accumulate = label_smoothing, freeze_batch_norm, accumulate
        parts = {"stem": model.stem} | {str(number): branch for number, branch in enumerate(model.branches)}
        self.optimizers = {
            name: torch.optim.AdamW(part.parameters(), lr=0.0, weight_decay=weight_decay, fused=True)
            for name, part in parts.items()
            if any(True for _ in part.parameters())
        }
        self.waiting = 0

    def set_learning_rate(self, learning_rate: float) -> None:
        """Change the learning rate of the next steps."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate

    def start_epoch(self) -> None:
        """Put the model into training mode, batch norms apart where they are frozen."""
        self.model.train()
        if self.freeze_batch_norm:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def step(self, images: Tensor, targets: Tensor, last: bool = False) -> tuple[Tensor, Tensor]:
        """Run one batch, and the optimisers once `accumulate` batches are together.

        Args:
            images: (B, 3, S, S) float32, normalised.
            targets: (M, B) int64 meta classes.
            last: run the optimisers whatever is together, at the end of an epoch.

        Returns:
            (M,) cross entropies, and (M,) counts of right meta classes.
        """
        self.waiting += 1
        due = last or self.waiting == self.accumulate
        with autocast(self.device, self.precision):
            trunk = self.model.stem(images)
        leaf = trunk.detach().requires_grad_(trunk.requires_grad)
        losses, right = [], []
        for number, (branch, target) in enumerate(zip(self.model.branches, targets, strict=True)):
            with autocast(self.device, self.precision):
                logits = branch(leaf)
                loss = cross_entropy(logits, target, label_smoothing=self.label_smoothing)
            (loss / len(targets) / self.accumulate).backward()
            self._update(str(number), due)
            losses.append(loss.detach())
            right.append((logits.detach().argmax(1) == target).sum())
        if trunk.requires_grad:
            trunk.backward(leaf.grad)
            self._update("stem", due)
        if due:
            self.waiting = 0
        return torch.stack(losses), torch.stack(right)

    def _update(self, part: str, due: bool) -> None:
        """Step a part's optimiser and let its gradients go."""
        if due:
            self.optimizers[part].step()
            self.optimizers[part].zero_grad()
