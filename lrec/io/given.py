"""Finds the settings that were changed for this run, compared with the last commit and the last run in dvc.lock."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lrec.io import environment, strict_yaml


class Loader(strict_yaml.Loader):
    """Reads scalars as in params.yaml, without the limit on size, since dvc.lock may be of any size."""

    get_single_node = yaml.SafeLoader.get_single_node


def changed(values: Mapping[str, Any], section: str, stage: str) -> list[str]:
    """Return the keys of a section of params.yaml whose values differ from the last commit's or the last run's.

    Args:
        values: the section's current values.
        section: its name, such as train or variants.glyphs; empty for the whole file.
        stage: the stage's name in dvc.lock.

    Returns:
        Keys in the order of `values`; empty if there is neither a commit nor an earlier run.
    """
    recorded = [_inner(_committed(), section), _inner(_locked(stage), section)]
    before = [old for old in recorded if isinstance(old, dict)]
    return [key for key, value in values.items() if any(key in old and old[key] != value for old in before)]


def _inner(values: Any, section: str) -> Any:
    """Return a section of the parameters, None if there is no such section."""
    for key in section.split(".") if section else ():
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _committed() -> dict[str, Any]:
    """Return params.yaml of the current commit; empty without one."""
    try:
        asked = ["git", "show", "HEAD:./params.yaml"]
        shown = subprocess.run(asked, capture_output=True, check=True, env=environment.for_git())
    except (OSError, subprocess.CalledProcessError):
        return {}
    return _mapping(shown.stdout)


def _locked(stage: str) -> dict[str, Any]:
    """Return the parameters of a stage's last run; empty without one."""
    path = Path("dvc.lock")
    found = _mapping(path.read_bytes()) if path.is_file() else {}
    for key in ("stages", stage, "params", "params.yaml"):
        found = found.get(key)
        if not isinstance(found, dict):
            return {}
    return found


def _mapping(content: bytes) -> dict[str, Any]:
    """Parse YAML; return an empty mapping if it is unreadable or not a mapping."""
    try:
        found = yaml.load(content, Loader=Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
