"""Databases for tests of exported tables, which other programs read; tests are skipped if these are not installed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lrec.retrieve import Database

pq = pytest.importorskip("pyarrow.parquet", reason="optional: pip install -r requirements-extra.txt")
lancedb = pytest.importorskip("lancedb", reason="optional: pip install -r requirements-extra.txt")

SUFFIX = {"lancedb": ".lance", "parquet": ".parquet"}


def read(form: str, target: str | Path):
    """Return the schema and the columns of a table, as read by another program."""
    if form == "parquet":
        table = pq.read_table(target)
    else:
        table = lancedb.connect(Path(target).parent).open_table(Path(target).stem).to_arrow()
    return table.schema, {name: table[name].to_pylist() for name in table.column_names}


def make(rows: int = 5, width: int = 3, names: list[str] | None = None, dtype: type = np.float32) -> Database:
    names = names or [f"{row}.png" for row in range(rows)]
    embeddings = np.random.default_rng(0).normal(size=(len(names), width)).astype(dtype)
    index = pd.DataFrame({"path": names, "class": names[::-1], "row": -1}, dtype=object)
    return Database(embeddings, index, {})
