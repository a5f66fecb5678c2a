"""Speed of loading training images: the packed store against torchvision's ImageFolder + DataLoader.

Both load the same images at the same size, and return normalised float32 batches with random flips, on the device. Each
runs in its own process: on a CPU in turns, on a GPU one after the other. With a GPU, packed images are flipped and
normalised there, and the CPU only gathers bytes; the last row is this part alone.

    python -m benchmarks.loading car_cropped --images 2000
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks import turns
from benchmarks.turns import NO_MEMORY
from lrec import params
from lrec.compute import device
from lrec.compute.transfer import to_device
from lrec.data import batches, store
from lrec.datasets import reader
from lrec.datasets.decoding import crop_and_resize

GPU_DEMAND = 5000
GATHERING = "packed store, gathering alone"
Pass = Callable[[], Iterator[Tensor]]


def image_folder(options: argparse.Namespace) -> Pass:
    """Return a function that starts a pass over the image files, decoded by torchvision."""
    steps = [transforms.Resize((options.size, options.size)), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    steps.append(transforms.Normalize(store.IMAGENET["mean"], store.IMAGENET["std"]))
    pictures = datasets.ImageFolder(str(options.folder / "files"), transforms.Compose(steps))
    pinned = device.is_gpu(options.device)
    loader = DataLoader(pictures, options.batch_size, shuffle=True, num_workers=2, pin_memory=pinned)
    return lambda: (images.to(options.device, non_blocking=pinned) for images, _ in loader)


def gathered(options: argparse.Namespace) -> Pass:
    """Return a function that starts a pass over the store that only gathers bytes."""
    images, generator = store.open_store(options.folder / "store").images, np.random.default_rng(0)

    def run() -> Iterator[Tensor]:
        order, size = generator.permutation(len(images)), options.batch_size
        selections = [order[start : start + size] for start in range(0, len(order), size)]
        return batches.gather(images, selections, "cpu" if options.way == GATHERING else options.device, 1)

    return run


def packed(options: argparse.Namespace) -> Pass:
    """Return a function that starts a pass over the store, with images flipped and normalised on the device."""
    run, generator = gathered(options), np.random.default_rng(0)

    def finished() -> Iterator[Tensor]:
        for pixels in run():
            flipped = to_device(np.flatnonzero(generator.random(len(pixels)) < 0.5), options.device)
            yield batches.normalize(pixels, **store.IMAGENET, flipped=flipped)

    return finished


WAYS: dict[str, Callable[[argparse.Namespace], Pass]] = {
    "ImageFolder + DataLoader, 2 workers": image_folder,
    "packed store, 1 thread": packed,
    GATHERING: gathered,
}


def work(options: argparse.Namespace) -> None:
    """Make a pass for every line of standard input; print its images per second."""
    run = WAYS[options.way](options)
    for _ in sys.stdin:
        start = time.perf_counter()
        count = sum(len(batch) for batch in run())
        turns.wait(options.device)
        print(count / (time.perf_counter() - start), flush=True)


def prepare(options: argparse.Namespace, folder: Path) -> int:
    """Link the raw images and pack them; return the number of images."""
    settings = params.load()
    chosen = settings.variant(options.variant)
    dataset = reader.read(chosen.layout, settings.raw_root(), chosen.folder, options.size)
    samples = dataset.samples[:: max(1, len(dataset.samples) // options.images)]
    for row, sample in enumerate(samples):
        link = folder / "files" / sample.class_name.replace("/", "_") / f"{row}{Path(sample.path).suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((dataset.root / sample.path).resolve())
    index = pd.DataFrame([(s.path, s.class_name, "train") for s in samples], columns=["path", "class", "split"])
    decoders = [lambda s=s: crop_and_resize(dataset.load(s), None, options.size, "squash") for s in samples]
    store.pack(folder / "store", decoders, index, options.size, {})
    return len(samples)


def main() -> None:
    """Pack the images, time all methods, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("variant", help="a variant of params.yaml whose raw images are available")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.device = device.choose(options.device)
    if options.way:
        return turns.answering(lambda: work(options))
    with tempfile.TemporaryDirectory() as name:
        count = prepare(options, Path(name))
        arguments = ["benchmarks.loading", options.variant, "--size", str(options.size), "--folder", name]
        arguments += ["--batch-size", str(options.batch_size), "--device", options.device, "--way"]
        ways = {way: [*arguments, way] for way in WAYS}
        answers = turns.take(ways, 1 + options.rounds, in_turns=not device.is_gpu(options.device))
    rates = {way: [rate for (rate,) in some[1:]] for way, some in answers.items() if some}
    medians = {way: statistics.median(some) for way, some in rates.items()}
    print(f"{count} images at {options.size} px, batch {options.batch_size}, median of {options.rounds} rounds")
    print(f"{device.describe(options.device)}\n")
    print("| path | images/s | ratio | range |\n|---|---|---|---|")
    base = medians.get(next(iter(WAYS)))
    for way in WAYS:
        if way not in medians:
            print(f"| {way} | {NO_MEMORY} | | |")
            continue
        ratio = f"{medians[way] / base:.1f}" if base else ""
        print(f"| {way} | {medians[way]:,.0f} | {ratio} | {min(rates[way]):,.0f}-{max(rates[way]):,.0f} |")
    if GATHERING in medians:
        spare = medians[GATHERING] / GPU_DEMAND
        print(f"\nA GPU that takes {GPU_DEMAND:,} images/s is fed {spare:.1f} times over by one gathering thread.")


if __name__ == "__main__":
    main()
