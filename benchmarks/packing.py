"""Peak memory and speed of preprocessing, by the number of images.

Makes N small JPEG files, packs them in a separate process, and prints that process's peak memory.

    python -m benchmarks.packing --images 5000 50000
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64


def make(folder: Path, count: int) -> None:
    """Write `count` photos of 100 classes, half of them for training."""
    generator = np.random.default_rng(0)
    for number in range(count):
        label = number % 100
        path = folder / "raw" / "set" / ("train" if label < 50 else "test") / f"class {label:02}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC).save(path, quality=85)


def pack(folder: Path) -> None:
    """Read and pack the synthetic set; print the seconds, and this process's peak memory in MB."""
    import pandas as pd

    from lrec.data import store
    from lrec.datasets import reader
    from lrec.datasets.decoding import crop_and_resize

    start = time.perf_counter()
    dataset = reader.read("folder", folder / "raw", "set", SIZE)
    decoders = [lambda s=s: crop_and_resize(dataset.load(s), None, SIZE, "squash") for s in dataset.samples]
    index = pd.DataFrame([(s.path, s.class_name, s.split) for s in dataset.samples], columns=["path", "class", "split"])
    store.pack(folder / "store", decoders, index, SIZE, {})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.perf_counter() - start:.3f} {peak:.0f}")


def main() -> None:
    """Print one row per number of images."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[5000, 50000])
    parser.add_argument("--pack", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pack:
        pack(options.pack)
        return
    print(f"| images | packed at {SIZE} px, MB | images/s | peak memory, MB |\n|---|---|---|---|")
    for count in options.images:
        with tempfile.TemporaryDirectory() as name:
            make(Path(name), count)
            command = [sys.executable, "-m", "benchmarks.packing", "--pack", name]
            done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            seconds, peak = (float(value) for value in done.stdout.split())
        print(f"| {count:,} | {count * SIZE**2 * 3 / 1e6:,.0f} | {count / seconds:,.0f} | {peak:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
