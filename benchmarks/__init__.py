"""Measurements against named peers: `python -m benchmarks.<name>`.

Waiting threads sleep, as they do in the stages: on a machine that others use too, threads that wait busily
measure the others.
"""

import os

os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY") or "passive"
