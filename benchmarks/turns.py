"""Runs each compared method in its own process, so that none affects another's memory or settings.

On a CPU the methods take turns, so that other programs slow all of them equally. On a GPU they run one after another,
so that each can use all of the memory.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

import torch

from lrec.io.errors import OUT_OF_MEMORY

NO_MEMORY = "out of memory"


class Worker:
    """A process that does its work once for every line that it reads, and answers with a line of numbers."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Start `python -m arguments`."""
        self.command = [sys.executable, "-m", *arguments]
        self.process = subprocess.Popen(self.command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def turn(self) -> list[float] | None:
        """Let the process do its work once; return its answer, None if memory ran out.

        Raises:
            ChildProcessError: the process has ended for another reason.
        """
        with contextlib.suppress(BrokenPipeError):  # it may have ended after reporting the reason
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise ChildProcessError(f"{' '.join(self.command)}: ended without an answer")
        return None if NO_MEMORY in line else [float(value) for value in line.split()]

    def end(self) -> None:
        """Let the process end, and wait for it."""
        with contextlib.suppress(BrokenPipeError):  # it may have ended already
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def take(
    ways: Mapping[str, Sequence[str]], rounds: int, in_turns: bool, between: Callable[[], None] = lambda: None
) -> dict[str, list[list[float]] | None]:
    """Let every method do its work several times; return the answers by name, None if a method's memory ran out.

    Args:
        ways: names and arguments of the workers, see `Worker`.
        rounds: number of repetitions.
        in_turns: all workers run, and each does its work once per round; otherwise each ends before the next starts.
        between: called before each round.
    """
    found: dict[str, list[list[float]] | None] = {name: [] for name in ways}
    for group in [list(ways)] if in_turns else [[name] for name in ways]:
        workers = {name: Worker(ways[name]) for name in group}
        for _ in range(rounds):
            between()
            for name, worker in workers.items():
                answer = worker.turn() if found[name] is not None else None
                found[name] = None if answer is None else [*(found[name] or []), answer]
        for worker in workers.values():
            worker.end()
    return found


def ran_out(error: Exception) -> bool:
    """Return whether an error means that memory ran out."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in OUT_OF_MEMORY)


def answering(work: Callable[[], None]) -> None:
    """Do a worker's work; if memory runs out, answer with `NO_MEMORY`."""
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        print(NO_MEMORY, flush=True)


def wait(device: str) -> None:
    """Wait until a GPU has finished its work; on a CPU, return immediately."""
    if torch.device(device).type != "cpu":
        torch.cuda.synchronize(device)
