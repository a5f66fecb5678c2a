"""Time opening and searching a database, compared with faiss (optional: pip install faiss-cpu).

    python -m benchmarks.retrieve [ROWS [DIMENSIONS]]

The embeddings are synthetic: 2,000 clusters on the unit sphere. They are searched as float32, int8 codes and binary
codes; ratios are to faiss's exact index of the same data. Each method runs in its own process: on a CPU in turns, on a
GPU one after the other. faiss runs on the CPU.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from benchmarks import turns
from benchmarks.turns import NO_MEMORY
from lrec.compute import device
from lrec.embedding.codes import NAMES
from lrec.metrics import search
from lrec.retrieve import Database, approximate

CLUSTERS, QUERIES, RESULTS = 2000, 100, 10
WHOLE, EXACT = "float32", "exact"
# Kind of search, and the stored embeddings.
WAYS = {
    "exact": (EXACT, WHOLE),
    "faiss-flat": ("flat", WHOLE),
    "exact-int8": (EXACT, "int8"),
    "faiss-flat-int8": ("flat", "int8"),
    "exact-binary": (EXACT, "binary"),
    "faiss-flat-binary": ("flat", "binary"),
    "faiss-ivfpq": ("ivfpq", WHOLE),
    "faiss-hnsw": ("hnsw", WHOLE),
}


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


def opened(folder: Path) -> float:
    """Return the seconds to open a database."""
    start = time.perf_counter()
    Database.load(folder)
    return time.perf_counter() - start


def work(options: argparse.Namespace) -> None:
    """Search once per line of standard input; print the seconds of the search and of building the index, and rows."""
    kind, stored = WAYS[options.way]
    database = Database.load(options.folder / stored, device=options.device)
    queries = np.array(database.parts[0][:: len(database) // QUERIES][:QUERIES])
    none, index, built = np.full(len(queries), search.NO_ROW), None, 0.0
    for _ in sys.stdin:
        start = time.perf_counter()
        if index is None:  # built in this process's turn, like the searches
            index = database if kind == EXACT else approximate.Index(kind, database.parts, database.codes)
            built = time.perf_counter() - start
        start = time.perf_counter()
        rows = index.search(queries, RESULTS, none)[1]
        print(time.perf_counter() - start, built, *rows.ravel(), flush=True)


def main() -> None:
    """Print the times of opening and searching, and the fraction of the exact results that each method finds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("rows", type=int, nargs="?", default=100_000)
    parser.add_argument("dimensions", type=int, nargs="?", default=576)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.device = device.choose(options.device)
    if options.way:
        return turns.answering(lambda: work(options))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / WHOLE, options.rows, options.dimensions)
        for codes in NAMES:
            Database.load(folder / WHOLE).save(folder / codes, codes=codes)
        sizes = {stored: (folder / stored / "embeddings.npy").stat().st_size for _, stored in WAYS.values()}
        opening = statistics.median(opened(folder / WHOLE) for _ in range(options.rounds))
        arguments = ["benchmarks.retrieve", "--folder", name, "--device", options.device, "--way"]
        ways = {way: [*arguments, way] for way in WAYS if way in {"exact", *options.ways}}
        answers = turns.take(ways, 1 + options.rounds, in_turns=not device.is_gpu(options.device))
    print(f"{options.rows:,} x {options.dimensions}: opened in {opening:.3f} s (median of {options.rounds})")
    print(f"{device.describe(options.device)}\n")
    medians = {way: statistics.median(taken for taken, *_ in some[1:]) for way, some in answers.items() if some}
    rows = {way: np.array(some[0][2:]).reshape(-1, RESULTS) for way, some in answers.items() if some}
    lines = []
    for way in ways:
        kind, stored = WAYS[way]
        size = f"{sizes[stored] / 1e6:.1f}"
        if way not in medians:
            lines.append([way, size, "", NO_MEMORY])
            continue
        base = medians.get("faiss-flat" if stored == WHOLE else f"faiss-flat-{stored}")
        built = "" if kind == EXACT else f"{answers[way][0][1]:.1f}"
        found = f"{100 * approximate.agreement(rows['exact'], rows[way]):.1f}" if "exact" in rows else ""
        ratio = f"{medians[way] / base:.2f}" if base else ""
        lines.append([way, size, built, f"{1000 * medians[way]:.1f}", ratio, found])
    header = ["search", "file, MB", "built, s", f"{QUERIES} queries, ms", "of faiss-flat"]
    header += [f"found of exact top {RESULTS}, %"]
    print(tabulate(lines, header, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
