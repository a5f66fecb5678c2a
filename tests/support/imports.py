"""Finds the modules of the project that a file imports, from its syntax tree."""

import ast
from pathlib import Path


def imported(path: Path, root: Path) -> set[str]:
    """Return the project's files that a file imports directly, relative to the root."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] in ("lrec", "stages"):
                # Importing a module runs the __init__ of every package around it.
                found |= {_file(parts[:depth], root) for depth in range(1, len(parts) + 1)}
    return found - {""}


def _file(parts: list[str], root: Path) -> str:
    path = Path(*parts)
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (root / candidate).is_file():
            return candidate.as_posix()
    return ""


def closure(path: str, root: Path) -> set[str]:
    """Return all files of the project that are loaded when a file is run, including itself."""
    todo, done = {path, f"{Path(path).parent.as_posix()}/__init__.py"}, set()
    while todo:
        current = todo.pop()
        done.add(current)
        todo |= imported(root / current, root) - done
    return done
