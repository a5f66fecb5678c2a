"""Search with any image: `Database` in Python, python -m lrec.retrieve on the command line."""

from lrec.retrieve.database import Database

__all__ = ["Database"]
