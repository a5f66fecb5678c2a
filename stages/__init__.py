"""The pipeline's stages, in order: preprocess, meta_classes, train, embed, evaluate, report.

Each is started by DVC as `python -m stages.<name> <variant> [<backbone>]` from the repository's root.
"""

import os

from lrec.io import environment

environment.clear_for_torch()
# Set before torch loads its threads. A thread that waits for another must not spin: on a machine with
# other work to do, spinning threads keep the core from the very thread they wait for, and a training
# took ten times as long.
os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY") or "passive"
