"""The pipeline's stages, in order: preprocess, meta_classes, train, embed, evaluate, report.

Each is started by DVC as `python -m stages.<name> <variant> [<backbone>]` from the repository's root.
"""

import os

# Set before torch starts its threads. A thread that waits for another must not spin: on a busy machine, spinning
# threads occupy the core that the other thread needs. Training took ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
