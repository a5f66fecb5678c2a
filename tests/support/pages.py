"""The pages that people read, relative to the repository's root."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "metrics/benchmarks.md",
    "tests/README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
