"""Where a result came from: the code and data behind it, and what is not the same twice about a run.

Time, hardware and commit are kept apart from the pipeline's outputs, whose bytes must be the same for
the same inputs.
"""

import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from lrec import files, reading


class Run(TypedDict, total=False):
    """Time, hardware and commit of a training, as far as they are known."""

    seconds: Annotated[float, Field(ge=0)]
    device: str
    machine: str
    commit: str | None
    epochs: Annotated[int, Field(ge=1)]


def digest(paths: Iterable[Path]) -> str:
    """Return 16 hexadecimal digits of a SHA-256 over the names and bytes of files, in any order."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.name} {files.digest(path)}\n".encode())
    return total.hexdigest()[:16]


def code_digest() -> str:
    """Return the digest of the project's modules that this process has loaded."""
    root = Path(__file__).resolve().parent.parent
    loaded = {
        Path(module.__file__).resolve() for module in list(sys.modules.values()) if getattr(module, "__file__", "")
    }
    return digest(path for path in loaded if path.is_relative_to(root) and path.suffix == ".py" and _ours(path, root))


def _ours(path: Path, root: Path) -> bool:
    """Whether a file belongs to the project, and not to a virtual environment inside its folder."""
    return path.relative_to(root).parts[0] in ("lrec", "stages")


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
    found = reading.read_json(path, "train", Run)
    return {key: found[key] for key in found if key != "settings"} if found.get("settings") == settings else None
