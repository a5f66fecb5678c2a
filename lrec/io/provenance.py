"""Provenance of results: a hash of the code, and the time, hardware and commit of the training run.

Time, hardware and commit are stored separately from the pipeline's outputs, which must be byte-identical for
identical inputs.
"""

import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from lrec.io import environment, files, hashing, reading


class Run(TypedDict, total=False):
    """Time, hardware and commit of a training run, as far as known."""

    seconds: Annotated[float, Field(ge=0)]
    device: str
    machine: str
    commit: str | None
    epochs: Annotated[int, Field(ge=0)]


def code_digest(packages: Sequence[str]) -> str:
    """Return a hash of the code of packages of lrec: the paths and bytes of all their modules."""
    root = Path(__file__).resolve().parent.parent
    return hashing.of_files((path for name in packages for path in (root / name).rglob("*.py")), root)


def _commit() -> str | None:
    """Return the current commit, with + if the code or the parameters in the working tree differ from it."""
    try:
        variables = environment.for_git()
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, env=variables)
        differs = ["git", "diff", "--quiet", "HEAD", "--", "lrec", "stages", "params.yaml"]
        changed = subprocess.run(differs, capture_output=True, env=variables)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.returncode else "")


def record(path: Path, settings: dict[str, Any], seconds: float, device: str) -> None:
    """Write the record of a training run: its settings, seconds, device, machine and commit."""
    files.write_json(
        path,
        {
            "settings": settings,
            "seconds": round(seconds, 1),
            "device": device,
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "commit": _commit(),
        },
    )


def find(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record of a training run, without its settings; None if there is none with these settings."""
    if not path.is_file():
        return None
    stored = reading.read_json(path, "train", Run)
    return {key: stored[key] for key in stored if key != "settings"} if stored.get("settings") == settings else None
