"""Step time and peak memory of branch-wise backpropagation against the baseline loop over all branches.

The baseline loop is the obvious implementation: a forward pass of all branches, one loss, one backward pass, and one
step of torch.optim.Adam over all parameters. Ours is the training of the stage train, with the stage's settings for its
process; optionally also in several processes that share the branches. All use the same arithmetic. Each method runs in
its own process: on a CPU they take steps in turns, on a GPU one method runs after the other.

    python -m benchmarks.training --branches 1 4 16 48 --batch-sizes 10 32 --processes 2
    python -m benchmarks.training --device cuda --backbone resnet50 --branches 48 --size 256 --batch-sizes 10 128
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from benchmarks import turns
from benchmarks.turns import NO_MEMORY
from lrec.compute import allocator, collective, device
from lrec.model.backbones import BACKBONES
from lrec.model.ensemble import Ensemble
from lrec.training.recipe import Recipe
from lrec.training.step import Trainer

META_CLASSES = 12


def baseline(ensemble: Ensemble, options: argparse.Namespace) -> Callable[[torch.Tensor, torch.Tensor], object]:
    """Return a step of the baseline loop."""
    ensemble = ensemble.to(options.device).train()
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=1e-4)

    def step(images: torch.Tensor, targets: torch.Tensor) -> None:
        with device.autocast(options.device, options.precision):
            logits = ensemble(images)
            losses = [cross_entropy(logits[:, branch], target) for branch, target in enumerate(targets)]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()

    return step


def branch_wise(ensemble: Ensemble, options: argparse.Namespace) -> Callable[[torch.Tensor, torch.Tensor], object]:
    """Return a step of this project's training."""
    trainer = Trainer(
        ensemble,
        Recipe(epochs=1, precision=options.precision, compile=options.compile, cuda_graphs=options.cuda_graphs),
        options.device,
        options.branches_at_once,
    )
    trainer.set_learning_rate(1e-4)
    trainer.start_epoch()
    return trainer.step


METHODS = {"baseline": baseline, "branch-wise": branch_wise, "processes": branch_wise}


def work(options: argparse.Namespace) -> None:
    """Take a step for every line of standard input; print its milliseconds, and the peak memory so far in MB.

    If there are several processes, rank 0 reads and prints for all of them.
    """
    (branches,), (batch_size,) = options.branches, options.batch_sizes
    if options.method != "baseline":
        allocator.keep_freed_memory()
    where = collective.device(options.device)
    torch.manual_seed(0)
    with collective.together(where), device.arithmetic(where, options.tf32, deterministic=False):
        ensemble = Ensemble(options.backbone, branches, META_CLASSES, own=collective.shard(branches))
        step = METHODS[options.method](ensemble, options)
        while collective.agree(collective.rank() == 0 and bool(sys.stdin.readline())):
            images = torch.randn(batch_size, 3, options.size, options.size, device=where)
            targets = torch.randint(0, META_CLASSES, (branches, batch_size), device=where)
            turns.wait(where)
            start = time.perf_counter()
            step(images, targets)
            turns.wait(where)
            seconds, peak = time.perf_counter() - start, torch.tensor([_peak(where)])
            collective.add_up([peak])
            if collective.rank() == 0:
                print(1000 * seconds, float(peak), flush=True)


def _peak(where: str) -> float:
    if where != "cpu":
        return torch.cuda.max_memory_allocated(where) / 1e6
    # Not ru_maxrss, which a process inherits from its parent.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) * 1024 / 1e6


def arguments(options: argparse.Namespace, method: str, branches: int, batch_size: int) -> list[str]:
    """Return the arguments that start a method in its own process or processes."""
    start = []
    if method == "processes":
        number = str(min(options.processes, branches))
        start = ["torch.distributed.run", "--standalone", "--nproc-per-node", number, "-m"]
    start += ["benchmarks.training", "--method", method]
    start += ["--branches", str(branches), "--batch-sizes", str(batch_size)]
    for name in ("backbone", "size", "device", "precision", "branches_at_once", "cuda_graphs"):
        start += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    return start + [f"--{name}" for name in ("tf32", "compile") if getattr(options, name)]


def compare(options: argparse.Namespace, branches: int, batch_size: int) -> str:
    """Return a row of the table: median step times, with the speed-up over the baseline, and peak memory."""
    names = list(METHODS)[: 2 + (options.processes > 1)]
    ways = {name: arguments(options, name, branches, batch_size) for name in names}
    found = turns.take(ways, options.warmup + options.rounds, in_turns=options.device == "cpu")
    times, peaks = [], []
    first = 0.0
    for name in names:
        if (answers := found[name]) is None:
            times.append(NO_MEMORY)
            peaks.append(NO_MEMORY)
            continue
        median = statistics.median(ms for ms, _ in answers[options.warmup :])
        first = median if name == "baseline" else first
        times.append(f"{median:,.0f}" + (f" ({first / median:.2f}x)" if first and name != "baseline" else ""))
        peaks.append(f"{answers[-1][1]:,.0f}")
    return f"| {branches} | {batch_size} | " + " | ".join([*times, *peaks]) + " |"


def main() -> None:
    """Print one row per number of branches and batch size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--backbone", default="resnet18", choices=list(BACKBONES))
    parser.add_argument("--size", type=int, default=64, help="side of the images, pixels")
    parser.add_argument("--branches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[10, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of all methods")
    parser.add_argument("--tf32", action="store_true", help="all methods, on a GPU")
    parser.add_argument("--compile", action="store_true", help="only ours")
    parser.add_argument("--cuda-graphs", default="auto", choices=["auto", "off"], help="only ours, on a GPU")
    parser.add_argument("--branches-at-once", type=int, default=4, help="only ours, on a CPU: number of threads")
    parser.add_argument("--processes", type=int, default=1, help="above 1: also measure ours in this many processes")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method:
        return turns.answering(lambda: work(options))
    print(f"{options.backbone}, {options.size} px, {device.describe(options.device)}\n")
    ways = ["baseline loop", "branch-wise", *([f"{options.processes} processes"] if options.processes > 1 else [])]
    header = ["M", "batch", *(f"{way}, {unit}" for unit in ("ms", "MB") for way in ways)]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for branches in options.branches:
        for batch_size in options.batch_sizes:
            print(compare(options, branches, batch_size), flush=True)


if __name__ == "__main__":
    main()
