"""Time and recall of search in LanceDB, compared with exact search and faiss, on the same synthetic embeddings.

    python -m benchmarks.gallery [--rows N] [--width D] [--ways NAME ...]

The embeddings are those of `benchmarks.retrieve`. Each method runs in its own process, builds its index in its first
turn, and answers all queries once per turn. Queries are rows of the gallery, and are excluded from their own results.
LanceDB and faiss are optional dependencies: pip install -r requirements-extra.txt.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from benchmarks import turns
from benchmarks.retrieve import make
from lrec.retrieve import Database, approximate, gallery

QUERIES, RESULTS = 100, 10
# LanceDB's settings: the lists are learned from few rows in few iterations, so that building takes only minutes; one
# of 16 lists is searched, as in `lrec.retrieve.approximate`; ten candidates per result are compared exactly.
SAMPLED, ITERATIONS, PROBED, REFINED = 64, 10, 16, 10
DATABASE, TABLE, EXACT = "database", "table.lance", "exact.npy"
Search = Callable[[], np.ndarray]


def chosen(database: Database) -> np.ndarray:
    """Return the rows that serve as queries, spread evenly over the database."""
    return np.arange(0, len(database), max(1, len(database) // QUERIES))[:QUERIES]


def exact(database: Database, folder: Path) -> Search:
    """Search with the database itself."""
    rows = chosen(database)
    queries = np.array(database.parts[0][rows])
    return lambda: database.search(queries, RESULTS, rows)[1]


def faiss(kind: str) -> Callable[[Database, Path], Search]:
    """Search with a faiss index."""

    def build(database: Database, folder: Path) -> Search:
        rows, index = chosen(database), approximate.Index(kind, database.parts)
        queries = np.array(database.parts[0][rows])
        return lambda: index.search(queries, RESULTS, rows)[1]

    return build


def lancedb(kind: str) -> Callable[[Database, Path], Search]:
    """Search in a LanceDB table, with an index or by a full scan."""

    def build(database: Database, folder: Path) -> Search:
        import lancedb as package
        from lancedb.index import HnswSq, IvfPq

        # Each method has its own table. Links suffice, because LanceDB never changes existing files.
        place = folder / (kind or "plain")
        shutil.copytree(folder / TABLE, place / TABLE, copy_function=os.link)
        table = package.connect(place).open_table(Path(TABLE).stem)
        rows, lists = chosen(database), max(1, int(len(database) ** 0.5) // 4)
        if kind == "ivfpq":
            pieces = next(count for count in (64, 48, 32, 24, 16, 8, 4, 2, 1) if database.width % count == 0)
            learning = {"sample_rate": SAMPLED, "max_iterations": ITERATIONS}
            config = IvfPq(distance_type="cosine", num_partitions=lists, num_sub_vectors=pieces, **learning)
            table.create_index(gallery.VECTOR, config=config)
        elif kind == "hnsw":
            config = HnswSq(distance_type="cosine", num_partitions=1, m=32, ef_construction=100)
            table.create_index(gallery.VECTOR, config=config)
        queries = np.array(database.parts[0][rows])

        def work() -> np.ndarray:
            query = table.search(queries).distance_type("cosine").limit(RESULTS + 1)
            if kind == "ivfpq":
                query = query.nprobes(max(1, lists // PROBED)).refine_factor(REFINED)
            elif kind == "hnsw":
                query = query.ef(128).refine_factor(1)  # sorts the returned results by exact distances
            return _found(query.select(["path", "_distance"]).to_arrow(), rows)

        return work

    return build


def _found(answer: Any, rows: np.ndarray) -> np.ndarray:
    """Return the rows (Q, K) that LanceDB found, without the query itself, padded with -1."""
    out = np.full((len(rows), RESULTS), -1)
    paths = np.array([int(Path(path).stem) for path in answer["path"].to_pylist()])
    asked = np.array(answer["query_index"]) if len(rows) > 1 else np.zeros(len(paths), int)
    for number, own in enumerate(rows):
        found = paths[asked == number]
        found = found[found != own][:RESULTS]
        out[number, : len(found)] = found
    return out


WAYS: dict[str, Callable[[Database, Path], Search]] = {
    "exact": exact,
    "faiss-ivfpq": faiss("ivfpq"),
    "faiss-hnsw": faiss("hnsw"),
    "lancedb": lancedb(""),
    "lancedb-ivfpq": lancedb("ivfpq"),
    "lancedb-hnsw": lancedb("hnsw"),
}


def work(way: str, folder: Path) -> None:
    """Build the index in the first turn; in each turn, print the seconds of searching and building, and the recall."""
    search: Search | None = None
    built = 0.0
    for _ in sys.stdin:
        if search is None:
            database = Database.load(folder / DATABASE)
            start = time.perf_counter()
            search = WAYS[way](database, folder)
            built = time.perf_counter() - start
            search()  # the first search opens files
        start = time.perf_counter()
        rows = search()
        taken = time.perf_counter() - start
        print(taken, built, approximate.agreement(np.load(folder / EXACT), rows), flush=True)


def measure(rows: int, width: int, ways: list[str], rounds: int, inside: str | None) -> None:
    """Print the times of the exports, and a table of the searches."""
    with tempfile.TemporaryDirectory(dir=inside) as name:
        folder = Path(name)
        make(folder / DATABASE, rows, width)
        database = Database.load(folder / DATABASE)
        np.save(folder / EXACT, exact(database, folder)())
        for form, target in (("lancedb", TABLE), ("parquet", "table.parquet")):
            start = time.perf_counter()
            gallery.export(database, form, str(folder / target), DATABASE)
            taken = time.perf_counter() - start
            files = [folder / target, *(folder / target).rglob("*")]
            size = sum(path.stat().st_size for path in files if path.is_file())
            print(f"{rows:,} x {width} to {form}: {taken:.1f} s, {size / 1e6:,.0f} MB", flush=True)
        (folder / "table.parquet").unlink()
        compare(folder, ways, rounds)


def compare(folder: Path, ways: list[str], rounds: int) -> None:
    """Print a table that compares the methods on the database in a folder."""
    arguments = {way: ["benchmarks.gallery", "--work", way, "--folder", str(folder)] for way in ways}
    found = turns.take(arguments, rounds, in_turns=True)
    medians = {way: statistics.median(answer[0] for answer in some) for way, some in found.items() if some}
    lines = []
    for way, some in found.items():
        if not some:
            lines.append([way, turns.NO_MEMORY, "", "", ""])
            continue
        ratio = f"{medians[way] / medians['exact']:.3f}" if "exact" in medians else ""
        _, built, recall = some[-1]
        lines.append([way, f"{built:.0f}", f"{1000 * medians[way]:.0f}", ratio, f"{100 * recall:.1f}"])
    header = ["search", "built, s", f"{QUERIES} queries, ms", "of exact", f"found of exact top {RESULTS}, %"]
    print(tabulate(lines, header, tablefmt="github", disable_numparse=True))


def main() -> None:
    """Measure, or do the work of one method."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512, help="dimensions")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="folder for temporary files (default: the system's)")
    parser.add_argument("--work", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        turns.answering(lambda: work(options.work, Path(options.folder)))
    else:
        measure(options.rows, options.width, options.ways, options.rounds, options.folder)


if __name__ == "__main__":
    main()
