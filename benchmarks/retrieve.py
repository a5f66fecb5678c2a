"""Time opening and searching a database, compared with faiss: python -m benchmarks.retrieve [ROWS [DIMENSIONS]].

The embeddings are synthetic: 2,000 clusters on the unit sphere. faiss is an optional dependency: pip install faiss-cpu.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from lrec.retrieve import Database, approximate

CLUSTERS, QUERIES, RESULTS, ROUNDS = 2000, 100, 10, 5


def make(folder: Path, rows: int, width: int) -> None:
    """Save a database of synthetic embeddings."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(CLUSTERS, width)).astype(np.float32)
    embeddings = np.empty((rows, width), np.float32)
    for start in range(0, rows, 10_000):
        some = np.arange(start, min(start + 10_000, rows))
        embeddings[some] = centres[some % CLUSTERS] + generator.normal(size=(len(some), width)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    names = [f"images/{row}.jpg" for row in range(rows)]
    index = pd.DataFrame({"path": names, "class": [str(row % CLUSTERS) for row in range(rows)], "row": -1})
    Database(embeddings, index, {}).save(folder)


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(rows: int, width: int) -> None:
    """Print the times of opening and searching, and the fraction of the exact results that faiss returns."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder, "database"), rows, width)
        opening = statistics.median(seconds(lambda: Database.load(Path(folder, "database"))) for _ in range(ROUNDS))
        print(f"{rows:,} x {width}: opened in {opening:.3f} s (median of {ROUNDS})")
        database = Database.load(Path(folder, "database"))
        queries = np.array(database.parts[0][:: rows // QUERIES][:QUERIES])
        none = np.full(len(queries), -1)
        exact = database.search(queries, RESULTS)[1]
        ways: dict[str, Callable[[], object]] = {"exact": lambda: database.search(queries, RESULTS)}
        facts = {"exact": ("", 1.0)}
        for kind in approximate.KINDS:
            start = time.perf_counter()
            index = approximate.Index(kind, database.parts)
            built = f"{time.perf_counter() - start:.1f}"
            facts[f"faiss {kind}"] = built, approximate.agreement(exact, index.search(queries, RESULTS, none)[1])
            ways[f"faiss {kind}"] = lambda index=index: index.search(queries, RESULTS, none)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):  # interleaved, so that other programs on the machine slow all of them alike
            for name, work in ways.items():
                times[name].append(seconds(work))
        medians = {name: statistics.median(some) for name, some in times.items()}
        lines = [
            [name, facts[name][0], f"{1000 * medians[name]:.1f}", f"{medians[name] / medians['faiss flat']:.2f}"]
            + [f"{100 * facts[name][1]:.1f}"]
            for name in ways
        ]
        header = ["search", "built, s", f"{QUERIES} queries, ms", "of faiss flat", f"found of exact top {RESULTS}, %"]
        print(tabulate(lines, header, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main(*(int(value) for value in [*sys.argv[1:], *("100000", "576")[len(sys.argv) - 1 :]]))
