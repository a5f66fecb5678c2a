"""Measurements against baselines: `python -m benchmarks.<name>`.

Waiting threads sleep instead of spinning, as in the stages. On a shared machine, the times of spinning threads would
depend on other programs.
"""

import os

from lrec.io import environment

environment.clear_for_torch()
os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY") or "passive"
