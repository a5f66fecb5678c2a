"""Measure everything that docs/performance.md reports for a GPU, in about nine minutes, with one command.

Each part runs in its own process and prints Markdown, which is stored in a folder. When the command is run again, it
runs only the parts that have not succeeded. If a part fails or runs out of memory, this is reported, and the next part
starts.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --parts graphs recall --again
"""

import argparse
import hashlib
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import save
from torch.profiler import ProfilerActivity, profile

from benchmarks.turns import NO_MEMORY, answering, wait
from lrec.compute import device
from lrec.data.batches import Images
from lrec.io import files
from lrec.model.ensemble import Ensemble
from lrec.training.checkpoint import Checkpoint
from lrec.training.loop import Machine, fit
from lrec.training.recipe import Recipe
from lrec.training.step import Trainer

FOLDER = Path(".lrec/gpu")
META_CLASSES, IMAGENET = 12, {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def card(where: str, tiny: bool) -> None:
    """Print the speed of the GPU itself: matrix products, copies, and the start of a kernel."""
    side = 256 if tiny else 8192
    print(f"{device.describe(where)}\n\n| | |\n|---|---|")
    for name, dtype, tf32 in (("bfloat16", torch.bfloat16, False), ("TF32", torch.float32, True), ("float32", None, 0)):
        factor = torch.rand(side, side, device=where, dtype=dtype or torch.float32)
        with device.arithmetic(where, tf32=bool(tf32), deterministic=False):
            seconds = timed(lambda factor=factor: factor @ factor, where)
        print(f"| product of {side} x {side} in {name}, TFLOP/s | {2 * side**3 / seconds / 1e12:,.1f} |")
    values = torch.empty(2**16 if tiny else 2**28, device=where)
    print(f"| copy, GB/s (read and written) | {2 * values.nbytes / timed(values.clone, where) / 1e9:,.0f} |")
    one = torch.zeros(1, device=where)
    count = 1000
    seconds = timed(lambda: [one.add_(1) for _ in range(count)], where)
    print(f"| start of a kernel, microseconds | {1e6 * seconds / count:.1f} |")


def timed(work: Callable[[], object], where: str, rounds: int = 5) -> float:
    """Return the median seconds of `work`, after a first call that is not counted."""
    found = []
    for _ in range(1 + rounds):
        wait(where)
        start = time.perf_counter()
        work()
        wait(where)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def synthetic(side: int, count: int, branches: int) -> tuple[Images, np.ndarray]:
    """Return random images, and their targets for every branch."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return Images(pixels, np.arange(count), **IMAGENET), generator.integers(0, META_CLASSES, (branches, count))


def waits(where: str, tiny: bool) -> None:
    """Print how often the CPU waits for the GPU in one epoch and in three, as counted by torch."""
    images, targets = synthetic(32 if tiny else 256, 40, 2)
    print("| epochs of 4 steps | waits |\n|---|---|")
    for epochs in (1, 3):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            if where != "cpu":
                torch.cuda.set_sync_debug_mode("warn")
            fit(Ensemble("resnet18", 2, META_CLASSES), images, targets, Recipe(epochs), machine=Machine(where))
            if where != "cpu":
                torch.cuda.set_sync_debug_mode("default")
        print(f"| {epochs} | {sum('synchroniz' in str(one.message) for one in seen)} |")


class _Killed(Exception):
    """Simulates a kill."""


def determinism(where: str, tiny: bool) -> None:
    """Print whether deterministic training gives the same bytes again, and after a kill and a resume."""
    images, targets = synthetic(32 if tiny else 128, 60, 2)

    def trained(checkpoint: Checkpoint | None = None) -> str:
        model = Ensemble("resnet18", 2, META_CLASSES)
        with device.arithmetic(where, tf32=False, deterministic=True):
            fit(model, images, targets, Recipe(2, random_crop=0.5), machine=Machine(where), checkpoint=checkpoint)
        state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
        return hashlib.sha256(save(state)).hexdigest()

    with TemporaryDirectory() as folder:
        cut = Checkpoint(Path(folder) / "cut", 60)
        keep = cut.save

        def killed(*arguments: object, **named: object) -> None:
            keep(*arguments, **named)
            raise _Killed

        cut.save = killed
        first = trained()
        try:
            trained(cut)
        except _Killed:
            resumed = trained(Checkpoint(Path(folder) / "cut", 60))
        print("| deterministic training | SHA-256 |\n|---|---|")
        for name, value in (("once", first), ("again", trained()), ("killed after an epoch and resumed", resumed)):
            print(f"| {name} | {value[:16]} |")


def profiled(where: str, tiny: bool) -> None:
    """Print the number of kernels, their share of the time, and the peak memory of a step, without and with graphs."""
    branches, side, batches = (2, 32, (4,)) if tiny else (48, 256, (10, 128))
    print("| batch | graphs | kernels | busy, share | step, ms | peak, GB |\n|---|---|---|---|---|---|")
    for batch in batches:
        for graphs in ("off", "auto"):
            step = steps(where, branches, side, batch, graphs)
            for _ in range(5):
                step()
            seconds = timed(step, where, 3)
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if where != "cpu" else [])]
            with profile(activities=kinds) as seen:
                step()
                wait(where)
            kernels = [event for event in seen.events() if event.device_type != torch.autograd.DeviceType.CPU]
            busy = sum(event.self_device_time_total for event in kernels) / 1e6 / seconds
            peak = torch.cuda.max_memory_allocated(where) / 1e9 if where != "cpu" else 0
            print(f"| {batch} | {graphs} | {len(kernels):,} | {busy:.0%} | {1000 * seconds:,.1f} | {peak:.1f} |")


def steps(where: str, branches: int, side: int, batch: int, graphs: str) -> Callable[[], torch.Tensor]:
    """Return a function that takes a training step, on the same images each time, and returns the losses."""
    torch.manual_seed(0)
    precision = device.choose_precision(where, "auto")
    recipe = Recipe(1, precision=precision, cuda_graphs=graphs)
    trainer = Trainer(Ensemble("resnet18", branches, META_CLASSES), recipe, where)
    trainer.start_epoch()
    trainer.set_learning_rate(1e-4)
    images = torch.randn(batch, 3, side, side, device=where)
    targets = torch.randint(0, META_CLASSES, (branches, batch), device=where)
    return lambda: trainer.step(images, targets)[0]


def graphs(where: str, tiny: bool) -> None:
    """Print the time of a step with and without CUDA graphs, and the difference of their losses in six steps."""
    branches, side, batch = (2, 32, 4) if tiny else (48, 256, 10)
    found = {}
    print("| graphs | step, ms |\n|---|---|")
    for name in ("off", "auto"):
        step = steps(where, branches, side, batch, name)
        found[name] = [step().cpu() for _ in range(6)]
        print(f"| {name} | {1000 * timed(step, where):,.1f} |")
    difference = max(float((a - b).abs().max()) for a, b in zip(found["off"], found["auto"], strict=True))
    print(f"\nLargest difference of a loss in six steps: {difference:.1e}")


OWN = {"card": card, "waits": waits, "determinism": determinism, "profile": profiled, "graphs": graphs}
TRAINING = "training --branches 48 --size 256 --batch-sizes 10 128 --rounds 3 --warmup 4"
RECALL = "recall --sizes 60502 --repeats 2"
EXTRACTION = (
    "extraction --backbones resnet18 resnet50 --ensembles 48 --size 256 --images 1000 --batch-size 100 --rounds 2"
)
COMMANDS = {
    "training in TF32": f"{TRAINING} --tf32",
    "training in bfloat16": f"{TRAINING} --precision bfloat16",
    "training in bfloat16, compiled": f"{TRAINING} --precision bfloat16 --compile",
    "training of ResNet50": f"{TRAINING} --precision bfloat16 --backbone resnet50",
    "recall": RECALL,
    "recall of 60,502 x 24,576": "recall --sop .lrec/gpu/sop.npy --blocks 10000",
    "extraction": f"{EXTRACTION} --precisions float32 bfloat16",
}


def run(name: str, where: str, tiny: bool) -> str:
    """Run a part in its own process; return its Markdown, or one line with the reason if it failed."""
    part = ["gpu", "--part", name, *(["--tiny"] if tiny else [])] if name in OWN else COMMANDS[name].split()
    command = [sys.executable, "-m", f"benchmarks.{part[0]}", *part[1:], "--device", where]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0 and done.stdout.strip() != NO_MEMORY:
        shown = "" if name in OWN else f"    python -m benchmarks.{' '.join(part)} --device {where}\n\n"
        return shown + done.stdout
    reason = (done.stderr.strip().splitlines() or [NO_MEMORY])[-1]
    return f"{NO_MEMORY if 'out of memory' in reason.lower() or not done.returncode else f'failed: {reason[:300]}'}\n"


def main() -> None:
    """Print every part; run those that have not succeeded yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    names = [*OWN, *COMMANDS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--again", action="store_true", help="run these parts even if they have succeeded before")
    parser.add_argument("--tiny", action="store_true", help="use tiny sizes, for a test; the times are meaningless")
    parser.add_argument("--part", choices=OWN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        return answering(lambda: OWN[options.part](options.device, options.tiny))
    options.device = device.choose(options.device)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in options.parts:
        kept = FOLDER / f"{name.replace(' ', '_').replace(',', '')}.md"
        if options.again or not kept.exists():
            found = run(name, options.device, options.tiny)
            if not found.startswith((NO_MEMORY, "failed")):
                with files.atomic(kept) as stream:
                    stream.write(found.encode())
        else:
            found = kept.read_text(encoding="utf-8")
        print(f"### {name[0].upper()}{name[1:]}\n\n{found}", flush=True)


if __name__ == "__main__":
    main()
