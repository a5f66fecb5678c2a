"""Time exact recall against the usual ways to compute it, in one interleaved run; print Markdown tables.

    python -m benchmarks.recall                      time and agreement for several sizes
    python -m benchmarks.recall --memory             peak memory of every method, one process each
    python -m benchmarks.recall --sop FILE           a part of the largest benchmark, from a memory map

The data are unit vectors around random class centres, 5 per class. By default, the largest size is the number of test
images of Stanford Online Products, and the dimensions are those of 48 branches with 12 meta classes.
"""

import argparse
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from benchmarks.turns import NO_MEMORY, ran_out, wait
from lrec.compute import device
from lrec.metrics import counting, ranking, sieve
from lrec.metrics.recall import MEMORY_BYTES, evaluate, recall_at_k
from lrec.metrics.similarity import Rows, full_precision

KS = (1, 10, 100, 1000)
ROWS = 2048  # per block of the methods that work by rows: 0.5 GB at the largest size


def make(images: int, width: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, d) float32 embeddings and (N,) labels, in random order."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randperm(images, generator=generator) // 5
    data = torch.randn(-(-images // 5), width, generator=generator)[labels]
    data += noise * torch.randn(images, width, generator=generator)
    return torch.nn.functional.normalize(data).numpy(), labels.numpy()


def counted(data: np.ndarray, labels: np.ndarray, where: str) -> dict[int, float]:
    """Compute recall with this project's method."""
    return recall_at_k(data, labels, KS, device=where)


def counted_all(data: np.ndarray, labels: np.ndarray, where: str) -> dict[int, float]:
    """Compute all metrics, including MAP@R and R-precision, with this project's method."""
    return evaluate(data, labels, KS, device=where).recall


def counted_in_float32(data: np.ndarray, labels: np.ndarray, where: str) -> dict[int, float]:
    """Compute recall with this project's method as on a CPU without bfloat16 instructions."""
    with mock.patch.object(sieve, "supported", return_value=False):
        return recall_at_k(data, labels, KS, device=where)


def _recalls(labels: np.ndarray, neighbours: np.ndarray) -> dict[int, float]:
    """Compute recall from the 1,001 nearest items, which include the query."""
    own = neighbours == np.arange(len(labels))[:, None]
    own[~own.any(1), -1] = True
    hits = labels[neighbours[~own].reshape(len(labels), -1)] == labels[:, None]
    return {k: float(hits[:, :k].any(1).mean()) for k in KS}


def topk(data: np.ndarray, labels: np.ndarray, where: str) -> dict[int, float]:
    """Compute recall with the full product and topk, by blocks of rows."""
    items = torch.from_numpy(data).to(where)
    neighbours = [(items[i : i + ROWS] @ items.T).topk(max(KS) + 1).indices for i in range(0, len(items), ROWS)]
    return _recalls(labels, torch.cat(neighbours).cpu().numpy())


def faiss_flat(data: np.ndarray, labels: np.ndarray, where: str) -> dict[int, float]:
    """Compute recall with faiss's exact inner-product index."""
    import faiss

    index = faiss.IndexFlatIP(data.shape[1])
    index.add(data)
    return _recalls(labels, index.search(data, max(KS) + 1)[1])


def metric_learning(data: np.ndarray, labels: np.ndarray, where: str) -> dict[int, float]:
    """Compute recall with pytorch-metric-learning's nearest neighbours, as a custom metric."""
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    class Calculator(AccuracyCalculator):
        def calculate_recall(self, knn_labels, query_labels, **kwargs):
            hits = knn_labels == query_labels[:, None]
            return {k: float(hits[:, :k].any(1).float().mean()) for k in KS}

        def requires_knn(self):
            return [*super().requires_knn(), "recall"]

    calculator = Calculator(include=("recall",), k=max(KS), device=torch.device(where))
    return calculator.get_accuracy(data, labels)["recall"]


def product(data: np.ndarray, labels: np.ndarray, where: str) -> None:
    """Compute the full product by rows and discard it: a lower bound for methods that compute every pair twice."""
    items = torch.from_numpy(data).to(where)
    for i in range(0, len(items), ROWS):
        items[i : i + ROWS] @ items.T
    wait(where)


METHODS: dict[str, Callable] = {
    "lrec recall_at_k": counted,
    "lrec evaluate (with MAP@R)": counted_all,
    "lrec recall_at_k, float32 alone": counted_in_float32,
    "full product + topk": topk,
    "faiss IndexFlatIP": faiss_flat,
    "pytorch-metric-learning": metric_learning,
    "bare full product": product,
}
ON_CPU = ("lrec recall_at_k, float32 alone", "faiss IndexFlatIP")  # not run on a GPU


def compare(sizes: list[int], width: int, noise: float, repeats: list[int], where: str) -> None:
    """Time all methods, interleaved; print medians, their ratios to the first method, recall, and growth exponents.

    If other programs run at the same time, CPU seconds (the sum over all threads) vary less than seconds.
    """
    print("| N | method | s | ratio | CPU s | ratio | " + " | ".join(f"R@{k}" for k in KS) + " |")
    print("|---:|:---|---:|---:|---:|---:|" + "---:|" * len(KS))
    methods = {name: method for name, method in METHODS.items() if where == "cpu" or name not in ON_CPU}
    medians: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    rounds = repeats * len(sizes) if len(repeats) == 1 else repeats
    for size, count in zip(sizes, rounds, strict=True):
        data, labels = make(size, width, noise)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
        results = {}
        for _ in range(count):
            for name, method in methods.items():
                start, cpu = time.perf_counter(), time.process_time()
                try:
                    results[name] = method(data, labels, where)
                except (RuntimeError, MemoryError) as error:
                    if not ran_out(error):
                        raise
                    print(f"| {size:,} | {name} | {NO_MEMORY} |", flush=True)
                    times[name].append((np.nan, np.nan))
                    continue
                times[name].append((time.perf_counter() - start, time.process_time() - cpu))
        for name in methods:
            medians[name].append(np.median(times[name], axis=0))
            ratio = medians[name][-1] / medians[next(iter(methods))][-1]
            cells = [f"{x:.2f}" for pair in zip(medians[name][-1], ratio, strict=True) for x in pair]
            cells += [f"{100 * results[name][k]:.3f}" if results.get(name) else "" for k in KS]
            print(f"| {size:,} | {name} | " + " | ".join(cells) + " |", flush=True)
    if len(sizes) > 1:
        growth = {name: np.polyfit(np.log(sizes), np.log(value), 1)[0][1] for name, value in medians.items()}
        print("\nGrowth (CPU time ~ N^a): " + ", ".join(f"{name} {a:.2f}" for name, a in growth.items()))


class Peak:
    """Measures the growth of this process's own memory in MB, without pages of mapped files.

    Linux does not record its peak, so it is read every few milliseconds.
    """

    def __init__(self) -> None:
        self._before = self._highest = self._now()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    @staticmethod
    def _now() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssAnon:"))

    def _watch(self) -> None:
        while not self._stopped.wait(0.003):
            self._highest = max(self._highest, self._now())

    def grown(self) -> float:
        """Stop measuring; return the growth up to the peak."""
        self._stopped.set()
        self._thread.join()
        return self._highest - self._before


def peak(method: str, size: int, width: int, noise: float) -> None:
    """Print by how much a method raises this process's peak memory, in MB."""
    METHODS[method](*make(2 * max(KS), width, noise), "cpu")  # libraries load on first use
    data, labels = make(size, width, noise)
    memory = Peak()
    METHODS[method](data, labels, "cpu")
    print(memory.grown())


def memory(size: int, width: int, noise: float) -> None:
    """Measure the peak of every method, in a process each."""
    print(f"| N = {size:,} | extra peak memory, MB |\n|:---|---:|")
    for name in METHODS:
        command = [sys.executable, "-m", "benchmarks.recall", "--peak", name, "--sizes", str(size)]
        command += ["--width", str(width), "--noise", str(noise)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"| {name} | {float(output):,.0f} |", flush=True)
    print(f"| a full float32 matrix | {4 * size * size / 1e6:,.0f} |")


def sop(path: Path, size: int, width: int, count: int, where: str) -> None:
    """Time `count` blocks of a leave-one-out evaluation from a float16 memory map; extrapolate to all blocks."""
    if not path.exists():
        data = np.lib.format.open_memmap(path, "w+", np.float16, (size, width))
        for start in range(0, size, 1000):
            data[start : start + 1000] = make(min(1000, size - start), width, 1.5)[0]
        data.flush()
        del data
    data, labels = np.load(path, mmap_mode="r"), np.arange(size) // 5
    memory = Peak()
    classes = torch.from_numpy(labels).to(where)
    budget = device.working_memory(where, MEMORY_BYTES)
    with full_precision(torch.device(where)):
        start = time.perf_counter()
        rows = Rows(data, np.arange(size), "query", torch.device(where), budget // 2)
        wait(where)
        queries = counting.Labelled(rows, classes)
        checked = time.perf_counter()
        one = ranking.Pass(queries, queries, 0, False, budget - rows.kept_bytes)
        one.set_thresholds()
        wait(where)
        ready = time.perf_counter()
        all_blocks = one.blocks()
        pairs = sum((r.stop - r.start) * (c.stop - c.start) for r, c in all_blocks)
        some = all_blocks[:: max(1, len(all_blocks) // count)][:count]
        done = sum((r.stop - r.start) * (c.stop - c.start) for r, c in some)
        one.count(some)
        wait(where)
        seconds = time.perf_counter() - ready
    print(f"{size:,} x {width:,} float16 ({path.stat().st_size / 1e9:.1f} GB): check {checked - start:.0f} s,")
    print(f"thresholds {ready - checked:.0f} s, {len(some)} of {len(all_blocks)} blocks {seconds:.0f} s; all blocks")
    print(f"would take {seconds * pairs / done / 60:.0f} min.")
    print(f"Peak memory grew by {memory.grown():,.0f} MB, pages of the map left out.")


def main() -> None:
    """Parse the command line and run one of the modes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", help="N, default: 5000 20000 60502")
    parser.add_argument("--width", type=int, help="d, default: 576, with --sop 24576")
    parser.add_argument("--noise", type=float, default=2.5, help="length of the noise relative to a class centre")
    parser.add_argument("--repeats", type=int, nargs="+", default=[3], help="rounds, one number or one per size")
    parser.add_argument("--memory", action="store_true", help="measure peak memory at the last size")
    parser.add_argument("--peak", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--sop", type=Path, help="a float16 .npy file (N, d), created if missing (3 GB)")
    parser.add_argument("--blocks", type=int, default=6, help="blocks to time with --sop")
    parser.add_argument("--device", default="cpu", help="ignored with --memory; copies to the device are timed as well")
    options = parser.parse_args()
    options.sizes = options.sizes or [5000, 20000, 60502]
    options.width = options.width or (24576 if options.sop else 576)
    if options.peak:
        return peak(options.peak, options.sizes[-1], options.width, options.noise)
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = cpu[0].split(":")[1].strip() if cpu else platform.processor()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {name}; d = {options.width}\n")
    if options.sop:
        sop(options.sop, options.sizes[-1], options.width, options.blocks, options.device)
    elif options.memory:
        memory(options.sizes[-1], options.width, options.noise)
    else:
        compare(options.sizes, options.width, options.noise, options.repeats, options.device)


if __name__ == "__main__":
    main()
