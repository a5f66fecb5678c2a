"""Starts the processes of one training run with torchrun's launcher."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from uuid import uuid4

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def number(processes: int | str) -> int:
    """Return the number of processes for a parameter: itself, or for "gpu" one per GPU (one without GPUs)."""
    return max(1, torch.cuda.device_count()) if processes == "gpu" else int(processes)


def run(module: str, arguments: Sequence[str], processes: int) -> None:
    """Run `python -m module arguments` in several processes on this machine and wait for them.

    The CPU cores are divided among them. If one fails, the launcher terminates the others.

    Raises:
        ChildProcessError: one failed; the message says which, and how.
        KeyboardInterrupt: interrupted. Any other terminating signal ends the processes, then this one.
    """
    if not os.environ.get("OMP_NUM_THREADS"):
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    # The launcher's own log is a longer version of the error message below.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
        local_addr="localhost",
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        # A terminated process may have left a progress bar without a newline.
        print(file=sys.stderr)
        # Report the root cause, not a process that lost its connection or that the launcher terminated.
        rank, failure = min(error.failures.items(), key=lambda item: _lateness(item[1].exitcode))
        how = f"was lost ({failure.signal_name()})" if failure.exitcode < 0 else "failed (see its error above)"
        raise ChildProcessError(
            f"process {rank} of {processes} {how}; the others were terminated; the last checkpoint is kept: run again"
        ) from error
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        signal.signal(error.sigval, signal.SIG_DFL)
        signal.raise_signal(error.sigval)


def _lateness(exitcode: int) -> int:
    """Order failures: killed by a signal, ended with an error, terminated by the launcher."""
    return 2 if exitcode == -signal.SIGTERM else int(exitcode > 0)
