"""Images per second into a training step: the packed store against torchvision's ImageFolder + DataLoader.

Both read the same files at the same size and give normalised float batches with random flips; each
takes its turn in every round. With a GPU, flip and normalisation run there and the CPU only gathers
bytes: the last row is that part alone.

    python -m benchmarks.loading car_cropped --images 2000
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from lrec import params
from lrec.data import batches, store
from lrec.datasets import reader
from lrec.datasets.decoding import crop_and_resize

GPU_DEMAND = 5000


def image_folder(root: Path, size: int, batch_size: int, workers: int) -> Callable[[], Iterator]:
    """Return a function that starts one pass over torchvision's decode path."""
    steps = [transforms.Resize((size, size)), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    steps.append(transforms.Normalize(store.IMAGENET["mean"], store.IMAGENET["std"]))
    loader = DataLoader(
        datasets.ImageFolder(str(root), transforms.Compose(steps)), batch_size, shuffle=True, num_workers=workers
    )
    return lambda: (images for images, _ in loader)


def packed(images: np.ndarray, batch_size: int, workers: int, finish: bool) -> Callable[[], Iterator]:
    """Return a function that starts one pass over the store; without `finish` it only gathers bytes."""
    generator = np.random.default_rng(0)

    def run() -> Iterator:
        order = generator.permutation(len(images))
        selections = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        for pixels in batches.gather(images, selections, "cpu", workers):
            flipped = (torch.rand(len(pixels)) < 0.5).nonzero()[:, 0]
            yield batches.normalize(pixels, **store.IMAGENET, flipped=flipped) if finish else pixels

    return run


def rate(run: Callable[[], Iterator]) -> float:
    """Return images per second of one pass."""
    start = time.perf_counter()
    count = sum(len(batch) for batch in run())
    return count / (time.perf_counter() - start)


def main() -> None:
    """Pack, read in turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("variant", help="a variant of params.yaml whose raw images are there")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    settings = params.load()
    chosen = settings.variant(options.variant)
    dataset = reader.read(chosen.layout, settings.raw_root(), chosen.folder, options.size)
    samples = dataset.samples[:: max(1, len(dataset.samples) // options.images)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for row, sample in enumerate(samples):
            link = folder / "files" / sample.class_name.replace("/", "_") / f"{row}{Path(sample.path).suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((dataset.root / sample.path).resolve())
        index = pd.DataFrame([(s.path, s.class_name, "train") for s in samples], columns=["path", "class", "split"])
        decoders = [lambda s=s: crop_and_resize(dataset.load(s), None, options.size, "squash") for s in samples]
        store.pack(folder / "store", decoders, index, options.size, {})
        images = store.open_store(folder / "store").images
        size, batch_size = options.size, options.batch_size
        runs = {
            "ImageFolder + DataLoader, 2 workers": image_folder(folder / "files", size, batch_size, 2),
            "packed store, 1 thread": packed(images, batch_size, 1, finish=True),
            "packed store, gathering alone": packed(images, batch_size, 1, finish=False),
        }
        for run in runs.values():
            rate(run)
        rates = {label: [] for label in runs}
        for _ in range(options.rounds):
            for label, run in runs.items():
                rates[label].append(rate(run))
    medians = {label: statistics.median(values) for label, values in rates.items()}
    base = next(iter(medians.values()))
    print(f"{len(samples)} images at {size} px, batch {batch_size}, {torch.get_num_threads()} threads, median of")
    print(f"{options.rounds} rounds in turns, torch {torch.__version__}\n")
    print("| path | images/s | ratio | range |\n|---|---|---|---|")
    for label, value in medians.items():
        print(f"| {label} | {value:,.0f} | {value / base:.1f} | {min(rates[label]):,.0f}-{max(rates[label]):,.0f} |")
    spare = medians["packed store, gathering alone"] / GPU_DEMAND
    print(f"\nA GPU that takes {GPU_DEMAND:,} images/s is fed {spare:.1f} times over by one gathering thread.")


if __name__ == "__main__":
    main()
