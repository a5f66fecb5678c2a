"""Which settings were given for this run: those that are not what git or DVC recorded last."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lrec.io import strict_yaml


class Loader(strict_yaml.Loader):
    """Scalars as params.yaml has them; dvc.lock may be of any size."""

    get_single_node = yaml.SafeLoader.get_single_node


def changed(values: Mapping[str, Any], section: str, stage: str) -> list[str]:
    """Return the keys of a section of params.yaml whose values differ from the last commit's or the last run's.

    Args:
        values: of the section, as they are now.
        section: its name.
        stage: as dvc.lock names it.

    Returns:
        Keys in the order of `values`; none where there is neither a commit nor an earlier run.
    """
    recorded = [_committed().get(section), _locked(stage).get(section)]
    before = [old for old in recorded if isinstance(old, dict)]
    return [key for key, value in values.items() if any(key in old and old[key] != value for old in before)]


def _committed() -> dict[str, Any]:
    """params.yaml as the commit has it that is checked out."""
    try:
        shown = subprocess.run(["git", "show", "HEAD:./params.yaml"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return _mapping(shown.stdout)


def _locked(stage: str) -> dict[str, Any]:
    """The parameters of a stage's last run."""
    path = Path("dvc.lock")
    found = _mapping(path.read_bytes()) if path.is_file() else {}
    for key in ("stages", stage, "params", "params.yaml"):
        found = found.get(key)
        if not isinstance(found, dict):
            return {}
    return found


def _mapping(content: bytes) -> dict[str, Any]:
    """What YAML holds, if it is a mapping; a record that cannot be read says nothing."""
    try:
        found = yaml.load(content, Loader=Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
