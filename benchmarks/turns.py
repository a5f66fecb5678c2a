"""Methods that are compared, each in a process of its own; they take turns while the others wait.

So they affect neither each other's memory nor each other's settings.
"""

import subprocess
import sys
from collections.abc import Sequence


class Worker:
    """A process that does its work once for every line it reads, and answers with a line of numbers."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Start `python -m arguments`."""
        command = [sys.executable, "-m", *arguments]
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def turn(self) -> list[float]:
        """Let it do its work once; return its answer."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return [float(value) for value in self.process.stdout.readline().split()]

    def end(self) -> None:
        """Let the process go."""
        self.process.stdin.close()
        self.process.wait()
