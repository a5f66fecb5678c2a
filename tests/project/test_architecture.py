"""Which package may import which, that stages import no stage, and that the tree explains itself.

schema.py looks the names of layouts, backbones, kinds and losses up by module name when a file is checked; that
is no import, so that a stage does not depend on every registry.
"""

import ast
from pathlib import Path

from imports import imported

# Package or module of lrec: what of lrec it may import, beside itself.
ARROWS = {
    "__main__": "",  # imports the module of a command when it is run
    "io": "",
    "compute": "",
    "paths": "",
    "reference": "",
    "schema": "",
    "params": "io schema",
    "class_names": "io",
    "data": "io",
    "datasets": "io",
    "model": "io",
    "metrics": "compute",
    "training": "model data compute io",
    "embedding": "model data compute io",
    "evaluation": "embedding metrics data io paths",
    "report": "model io reference class_names",
    "export": "evaluation embedding data model io paths",
    "retrieve": "io compute paths schema params class_names data datasets model embedding metrics",
}
# The commands of a package read params.yaml, whatever the package may import.
COMMANDS = {"lrec/datasets/__main__.py": "params schema"}


def room(path: str) -> str:
    """lrec/datasets/car.py belongs to datasets, lrec/paths.py is paths."""
    return Path(path).parts[1].removesuffix(".py")


def test_arrows_between_packages(root: Path):
    wrong = []
    for path in sorted((root / "lrec").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name == "lrec/__init__.py":
            continue
        own = room(name)
        assert own in ARROWS, f"give {own} its line in ARROWS"
        allowed = {own, "__init__", *ARROWS[own].split(), *COMMANDS.get(name, "").split()}
        for target in imported(path, root):
            assert not target.startswith("stages/"), f"{name} imports {target}"
            if room(target) not in allowed:
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_a_stage_imports_no_stage(root: Path):
    for path in (root / "stages").glob("*.py"):
        assert not {target for target in imported(path, root) if target == f"stages/{Path(target).name}"} - {
            "stages/__init__.py"
        }


def test_torchvision_is_imported_where_it_is_used(root: Path):
    """It takes as long to import as torch, and most commands build no network."""
    for path in [*(root / "lrec").rglob("*.py"), *(root / "stages").glob("*.py")]:
        top = ast.parse(path.read_text(encoding="utf-8")).body
        names = [a.name for node in top if isinstance(node, ast.Import) for a in node.names]
        names += [node.module or "" for node in top if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if name.startswith("torchvision")], path


def test_every_module_says_what_lives_there(root: Path):
    for folder in ("lrec", "stages", "tests", "benchmarks"):
        for path in (root / folder).rglob("*.py"):
            assert path.read_text(encoding="utf-8").startswith('"""'), path


def test_what_no_stage_lists_as_a_dependency_holds_a_docstring_alone(root: Path):
    assert len(ast.parse((root / "lrec/__init__.py").read_text(encoding="utf-8")).body) == 1


def test_the_tree_is_read_at_a_glance(root: Path):
    rooms = [path for path in (root / "lrec").iterdir() if path.is_dir() and path.name != "__pycache__"]
    modules = [path for path in (root / "lrec").glob("*.py") if path.name != "__init__.py"]
    assert len(rooms) <= 11
    assert len(modules) <= 7


def parameters(function: ast.FunctionDef) -> int:
    named = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([argument for argument in named if argument.arg not in ("self", "cls")])


def test_no_function_takes_more_than_eight_parameters(root: Path):
    wide = [
        f"{path.relative_to(root)}: {node.name}"
        for folder in ("lrec", "stages")
        for path in sorted((root / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and parameters(node) > 8
    ]
    assert not wide
