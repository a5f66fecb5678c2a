"""Exports a database as a LanceDB or Parquet table: lrec export-gallery car_cropped/resnet18 --to lancedb.

A table has one row per image, in the database's order, with the columns path, class, split ("" where unknown) and
vector. Its metadata record the model and the settings that made the embeddings; `encoder` embeds queries accordingly.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrec import paths
from lrec.embedding import runtimes
from lrec.io import command, locks, missing, reading
from lrec.io.text import is_utf8
from lrec.model import saved
from lrec.retrieve import storage, tables
from lrec.retrieve.database import Database
from lrec.retrieve.encoder import Encoder
from lrec.retrieve.tables import FORMATS, METADATA, TEXTS, VECTOR, Found, facts_of

_MODELS = paths.model("variant", "backbone").parts[0]
BATCH_BYTES = 2**24  # of embeddings in memory at a time
# Facts about paths on the database's own machine.
_PLACES = ("root", "model", "store", "store_digest", *storage.MADE)


def encoder(schema: Any, model: str | Path, device: str = "cpu") -> Encoder:
    """Return an encoder of queries for a table, with the model and the settings that made its embeddings.

    Args:
        schema: schema of the table.
        model: folder of the model: that of a run, such as models/glyphs/resnet18, whose reduction is found among the
            run's embeddings; a database that was saved with its model; or any other folder, which must also contain
            reduction.safetensors if the embeddings are reduced, and model.onnx if they were computed in int8.
        device: device of the forward pass.

    Raises:
        FileNotFoundError: the model, the reduction or the graph is missing.
        ValueError: the table does not record the model that made its embeddings, or it was another model.
    """
    folder = Path(model)
    folder = folder / storage.OWN_MODEL if (folder / storage.FACTS).is_file() else folder
    facts, path = facts_of(schema), folder / saved.MODEL
    if not {"weights", "resize", "kind"} <= facts.keys():
        raise ValueError(
            f"table: does not say which model made its embeddings (metadata {METADATA.decode()}), so none can be "
            "checked; export a database that has a model, with lrec export-gallery"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found, the model that embeds images for this table{missing.hint(path)}")
    remedy = "use that model, or export the table again"
    reading.require_made(path, str(facts["weights"]), "other weights", remedy)
    made = {name: _beside(folder, storage.MADE[name]) for name in storage.MADE if storage.digest_of(name) in facts}
    storage.require_made(facts, made, "use that file, or export the table again")
    how = {"reduced": made.get("reduction"), "quantized": made.get("graph"), "weights": str(facts["weights"])}
    runtime = facts.get("runtime", runtimes.TORCH)
    return Encoder(folder, facts["resize"], device, facts["kind"], runtime=runtime, **how)


def _beside(model: Path, name: str) -> Path:
    """Return a file of the stage embed, from the folder of the model or from the embeddings of the model's run."""
    places, whole = [model], Path(os.path.abspath(model))
    if len(whole.parents) > 2 and whole.parents[1].name == _MODELS:
        places.append(Path(os.path.relpath(whole.parents[2] / paths.EMBEDDINGS / whole.relative_to(whole.parents[1]))))
    for place in places:
        if (place / name).is_file():
            return place / name
    raise FileNotFoundError(
        f"{model}: found no {name}, with which the embeddings of this table were made, "
        f"{' nor '.join(['in it', *map(str, places[1:])])}; copy it there from the embeddings of the model's run"
    )


def _schema(database: Database, name: str) -> Any:
    """Return the schema of a database's table."""
    arrow = tables.package("pyarrow")
    facts = {key: value for key, value in database.facts.items() if key not in _PLACES and value is not None}
    facts |= {"database": name, "images": len(database), "dimensions": database.width}
    texts = [(column, arrow.string()) for column in TEXTS]
    vector = arrow.list_(arrow.from_numpy_dtype(database.parts[0].dtype), database.width)
    return arrow.schema([*texts, (VECTOR, vector)], {METADATA: json.dumps(facts, sort_keys=True)})


def _batches(database: Database, schema: Any) -> Iterator[Any]:
    """Yield the rows of a table as record batches.

    Raises:
        ValueError: an embedding is not finite, or a name cannot be written as UTF-8.
    """
    arrow = tables.package("pyarrow")
    size = max(1, BATCH_BYTES // (database.parts[0].itemsize * database.width))
    split, first = database.facts.get("split") or "", 0
    for part in database.parts:
        for start in range(0, len(part), size):
            block = np.ascontiguousarray(part[start : start + size])
            rows = database.index.iloc[first : first + len(block)]
            if not (finite := np.isfinite(block).all(axis=1)).all():
                raise ValueError(f"row {first + int(np.argmin(finite)):,}: its embedding is not finite; embed it again")
            texts = [_texts(rows["path"], first), _texts(rows["class"], first), [split] * len(block)]
            vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(block.ravel()), database.width)
            columns = [*(arrow.array(text, arrow.string()) for text in texts), vectors]
            yield arrow.record_batch(columns, schema=schema)
            first += len(block)


def _texts(column: Any, first: int) -> list[str]:
    """Return the column as a list of names that can be encoded as UTF-8."""
    names = column.tolist()
    for row, name in enumerate(names, start=first):
        if not is_utf8(name):
            raise ValueError(f"row {row:,}: its {column.name}, {name!r:.120}, is not Unicode text")
    return names


def export(database: Database, form: str, target: str, name: str) -> None:
    """Write a database as a table, in batches; it appears complete or not at all.

    Args:
        database: the database to export.
        form: one of `FORMATS`.
        target: a path that ends in .lance or .parquet, or for LanceDB an address such as
            s3://bucket/folder/name.lance. An earlier export of the same database is replaced.
        name: name of the database, for the metadata.

    Raises:
        ValueError: the target holds something else, the database holds codes, a package is missing, or the table cannot
            be written.
    """
    table = FORMATS[form](target)
    if database.codes:
        raise ValueError(
            f"{name}: found {database.codes.name} codes, expected embeddings, whose similarities {form} computes; "
            "export the run, or a database of embeddings"
        )
    if not target.endswith(table.suffix):
        raise ValueError(f"{target}: found no name that ends in {table.suffix}, expected one for {form}")
    schema, failed = _schema(database, name), []

    def batches() -> Iterator[Any]:
        try:
            yield from _batches(database, schema)
        except Exception as error:  # LanceDB would wrap it in its own error, with a traceback in the message
            failed.append(error)
            raise

    try:
        with locks.alone(table.path) if table.path else contextlib.nullcontext():
            _require_replaceable(table.found(), facts_of(schema), target)
            table.write(schema, batches())
    except RuntimeError as error:
        if failed:
            raise failed[0] from error
        remedy = "correct the address, its credentials or permissions"
        raise ValueError(f"{target}: {form} cannot use it ({error}); {remedy}") from error


def _require_replaceable(found: Found | None, own: Mapping[str, Any], target: str) -> None:
    """Refuse to replace anything but the unchanged export of the same database."""
    if found is None:
        return
    there, rows = found
    if not there:
        what = "something that lrec export-gallery did not write"
    elif os.path.islink(target):
        what = f"a symbolic link to {os.path.realpath(target)}"
    elif any(there.get(key) != own.get(key) for key in ("database", "split")):
        what = f"the export of {there.get('database')!r:.120}, split {there.get('split')!r:.40}"
    elif there.get("images") != rows:
        what = f"an export that has {rows:,} rows now and had {there.get('images')!r:.20}"
    else:
        return
    raise ValueError(f"{target}: found {what}, which is not overwritten; delete it, or name another with --output")


def main(arguments: Sequence[str] | None = None, prog: str = "python -m lrec.retrieve.gallery") -> int:
    """Parse the command line, export, return the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description="Write a database as a table of LanceDB or Parquet.")
    parser.add_argument("database", help="such as car_cropped/resnet18, or a folder that Database.save wrote")
    parser.add_argument("--to", choices=list(FORMATS), required=True, help="format of the table")
    parser.add_argument("--split", help="train, test, query or gallery (default: gallery, otherwise test)")
    parser.add_argument(
        "--output",
        help="path that ends in .lance or .parquet, or s3://bucket/folder/name.lance (default: "
        "exported/<database>/<split>.<format>)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)

    def work() -> None:
        database = Database.load(options.database, options.split)
        split = database.facts.get("split")
        name = f"{database.facts['name']}/{split}" if split else Path(options.database).resolve().name
        target = options.output or f"exported/{name}.{'lance' if options.to == 'lancedb' else 'parquet'}"
        export(database, options.to, target, options.database)
        print(f"{target}: {database.described}")

    return command.guard(work, options.debug)


if __name__ == "__main__":
    sys.exit(main())
