"""Symbolic links in a data set, which may lead only to its own files or into the project's DVC cache."""

import functools
import os
import subprocess
import sys
from pathlib import Path

from lrec.io import environment


def require_inside(path: Path, home: str) -> None:
    """Refuse a link that leads outside a data set.

    Args:
        path: an existing path.
        home: the data set's folder, with links resolved.

    Raises:
        ValueError: the link leads outside, and not into the project's DVC cache.
    """
    real = os.path.realpath(path)
    if os.path.commonpath([real, home]) != home and not _is_cached(real):
        raise ValueError(
            f"{path}: a symbolic link to {real}, expected it to stay inside {home}; "
            "copy the files, or make the data set's whole folder the link"
        )


def _is_cached(real: str) -> bool:
    """Return whether a file is in this project's DVC cache, to which `dvc checkout` may link a data set's files."""
    cache = _cache(os.getcwd())
    return bool(cache) and os.path.commonpath([real, cache]) == cache


@functools.cache
def _cache(project: str) -> str:
    """Return the folder of a project's DVC cache, as reported by DVC; empty if there is none."""
    if not os.path.isdir(os.path.join(project, ".dvc")):
        return ""
    asked = [sys.executable, "-m", "dvc", "cache", "dir"]
    variables = environment.for_git()
    done = subprocess.run(asked, cwd=project, capture_output=True, text=True, check=False, env=variables)
    lines = done.stdout.strip().splitlines()
    return os.path.realpath(os.path.join(project, lines[-1])) if done.returncode == 0 and lines else ""
