"""Images per second of extraction against the baseline loop, with the same model and images.

The baseline loop is the obvious implementation: the ensemble in evaluation mode and without gradients, on contiguous
float batches, with the same arithmetic. Ours is `lrec.embedding.extract.extract` on the folded model. Both fill a
memory map on disk, each in its own process: on a CPU in turns, on a GPU one after the other. Weights, batch-norm
statistics and images are random, which does not affect the speed of convolutions. A large matrix product in the same
precision, timed in the same rounds, shows the highest speed of the machine: a method's share of it is the fraction of
its time that its multiplications (`lrec.report.model_size.count_macs`) would take at this speed. With --run, other
runtimes are compared instead (`benchmarks/runtimes.py`).

    python -m benchmarks.extraction
    python -m benchmarks.extraction --precisions bfloat16 --ensembles 4 --size 128
    python -m benchmarks.extraction --run car_cropped/mobilenet_v2 --images 256
    python -m benchmarks.extraction --device cuda --ensembles 48 --size 256 --images 512 --batch-size 64
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import runtimes, turns
from benchmarks.turns import NO_MEMORY
from lrec.compute import allocator, device
from lrec.data import store
from lrec.data.batches import Images
from lrec.embedding import batch_norm, extract
from lrec.model.ensemble import Ensemble
from lrec.report import model_size

META_CLASSES = 12


def ensemble(backbone: str, branches: int) -> Ensemble:
    """Return an ensemble with random batch-norm statistics, as training could have produced them."""
    made = Ensemble(backbone, branches, META_CLASSES).eval()
    generator = torch.Generator().manual_seed(0)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return made


def baseline(options: argparse.Namespace, images: np.ndarray, out: np.ndarray) -> Callable[[], None]:
    """Return the baseline loop, on contiguous batches and without folding batch norms."""
    network = ensemble(options.backbones[0], options.ensembles[0]).to(options.device)
    mean, std = (torch.tensor(store.IMAGENET[key], device=options.device)[:, None, None] for key in ("mean", "std"))

    @torch.no_grad()
    def run() -> None:
        for start in range(0, len(images), options.batch_size):
            pixels = torch.from_numpy(images[start : start + options.batch_size]).to(options.device)
            batch = ((pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous()
            with device.autocast(options.device, options.precisions[0]):
                embedded = network.embed(batch)
            out[start : start + options.batch_size] = embedded.float().cpu().numpy()

    return run


def ours(options: argparse.Namespace, images: np.ndarray, out: np.ndarray) -> Callable[[], None]:
    """Return this project's extraction, with the stage's settings for its process."""
    allocator.keep_freed_memory()
    folded = batch_norm.fold(ensemble(options.backbones[0], options.ensembles[0]))
    chosen = Images(images, np.arange(len(images)), **store.IMAGENET)
    settings = {"batch_size": options.batch_size, "precision": options.precisions[0], "device": options.device}
    return lambda: extract.extract(folded, chosen, out, extract.Options(**settings, workers=1))


METHODS = {"baseline": baseline, "ours": ours}


def work(options: argparse.Namespace) -> None:
    """Embed all images for every line of standard input; print the seconds."""
    size = options.size[0]
    images = np.random.default_rng(0).integers(0, 256, (options.images, size, size, 3), dtype=np.uint8)
    out = np.lib.format.open_memmap(
        options.out, "w+", np.float32, (options.images, META_CLASSES * options.ensembles[0])
    )
    run = METHODS[options.method](options, images, out)
    with device.arithmetic(options.device, tf32=False, deterministic=False, tuned=False):
        for _ in sys.stdin:
            start = time.perf_counter()
            run()
            print(time.perf_counter() - start, flush=True)


def compare(options: argparse.Namespace, backbone: str, precision: str, branches: int, size: int) -> str:
    """Time both methods; return a row of the table."""
    arguments = ["benchmarks.extraction", "--backbones", backbone, "--precisions", precision]
    arguments += ["--ensembles", str(branches), "--size", str(size), "--images", str(options.images)]
    arguments += ["--batch-size", str(options.batch_size), "--device", options.device]
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.npy" for name in METHODS}
        ways = {name: [*arguments, "--method", name, "--out", str(files[name])] for name in METHODS}
        limits: list[float] = []
        in_turns = torch.device(options.device).type == "cpu"
        found = turns.take(
            ways,
            1 + options.rounds,
            in_turns,
            between=lambda: limits.append(product_speed(options.device, precision)),
        )
        if None in found.values():
            cells = [NO_MEMORY if answers is None else "" for answers in found.values()]
            return f"| {backbone} | {precision} | {branches} | {size} | {cells[0]} | | {cells[1]} | | | |"
        seconds = {name: [answer[0] for answer in (answers or [])[1:]] for name, answers in found.items()}
        difference = float(np.abs(np.load(files["ours"]) - np.load(files["baseline"])).max())
    rates = {name: options.images / statistics.median(times) for name, times in seconds.items()}
    ratio = rates["ours"] / rates["baseline"]
    macs = model_size.count_macs(backbone, branches, META_CLASSES, size)
    shares = {name: rate * macs / statistics.median(limits) for name, rate in rates.items()}
    speeds = (f"{rates[name]:.1f} | {shares[name]:.0%}" for name in METHODS)
    return f"| {backbone} | {precision} | {branches} | {size} | {' | '.join(speeds)} | {ratio:.2f} | {difference:.1e} |"


def product_speed(device: str, precision: str) -> float:
    """Return the multiply-accumulates per second of a product of two square matrices."""
    factor = torch.rand(3000, 3000, device=device, dtype=getattr(torch, precision))
    start = time.perf_counter()
    (factor @ factor).sum().item()
    return len(factor) ** 3 / (time.perf_counter() - start)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50", "mobilenet_v2"])
    parser.add_argument("--ensembles", type=int, nargs="+", default=[4, 12], help="numbers of branches")
    parser.add_argument("--size", type=int, nargs="+", default=[64, 128], help="sides of the images, pixels")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precisions", nargs="+", default=["float32"], help="of both methods: float32, bfloat16")
    parser.add_argument("--run", help="compare runtimes on a CPU, with a trained run such as glyphs/resnet18")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.device = device.choose(options.device)
    if options.method:
        return turns.answering(lambda: work(options))
    options.device = "cpu" if options.run else options.device
    print(f"{options.images} images in batches of {options.batch_size}, median of")
    print(f"{options.rounds} rounds in turns, {device.describe(options.device)}\n")
    if options.run:
        return runtimes.compare(options.run, options.images, options.batch_size, options.rounds)
    shared = "share of the product"
    print(
        f"| backbone | in | M | px | baseline loop, images/s | {shared} | ours, images/s | {shared} "
        "| ratio | difference |"
    )
    print("|---" * 10 + "|")
    for case in product(options.backbones, options.precisions, options.ensembles, options.size):
        print(compare(options, *case), flush=True)


if __name__ == "__main__":
    main()
