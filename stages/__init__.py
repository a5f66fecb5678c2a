"""The pipeline's stages, in order: preprocess, meta_classes, train, embed, evaluate, report.

DVC starts each as `python -m stages.<name> <variant> [<backbone>]` in the repository's root.
"""

import os

from lrec.io import environment

environment.clear_for_torch()
# Set before torch starts its threads, so that waiting threads do not spin. On a busy machine, spinning threads
# occupy the cores that the other threads need; a training run took ten times as long.
os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY") or "passive"
