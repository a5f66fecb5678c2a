"""Step time and peak memory of streamed training against the plain loop over all branches.

The plain loop runs every branch forward, then one backward pass and one fused Adam step over all of
them. Times are taken in turns in one process; peak memory is that of a process of its own.

    python -m benchmarks.training --branches 1 4 16 --batch-sizes 10 32
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from lrec.model import Ensemble
from lrec.train import Trainer

META_CLASSES = 12


def plain(ensemble: Ensemble) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Return a step of the plain loop."""
    ensemble = ensemble.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=1e-4, fused=True)

    def step(images: torch.Tensor, targets: torch.Tensor) -> None:
        logits = ensemble(images)
        losses = [cross_entropy(logits[:, branch], target) for branch, target in enumerate(targets)]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()

    return step


def streamed(ensemble: Ensemble) -> Callable[[torch.Tensor, torch.Tensor], object]:
    """Return a step of this project's training."""
    trainer = Trainer(ensemble, "cpu")
    trainer.set_learning_rate(1e-4)
    trainer.start_epoch()
    return trainer.step


METHODS = {"plain": plain, "streamed": streamed}


def batch(options: argparse.Namespace, branches: int, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Make a batch of noise."""
    images = torch.randn(batch_size, 3, options.size, options.size).to(memory_format=torch.channels_last)
    return images, torch.randint(0, META_CLASSES, (branches, batch_size))


def peak(options: argparse.Namespace, method: str, branches: int, batch_size: int) -> float:
    """Return the peak memory in MB of a process that takes three steps."""
    arguments = ["--method", method, "--branches", str(branches), "--batch-sizes", str(batch_size)]
    arguments += ["--backbone", options.backbone, "--size", str(options.size)]
    command = [sys.executable, "-m", "benchmarks.training", *arguments]
    return float(subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    """Print one row per number of branches and batch size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=64, help="side of the images")
    parser.add_argument("--branches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[10, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method:
        (branches,), (batch_size,) = options.branches, options.batch_sizes
        step = METHODS[options.method](Ensemble(options.backbone, branches, META_CLASSES))
        for _ in range(3):
            step(*batch(options, branches, batch_size))
        # Not ru_maxrss: a process takes the one of its parent over.
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
        print(int(line.split()[1]) / 1024)
        return
    print(f"{options.backbone}, {options.size} px, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| M | batch | plain, ms | streamed, ms | speed | plain, MB | streamed, MB | memory |")
    print("|---|---|---|---|---|---|---|---|")
    for branches in options.branches:
        steps = {name: make(Ensemble(options.backbone, branches, META_CLASSES)) for name, make in METHODS.items()}
        for batch_size in options.batch_sizes:
            times: dict[str, list[float]] = {name: [] for name in steps}
            for turn in range(options.rounds + 1):
                data = batch(options, branches, batch_size)
                for name, step in steps.items():
                    start = time.perf_counter()
                    step(*data)
                    if turn:
                        times[name].append(time.perf_counter() - start)
            slow, fast = (1000 * statistics.median(times[name]) for name in METHODS)
            most, least = (peak(options, name, branches, batch_size) for name in METHODS)
            print(
                f"| {branches} | {batch_size} | {slow:,.0f} | {fast:,.0f} | {slow / fast:.2f}x "
                f"| {most:,.0f} | {least:,.0f} | {least / most:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
