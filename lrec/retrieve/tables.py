"""Table formats, Parquet and LanceDB; a new format is a class with the same methods and an entry of `FORMATS`.

Their packages are optional and imported on use.
"""

import importlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lrec.io import files

METADATA = b"lrec"  # key in a table's metadata; its value is JSON
TEXTS = ["path", "class", "split"]
VECTOR = "vector"  # the name that LanceDB expects


class Found(NamedTuple):
    """An existing table: the value of its metadata, {} if no export wrote it, and its number of rows."""

    facts: dict[str, Any]
    rows: int


def package(name: str) -> Any:
    """Import an optional dependency."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ValueError(f"{package}: not installed ({error}); pip install {package}") from error


def facts_of(schema: Any) -> dict[str, Any]:
    """Return a table's metadata about its embeddings; {} if `lrec.retrieve.gallery` did not write it.

    Args:
        schema: the pyarrow schema of a LanceDB table or a Parquet file.
    """
    found: Any = None
    with suppress(ValueError):
        found = json.loads((schema.metadata or {}).get(METADATA, b"null"))
    return found if isinstance(found, dict) else {}


class Parquet:
    """A Parquet file, with one row group per batch."""

    suffix = ".parquet"

    def __init__(self, target: str) -> None:
        self._parquet = package("pyarrow.parquet")
        if "://" in target:
            raise ValueError(f"{target}: not a path; write the file to a disk and copy it there, or use --to lancedb")
        self.path: Path | None = Path(target)

    def found(self) -> Found | None:
        """Return what is there, None if nothing is."""
        if not (self.path.exists() or self.path.is_symlink()):
            return None
        try:
            file = self._parquet.ParquetFile(self.path)
        except (OSError, ValueError):
            return Found({}, 0)
        with file:
            return Found(facts_of(file.schema_arrow), file.metadata.num_rows)

    def write(self, schema: Any, batches: Iterator[Any]) -> None:
        """Write the table; it appears complete or not at all."""
        with (
            files.atomic(self.path) as stream,
            self._parquet.ParquetWriter(stream, schema, use_dictionary=TEXTS[1:]) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)


class LanceDB:
    """A LanceDB table: a folder, or an address such as s3://bucket/folder/name.lance."""

    suffix = ".lance"

    def __init__(self, target: str) -> None:
        self._lancedb = package("lancedb")
        self.path = None if "://" in target else Path(target)
        place, _, file = target.rpartition("/") if self.path is None else (str(self.path.parent), "", self.path.name)
        self._place, self._name = place, file.removesuffix(self.suffix)
        if self.path is None and not re.search("://.", place):
            raise ValueError(f"{target}: found no folder in front of the name, expected such as s3://bucket/name.lance")
        # A name that begins with a dot would be hidden in a folder.
        if not re.fullmatch(r"\w[\w.-]*", self._name, re.ASCII):
            raise ValueError(
                f"{target}: found the name {self._name!r:.80}, expected letters, digits, _ . and - in front of "
                f"{self.suffix}; name another with --output"
            )

    def found(self) -> Found | None:
        """Return what is there, None if nothing is.

        Raises:
            RuntimeError: the address cannot be used.
        """
        if self.path and not (self.path.exists() or self.path.is_symlink()):
            return None
        try:
            table = self._lancedb.connect(self._place).open_table(self._name)
        except (ValueError, RuntimeError) as error:
            if self.path:
                return Found({}, 0)
            if "was not found" in str(error):
                return None
            raise RuntimeError(str(error)) from error
        return Found(facts_of(table.schema), table.count_rows())

    def write(self, schema: Any, batches: Iterator[Any]) -> None:
        """Write the table; it appears complete or not at all.

        At an address, nothing can be renamed; there, LanceDB itself makes a table, or a new version of it, visible only
        when all data are written.
        """
        reader = package("pyarrow").RecordBatchReader.from_batches(schema, batches)
        if self.path is None:
            mode = "overwrite" if self.found() else "create"
            self._lancedb.connect(self._place).create_table(self._name, reader, mode=mode)
            return
        with files.atomic_folder(self.path) as draft:
            self._lancedb.connect(draft).create_table(self._name, reader)
            made = draft / f"{self._name}{self.suffix}"
            for entry in list(made.iterdir()):
                entry.rename(draft / entry.name)
            made.rmdir()


FORMATS: dict[str, Callable[[str], Parquet | LanceDB]] = {"lancedb": LanceDB, "parquet": Parquet}
