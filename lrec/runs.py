"""What is not the same twice about a run: how long it took, on what, from which commit.

Kept apart from the pipeline's outputs, whose bytes must be the same for the same inputs.
"""

import platform
import subprocess
from pathlib import Path
from typing import Any

from lrec import files


def _commit() -> str | None:
    """Return the commit that is checked out, with + when tracked code or parameters differ from it."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "diff", "--quiet", "HEAD", "--", "lrec", "stages", "params.yaml"], capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.returncode else "")


def record(path: Path, settings: dict[str, Any], seconds: float, device: str) -> None:
    """Write a training's record: its settings, seconds, device, machine and commit."""
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
    """Return the record of the training with these settings, without them, or None when there is none here."""
    if not path.is_file():
        return None
    found = files.read_json(path, "train")
    return {key: found[key] for key in found if key != "settings"} if found.get("settings") == settings else None
