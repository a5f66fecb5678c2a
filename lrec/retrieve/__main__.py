"""Search with any image: print a table of the most similar images, and draw them in a figure.

Without arguments: search with a few images of the first run in params.yaml.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from typing_extensions import TypedDict

from lrec import paths
from lrec.class_names import readable
from lrec.compute import device
from lrec.embedding import codes
from lrec.io import command, reading
from lrec.io.text import escaped
from lrec.metrics import search
from lrec.retrieve import approximate, contact_sheet, image_files, query, serve, storage
from lrec.retrieve.database import Database

RESULTS, FIGURE = 8, Path("retrieval.png")
MAX_ROWS, MAX_COLUMNS = 20, 50  # in the figure


class _Code(TypedDict):
    code: str
    recall_at_1: float


class _Analysis(TypedDict, total=False):
    compression: list[_Code]


class _Measured(TypedDict, total=False):
    """The part of a run's result.json that is read here."""

    analysis: _Analysis


def parser(prog: str = "python -m lrec.retrieve") -> argparse.ArgumentParser:
    """Return the argument parser; some options also have the name used by the original implementation."""
    options = argparse.ArgumentParser(prog=prog, description=__doc__)
    options.add_argument(
        "--query",
        "--query_img_name",
        nargs="+",
        metavar="PATH",
        help="image of the data set (its path in index.csv, or row:N), image file, folder or glob",
    )
    options.add_argument(
        "--database", "--data_base", help="such as car_cropped/resnet18, or a folder that Database.save wrote"
    )
    options.add_argument(
        "--images",
        nargs="+",
        metavar="PATH",
        help="search (or save) these image files, folders or globs, embedded with the database's model",
    )
    options.add_argument(
        "--split", "--data_type", help="train, test, query or gallery (default: gallery, otherwise test)"
    )
    options.add_argument(
        "--num", "--retrieval_num", type=int, help="results per query (default: 8, or all if there are fewer)"
    )
    options.add_argument("--output", type=_png, help="figure (default: retrieval.png; with --json, none)")
    options.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options.add_argument("--index", choices=approximate.KINDS, help="search with faiss, and compare with exact search")
    options.add_argument("--save", metavar="FOLDER", help="save the database instead of searching")
    options.add_argument("--codes", choices=codes.NAMES, help="with --save: store codes, 4 or 32 times smaller")
    options.add_argument("--with-model", action="store_true", help="with --save: copy the model into the folder")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda (default: auto)")
    options.add_argument("--serve", action="store_true", help="search in the browser")
    options.add_argument("--host", help=f"with --serve: address (default: {serve.HOST}, this machine only)")
    options.add_argument("--port", type=int, help=f"with --serve: port (default: {serve.PORT})")
    options.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return options


def _png(name: str) -> Path:
    if not name.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"found {name!r}, expected a file name that ends in .png")
    return Path(name)


def run(options: argparse.Namespace) -> None:
    """Search and print the results, serve the search page, or save a database."""
    _require_effect(options)
    name = query.default_database() if options.database is None else options.database
    where = device.choose(options.device)
    if options.save is not None:  # before images are embedded, which may take hours
        storage.require_replaceable(Path(options.save))
    if options.serve:
        port = serve.PORT if options.port is None else options.port
        serve.run(name, options.split, where, options.host or serve.HOST, port, options.images)
        return
    database = Database.load(name, options.split, where)
    if options.images:
        database = database.of_images(options.images)
    if options.save is not None:
        print("\n".join(map(escaped, save(database, options))))
        return
    finder = query.Finder(database)
    queries = finder.find(options.query) if options.query else finder.default()
    queries, embedded, left_out = _embed(database, queries)
    exclude = np.array([q.row for q in queries])
    searched = f"{image_files.first(options.images, most=1)}, with the model of " if options.images else ""
    notes = [f"{searched}{name}: {database.described}"]
    notes += [*finder.passed_over, *filter(None, [left_out])]
    if any(q.row == search.NO_ROW and not q.class_name for q in queries) and database.facts.get("crop") == "box":
        notes.append(f"{name} holds images cropped to boxes: crop a photo of your own to its object first")
    number = _number(database, exclude) if options.num is None else options.num
    scores, rows = database.search(embedded, number, exclude)
    if options.index:
        index = approximate.Index(options.index, database.parts, database.codes)
        exact = rows
        scores, rows = index.search(embedded, number, exclude)
        notes.append(f"faiss {options.index}: {100 * approximate.agreement(exact, rows):.1f}% of the exact results")
    answers = [query.answer(database, *found) for found in zip(queries, scores, rows, strict=True)]
    if options.json:
        print(json.dumps({"database": name, "split": database.facts.get("split"), "queries": answers}, indent=2))
    else:
        print("\n\n".join(table(found) for found in answers) + "\n")
    said = sys.stderr if options.json else sys.stdout
    print("\n".join(map(escaped, notes)), file=said, flush=True)
    if output := options.output or (None if options.json else FIGURE):
        draw(database, queries, answers, output)
        more = f", the first {MAX_ROWS} of {len(queries)} queries" if len(queries) > MAX_ROWS else ""
        more += f", the first {MAX_COLUMNS} of {number} results" if number > MAX_COLUMNS else ""
        print(escaped(f"figure: {output}{more}"), file=said)


def _require_effect(options: argparse.Namespace) -> None:
    """Refuse options that have no effect together with, or without, another option."""
    searching, page, saving = ("query", "num", "output", "json", "index"), ("host", "port"), ("codes", "with_model")
    idle = [(name, "without --serve") for name in page if not options.serve]
    idle += [(name, "without --save") for name in saving if options.save is None]
    idle += [("split", "with --images")] if options.images else []
    idle += [(name, "with --serve") for name in (*searching, "save") if options.serve]
    idle += [(name, "with --save") for name in searching if options.save is not None]
    for name, reason in idle:
        if getattr(options, name) not in (None, False):
            raise ValueError(f"--{name.replace('_', '-')}: has no effect {reason}; leave it out")


def save(database: Database, options: argparse.Namespace) -> list[str]:
    """Save a database; return lines that describe it, with the recall of its codes if evaluate measured it."""
    database.save(options.save, options.with_model, options.codes)
    saved = Database.load(options.save)
    notes = [f"{options.save}: {saved.described}"]
    if options.codes and database.facts.get("split"):
        run = database.facts["name"]
        path = database.place(str(paths.result(*run.split("/"))))
        rows = reading.read_json(path, "evaluate", _Measured).get("analysis", {}) if path.is_file() else {}
        found = {row["code"]: f"{row['recall_at_1']:.1f} in {row['code']}" for row in rows.get("compression", [])}
        if found.keys() >= {"float32", options.codes}:
            notes.append(f"R@1 of {run}, in percent: {found['float32']}, {found[options.codes]} ({path})")
    return notes


def _number(database: Database, exclude: np.ndarray) -> int:
    """Return the default number of results, at most the number of images that can be found."""
    others = len(database) - int((exclude != search.NO_ROW).any())
    if others < 1:
        raise ValueError(f"the database holds {len(database)} image, which cannot find itself; add more images")
    return min(RESULTS, others)


def _embed(database: Database, queries: list[query.Query]) -> tuple[list[query.Query], np.ndarray, str]:
    """Return the readable queries, their embeddings or codes, and a note on the unreadable ones.

    For queries in the database, its own embeddings are used. Unreadable files of a folder or a glob are left out.
    """
    others = [q for q in queries if q.row == search.NO_ROW]
    sources = [q.source for q in others]
    embedded, unread = database.embed_readable(sources) if others else (np.empty(0), {})
    if named := [error for place, error in unread.items() if not others[place].one_of_many]:
        raise named[0]
    line = image_files.left_out(sources, unread)
    lost = {id(others[place]) for place in unread}
    kept = [q for q in queries if id(q) not in lost]
    if not kept:
        raise ValueError(f"query: found no image that can be read; {line}")
    fresh = iter(database.encode(embedded) if len(embedded) else ())
    return kept, np.stack([next(fresh) if q.row == search.NO_ROW else database.embedding(q.row) for q in kept]), line


def table(found: dict[str, Any]) -> str:
    """Render one query's results as text."""
    words = {True: "right", False: "wrong", None: "-"}
    lines = [
        [r["rank"], f"{r['similarity']:.4f}", _named(r["class"]), words[r["right"]], escaped(r["path"])]
        for r in found["results"]
    ]
    header = ["rank", "similarity", "class", "match", "path"]
    return f"query: {escaped(found['query'])}, class: {_named(found['class'])}\n" + tabulate(
        lines, header, disable_numparse=True, colalign=("right", "right", "left", "left", "left")
    )


def _named(name: str) -> str:
    character, shown = readable(name), escaped(name)
    return f"{shown} {character}" if len(character) == 1 != len(name) else shown or "unknown"


def draw(database: Database, queries: list[query.Query], answers: list[dict[str, Any]], path: Path) -> None:
    """Write the figure."""
    contact_sheet.draw(
        path,
        [
            [
                contact_sheet.Tile(
                    asked.pixels() if asked.row == search.NO_ROW else database.shown(asked.row), asked.class_name
                ),
                *(
                    contact_sheet.Tile(database.shown(r["database_row"]), r["class"], r["similarity"], r["right"])
                    for r in found["results"][:MAX_COLUMNS]
                ),
            ]
            for asked, found in zip(queries[:MAX_ROWS], answers, strict=False)
        ],
    )


def main(arguments: Sequence[str] | None = None, prog: str = "python -m lrec.retrieve") -> int:
    """Parse the command line, search, return the exit status."""
    options = parser(prog).parse_args(arguments)
    return command.guard(lambda: run(options), options.debug)


if __name__ == "__main__":
    sys.exit(main())
