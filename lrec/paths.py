"""Paths of each stage's outputs, relative to the repository's root.

The names of variants and backbones become names of folders. A ValueError is raised if a name has a slash, a leading
dot or another character that names in the pipeline cannot have.
"""

import re
from pathlib import Path

LEDGER = Path("metrics/benchmarks.json")
TABLES = Path("metrics/benchmarks.md")
RECALL = Path("metrics/recall.json")
README = Path("README.md")
REFERENCE = Path("data/reference")
RESULTS, HISTORY, EMBEDDINGS = Path("results"), Path("history"), Path("embeddings")
EXAMPLES = "examples.json"  # in the folder of examples
REPORT = Path("report/index.html")
ARCHITECTURE = Path("data/architecture.png")


def _part(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise ValueError(
            f"{name!r:.120}: not a name of a variant or backbone, expected letters, digits, _ . and -; "
            "use a name from params.yaml"
        )
    return name


def store(variant: str) -> Path:
    """Return the folder of a packed store."""
    return Path("data/processed") / _part(variant)


def meta_classes(variant: str) -> Path:
    """Return the CSV of a variant's meta classes."""
    return Path("data/meta_classes") / f"{_part(variant)}.csv"


def model(variant: str, backbone: str) -> Path:
    """Return the folder of a trained ensemble."""
    return Path("models") / _part(variant) / _part(backbone)


def history(variant: str, backbone: str) -> Path:
    """Return the CSV of the epochs of a training run."""
    return HISTORY / _part(variant) / f"{_part(backbone)}.csv"


def embeddings(variant: str, backbone: str) -> Path:
    """Return the folder of a run's embeddings."""
    return EMBEDDINGS / _part(variant) / _part(backbone)


def embedding_facts(variant: str, backbone: str) -> Path:
    """Return the JSON with the facts of a run's embeddings and the result of the batch-independence check."""
    return embeddings(variant, backbone) / "embedding.json"


def reduction(variant: str, backbone: str) -> Path:
    """Return the file with the reduction of a run's embeddings; it exists only if they are reduced."""
    return embeddings(variant, backbone) / "reduction.safetensors"


def unfinished(stage: str, variant: str, backbone: str) -> Path:
    """Return the folder of a stage's unfinished work on a run; git and DVC ignore it."""
    return Path(".lrec") / stage / _part(variant) / _part(backbone)


def results(variant: str, backbone: str) -> Path:
    """Return the folder of a run's results: result.json and several tables."""
    return RESULTS / _part(variant) / _part(backbone)


def result(variant: str, backbone: str) -> Path:
    """Return the JSON with all metrics of a run."""
    return results(variant, backbone) / "result.json"


def examples(variant: str, backbone: str) -> Path:
    """Return the folder of a run's example queries."""
    return results(variant, backbone) / "examples"


def figure(name: str) -> Path:
    """Return the figure that compares LREC with published methods."""
    return Path("data") / f"{name}.png"


def run_record(variant: str, backbone: str) -> Path:
    """Return the JSON with the time, hardware and commit of a run's training; git and DVC ignore it."""
    return Path("logs") / _part(variant) / f"{_part(backbone)}.json"
