"""Images per second and R@1 of a trained run in every runtime: python -m benchmarks.extraction --run glyphs/resnet18.

All methods embed the same images in the same batches, with `lrec.embedding.extract`: torch uses the ensemble, the
others the graph that `python -m lrec.export` writes, in float32, rounded to bfloat16, or quantised to int8. Each runs
in its own process, and they take turns. In the first turn, which is not timed, each embeds all images, to compute R@1
and the largest difference from torch's float32 embeddings. If the run's images are missing, random images are used;
then there is no R@1, and no int8, because it is calibrated on training images.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import turns
from lrec import export, paths
from lrec.compute import allocator, device
from lrec.data import store
from lrec.data.batches import Images
from lrec.embedding import batch_norm, extract, graph, quantization, runtimes
from lrec.evaluation import quantized
from lrec.evaluation.task import Task
from lrec.model import saved

# Runtime and precision.
WAYS = [
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("onnxruntime", "float32"),
    ("onnxruntime", "int8"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
]
PIXELS = "images.npy"


class Run:
    """A trained run: its ensemble, and the kind and reduction that the stage embed used."""

    def __init__(self, name: str) -> None:
        variant, backbone = Path(name).parts
        self.ensemble, self.config = saved.load(paths.model(variant, backbone))
        self.how = export.embedded(variant, backbone)
        self.store = paths.store(variant)

    def options(self, batch_size: int, precision: str) -> extract.Options:
        """Return the options of an extraction."""
        return extract.Options(self.how[0], batch_size, precision, workers=1, reduction=self.how[1])


def work(name: str, way: list[str], folder: Path, images: int, batch_size: int) -> None:
    """Embed all images for the first line of standard input, and `images` for each other line; print the seconds."""
    allocator.keep_freed_memory()
    run, (runtime, numbers) = Run(name), way
    options = run.options(batch_size, "float32" if numbers == "int8" else numbers)
    width = options.width(run.ensemble)
    network = batch_norm.fold(run.ensemble)
    if runtime != runtimes.TORCH:
        written = folder / ("int8" if numbers == "int8" else "float32") / graph.FILE
        network = runtimes.Exported(written, runtime, numbers)
    pixels = np.load(folder / PIXELS, mmap_mode="r")
    out = np.lib.format.open_memmap(_embeddings(folder, way), "w+", np.float32, (len(pixels), width))
    for turn, _ in enumerate(sys.stdin):
        rows = np.arange(min(images, len(pixels)) if turn else len(pixels))
        start = time.perf_counter()
        extract.extract(network, Images(pixels, rows, **run.config["normalization"]), out[: len(rows)], options)
        print(time.perf_counter() - start, flush=True)


def _embeddings(folder: Path, way: list[str]) -> Path:
    return folder / f"{'-'.join(way)}.npy"


def prepare(run: Run, folder: Path, images: int) -> Task | None:
    """Write the images and graphs that the methods share; return the images' retrieval task, None for random images."""
    size, task = run.config["image_size"], None
    if (run.store / store.IMAGES).is_file():
        packed = store.open_store(run.store)
        task = quantized.tested(packed)
        np.save(folder / PIXELS, packed.images[np.concatenate([part[:, 0] for part in _parts(task)])])
    else:
        drawn = np.random.default_rng(0).integers(0, 256, (images, size, size, 3), dtype=np.uint8)
        np.save(folder / PIXELS, drawn)
    (folder / "float32").mkdir()
    graph.write(graph.Embedding(run.ensemble, run.config["normalization"], *run.how), size, folder / "float32")
    if task and not _lacking(["onnxruntime", "int8"], task):
        shutil.copytree(folder / "float32", folder / "int8")
        quantization.quantize(folder / "int8", packed, run.how[1] is not None)
    return task


def _parts(task: Task) -> list[np.ndarray]:
    return [task.query] if task.gallery is None else [task.query, task.gallery]


def _lacking(way: list[str], task: Task | None) -> str:
    """Return a short reason why a method cannot be measured on this machine, or an empty string if it can."""
    runtime, numbers = way
    if numbers == "int8" and task is None:
        return "no images to calibrate with"
    try:
        for needed in {runtime, "onnxruntime"} if numbers == "int8" else {runtime}:
            runtimes.require(needed)
        device.choose_precision("cpu", "bfloat16" if numbers == "bfloat16" else "float32")
    except ValueError as error:
        return "no bfloat16" if "bfloat16" in str(error) else "not installed"
    return ""


def compare(name: str, images: int, batch_size: int, rounds: int) -> None:
    """Print a table."""
    run = Run(name)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        task = prepare(run, folder, images)
        lacking = {tuple(way): _lacking(list(way), task) for way in WAYS}
        sizes = ["--images", str(images), "--batch-size", str(batch_size)]
        ways = {
            " ".join(way): ["benchmarks.runtimes", name, *sizes, "--folder", place, "--way", *way]
            for way, reason in lacking.items()
            if not reason
        }
        found = turns.take(ways, 1 + rounds, in_turns=True)
        count = min(images, len(np.load(folder / PIXELS, mmap_mode="r")))
        reference = np.load(_embeddings(folder, list(WAYS[0])))
        rates = {way: count / statistics.median(turn[0] for turn in some[1:]) for way, some in found.items() if some}
        print("| runtime | in | images/s | ratio | R@1 | largest difference |")
        print("|---" * 6 + "|")
        for runtime, numbers in WAYS:
            beginning, way = f"| {runtime} | {numbers} |", f"{runtime} {numbers}"
            if way not in rates:
                print(f"{beginning} {lacking[runtime, numbers] or turns.NO_MEMORY} | | | |")
                continue
            embedded = np.load(_embeddings(folder, [runtime, numbers]))
            ratio = rates[way] / rates[" ".join(WAYS[0])]
            difference = np.abs(embedded - reference).max()
            print(f"{beginning} {rates[way]:.1f} | {ratio:.2f} | {_recall(task, embedded)} | {difference:.1e} |")


def _recall(task: Task | None, embedded: np.ndarray) -> str:
    """Return R@1 in percent."""
    if task is None:
        return "–"
    queries = len(task.query)
    whole = replace(task, query=embedded[:queries], gallery=None if task.gallery is None else embedded[queries:])
    return f"{100 * whole.evaluate([1], precision=False).recall[1]:.2f}"


def main() -> None:
    """Do the work of one method."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--way", nargs=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--images", type=int)
    parser.add_argument("--batch-size", type=int)
    options = parser.parse_args()
    turns.answering(lambda: work(options.run, options.way, options.folder, options.images, options.batch_size))


if __name__ == "__main__":
    main()
