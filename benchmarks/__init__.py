"""Measurements against baselines: `python -m benchmarks.<name>`.

Waiting threads sleep, as they do in the stages: on a shared machine, times of threads that spin while they wait
depend on the other programs.
"""

import os

from lrec.io import environment

environment.clear_for_torch()
os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY") or "passive"
