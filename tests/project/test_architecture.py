"""Imports point downward only: what is lower knows nothing of what is above it."""

from pathlib import Path

from imports import imported

LEVELS = [
    {
        "__init__",
        "params",
        "files",
        "paths",
        "command",
        "printable",
        "reading",
        "strict_yaml",
        "progress",
        "device",
        "blocks",
        "collective",
        "batch_norm",
        "audit",
        "backbones",
        "schedule",
        "augment",
        "class_names",
        "launch",
        "allocator",
        "threads",
        "recipe",
    },
    {
        "datasets",
        "store",
        "batches",
        "meta_classes",
        "weights",
        "runs",
        "ledger",
        "locks",
        "similarity",
        "unfinished",
        "contact_sheet",
        "paper",
    },
    {"model", "pieces", "average_precision", "search"},
    {"sieve"},
    {"counting", "checkpoint", "validation"},
    {"ranking"},
    {"recall", "embed", "train"},
    {"fit", "task", "tables", "retrieve", "export"},
    {"nearest", "compression", "figures", "examples"},
    {"class_recall", "ensemble_size", "diagram"},
    {"evaluate", "report"},
]


def module(path: str) -> str:
    """lrec/datasets/car.py belongs to datasets, lrec/io/files.py is files."""
    return Path(path).parts[1].removesuffix(".py")


def test_arrows_point_downward(root: Path):
    level = {name: height for height, names in enumerate(LEVELS) for name in names}
    wrong = []
    for path in sorted((root / "lrec").rglob("*.py")):
        own = module(path.relative_to(root).as_posix())
        assert own in level, f"give {own} its place in LEVELS"
        for target in imported(path, root):
            assert not target.startswith("stages/"), f"{path.name} imports {target}"
            if module(target) != own and level[module(target)] > level[own]:
                wrong.append(f"{own} imports {module(target)}")
    assert not wrong


def test_a_stage_imports_no_stage(root: Path):
    for path in (root / "stages").glob("*.py"):
        assert not {target for target in imported(path, root) if target.startswith("stages/")}


def test_every_module_says_what_lives_there(root: Path):
    for folder in ("lrec", "stages", "tests", "benchmarks"):
        for path in (root / folder).rglob("*.py"):
            assert path.read_text(encoding="utf-8").startswith('"""'), path
