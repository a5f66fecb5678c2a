"""Symbolic links in a data set: they may lead to its own files and into the project's DVC cache, and nowhere else."""

import functools
import os
import subprocess
import sys
from pathlib import Path

from lrec.io import environment


def require_inside(path: Path, home: str) -> None:
    """Refuse a link that leads out of a data set.

    Args:
        path: that exists.
        home: the data set's folder, without links in it.

    Raises:
        ValueError: it leads out, and not into the project's DVC cache.
    """
    real = os.path.realpath(path)
    if os.path.commonpath([real, home]) != home and not _is_cached(real):
        raise ValueError(
            f"{path}: a symbolic link to {real}, expected it to stay inside {home}; "
            "copy the files, or make the data set's whole folder the link"
        )


def _is_cached(real: str) -> bool:
    """Whether a file lies in this project's DVC cache, into which `dvc checkout` may link the files of a data set."""
    cache = _cache(os.getcwd())
    return bool(cache) and os.path.commonpath([real, cache]) == cache


@functools.cache
def _cache(project: str) -> str:
    """The folder of a project's DVC cache, as DVC itself says; empty where there is none."""
    if not os.path.isdir(os.path.join(project, ".dvc")):
        return ""
    asked = [sys.executable, "-m", "dvc", "cache", "dir"]
    variables = environment.for_git()
    done = subprocess.run(asked, cwd=project, capture_output=True, text=True, check=False, env=variables)
    lines = done.stdout.strip().splitlines()
    return os.path.realpath(os.path.join(project, lines[-1])) if done.returncode == 0 and lines else ""
