"""Memory to train at the original's size, computed on the meta device, which allocates nothing.

Weights and Adam's two averages are needed in any case. The baseline loop stores the gradients and the activations
(saved for the backward pass) of all branches; branch-wise backpropagation stores those of one branch, and the stem's
activations. Workspaces of libraries and temporary results are not included.

    python -m benchmarks.memory
"""

import argparse
import weakref
from types import TracebackType

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy

from lrec.model.ensemble import Ensemble

META_CLASSES = 12
BACKBONES = ("resnet18", "resnet34", "resnet50", "resnext50_32x4d", "convnext_tiny", "efficientnet_v2_s")


class _Kept:
    """A saved tensor; autograd releases this object after the backward pass has used it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Activations:
    """Counts the bytes that autograd saves for the backward pass in the block, each storage once.

    Attributes:
        now: bytes that are saved and not yet released.
        peak: maximum of `now`.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._known = {value.untyped_storage()._cdata for value in (*model.parameters(), *model.buffers())}
        self._holders: dict[int, int] = {}
        self._hooks = saved_tensors_hooks(self._save, lambda kept: kept.tensor)
        self.now = self.peak = 0

    def __enter__(self) -> "Activations":
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def _save(self, tensor: Tensor) -> _Kept:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        kept = _Kept(tensor.detach())
        if key not in self._known:
            self._holders[key] = self._holders.get(key, 0) + 1
            self.now += size if self._holders[key] == 1 else 0
            self.peak = max(self.peak, self.now)
            weakref.finalize(kept, self._let_go, key, size)
        return kept

    def _let_go(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self.now -= size


def activations(backbone: str, batch_size: int, size: int) -> tuple[int, int]:
    """Return the bytes that a forward pass saves: of the stem with one branch, and of each further branch."""
    with torch.device("meta"):
        model = Ensemble(backbone, 2, META_CLASSES).train()
        images = torch.empty(batch_size, 3, size, size)
        targets = torch.empty(batch_size, dtype=torch.int64)
        with Activations(model) as saved:
            maps = model.stem(images)
            first = cross_entropy(model.branches[0](maps), targets)
            one = saved.now
            second = cross_entropy(model.branches[1](maps), targets)
            more = saved.now - one
    del first, second
    return one, more


def row(backbone: str, branches: int, batch_size: int, size: int) -> str:
    """Return a row of the table, in GB; if the two methods differ, baseline loop / branch-wise."""
    with torch.device("meta"):
        model = Ensemble(backbone, 1, META_CLASSES)
    stem, branch = (4 * sum(value.numel() for value in part.parameters()) for part in (model.stem, model.branches))
    weights = stem + branches * branch
    one, more = activations(backbone, batch_size, size)
    gradients, kept = (weights, max(stem, branch)), (one + (branches - 1) * more, one)
    total = [3 * weights + sum(way) for way in zip(gradients, kept, strict=True)]
    cells = [[weights], [2 * weights], gradients, kept, total]
    shown = (" / ".join(f"{number / 1e9:.2f}" for number in cell) for cell in cells)
    return f"| {backbone} | {batch_size} | " + " | ".join(shown) + " |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--branches", type=int, default=48)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[10, 64])
    parser.add_argument("--size", type=int, default=256, help="side of the images, pixels")
    options = parser.parse_args()
    print(
        f"GB at M = {options.branches}, D = {META_CLASSES}, {options.size} px, float32; baseline loop / branch-wise\n"
    )
    print("| | batch | weights | Adam | gradients | activations | sum |\n|---|---|---|---|---|---|---|")
    for backbone in BACKBONES:
        for batch_size in options.batch_sizes:
            print(row(backbone, options.branches, batch_size, options.size), flush=True)


if __name__ == "__main__":
    main()
