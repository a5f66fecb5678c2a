"""Search with any image: `Database` and `Encoder` in Python, python -m lrec.retrieve on the command line."""

from lrec.io import environment

environment.clear_for_torch()

from lrec.retrieve.database import Database
from lrec.retrieve.encoder import Encoder

__all__ = ["Database", "Encoder"]
