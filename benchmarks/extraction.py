"""Images per second of extraction against the plain loop: same model, same images, each in turn.

The plain loop is what one would write first: the ensemble in evaluation mode and without gradients, on
contiguous float batches. Ours is `lrec.embed.extract` on the folded model, into a memory map on disk.
Weights, batch-norm statistics and images are random; how long a convolution takes does not depend on them.

    python -m benchmarks.extraction
    python -m benchmarks.extraction --precisions bfloat16 --ensembles 4 --size 128
    python -m benchmarks.extraction --device cuda --ensembles 48 --size 256 --images 512 --batch-size 64
"""

import argparse
import statistics
import tempfile
import time
from copy import deepcopy
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lrec import device, embed, fold, model, store


def ensemble(backbone: str, branches: int) -> model.Ensemble:
    """Return an ensemble whose batch norms hold what training could have left in them."""
    made = model.Ensemble(backbone, branches, 12).eval()
    generator = torch.Generator().manual_seed(0)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return made


def plain(network: model.Ensemble, images: np.ndarray, out: np.ndarray, batch_size: int, where: str) -> None:
    """Embed image by image batch, contiguous and unfolded."""
    mean, std = (torch.tensor(store.IMAGENET[key], device=where)[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            pixels = torch.from_numpy(images[start : start + batch_size]).to(where)
            batch = ((pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous()
            out[start : start + batch_size] = network.embed(batch).cpu().numpy()


def compare(options: argparse.Namespace, backbone: str, precision: str, branches: int, size: int) -> str:
    """Time both in turns; return a row of the table."""
    where = device.choose(options.device)
    images = np.random.default_rng(0).integers(0, 256, (options.images, size, size, 3), dtype=np.uint8)
    network = ensemble(backbone, branches)
    folded = fold.fold(deepcopy(network))
    network.to(where)
    settings = {"normalization": store.IMAGENET, "batch_size": options.batch_size, "workers": 1, "device": where}
    settings["precision"] = precision
    with tempfile.TemporaryDirectory() as folder:
        found = np.empty((len(images), 12 * branches), np.float32)
        out = np.lib.format.open_memmap(Path(folder) / "out.npy", "w+", np.float32, found.shape)
        runs = {
            "plain": lambda: plain(network, images, found, options.batch_size, where),
            "ours": lambda: embed.extract(folded, images, np.arange(len(images)), out=out, **settings),
        }
        for run in runs.values():
            run()
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
        difference = float(np.abs(out - found).max())
    rates = {name: len(images) / statistics.median(times) for name, times in seconds.items()}
    ratio = rates["ours"] / rates["plain"]
    row = f"| {backbone} | {precision} | {branches} | {size} |"
    return f"{row} {rates['plain']:.1f} | {rates['ours']:.1f} | {ratio:.2f} | {difference:.1e} |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50", "mobilenet_v2"])
    parser.add_argument("--ensembles", type=int, nargs="+", default=[4, 12], help="numbers of branches")
    parser.add_argument("--size", type=int, nargs="+", default=[64, 128], help="sides of the images, pixels")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precisions", nargs="+", default=["float32"], help="of ours: float32, bfloat16")
    options = parser.parse_args()
    print(f"{options.images} images in batches of {options.batch_size}, median of")
    print(f"{options.rounds} rounds in turns, {device.describe(device.choose(options.device))}\n")
    print("| backbone | ours in | M | px | plain, images/s | ours, images/s | ratio | largest difference |")
    print("|---|---|---|---|---|---|---|---|")
    for case in product(options.backbones, options.precisions, options.ensembles, options.size):
        print(compare(options, *case), flush=True)


if __name__ == "__main__":
    main()
