"""The project's code has no way to run what is in a file: its syntax trees are searched for every known one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

OURS = ("extract.extract",)
# Modules by name: the project's own registries and commands, and optional dependencies; see the tests below.
BY_NAME = ("lrec/schema.py", "lrec/retrieve/tables.py", "lrec/__main__.py")
ALLOWED = dict.fromkeys(BY_NAME, "importlib.import_module")
FOLDERS = ("lrec", "stages", "benchmarks")
MODULES = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "hickle")
FUNCTIONS = ("eval", "exec", "compile", "__import__", "execfile", "input", "breakpoint")
# Attribute that is called: why it is dangerous whatever its arguments.
ATTRIBUTES = {
    "system": "a shell",
    "popen": "a shell",
    "read_pickle": "pickle",
    "to_pickle": "pickle",
    "extract": "an archive's own paths",
    "extractall": "an archive's own paths",
    "unpack_archive": "an archive's own paths",
    "unsafe_load": "YAML with objects",
    "full_load": "YAML with objects",
    "unsafe_load_all": "YAML with objects",
    "full_load_all": "YAML with objects",
    "loadmat": "a compiled reader that damaged files crash",
    "import_module": "code by name",
    "run_path": "code by path",
    "spec_from_file_location": "code by path",
    "getoutput": "a shell",
    "getstatusoutput": "a shell",
}


def name_of(node: ast.expr) -> str:
    """Return a dotted name as it is written, such as torch.load; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return ""


def keyword(call: ast.Call, name: str) -> object:
    """Return the constant that a keyword is given; a name or an expression counts as its text."""
    for given in call.keywords:
        if given.arg == name:
            return given.value.value if isinstance(given.value, ast.Constant) else ast.unparse(given.value)
    return None


def dangers(source: str) -> Iterator[str]:
    """Yield "line: what" of every dangerous import or call."""
    for node in ast.walk(ast.parse(source)):
        found = ""
        if isinstance(node, ast.Import):
            found = next((alias.name for alias in node.names if alias.name.split(".")[0] in MODULES), "")
        elif isinstance(node, ast.ImportFrom):
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found = (node.module or "") if (node.module or "").split(".")[0] in MODULES else ""
            found = found or next(
                (name for name in sorted(whole) if name in ("torch.load", "yaml.load", "numpy.load")), ""
            )
        elif isinstance(node, ast.Call):
            found = _call(node)
        if found:
            yield f"{node.lineno}: {found}"


def _call(call: ast.Call) -> str:
    name = name_of(call.func)
    last = name.rpartition(".")[2]
    if name in OURS:
        return ""
    if name in FUNCTIONS or (last in ATTRIBUTES and "." in name and not name.startswith("self.")):
        return name
    if name.endswith("torch.load") and keyword(call, "weights_only") is not True:
        return f"{name} without weights_only=True"
    if last in ("load", "save") and keyword(call, "allow_pickle") not in (None, False):
        return f"{name} with allow_pickle"
    if name in ("yaml.load", "yaml.load_all"):
        loader = keyword(call, "Loader") or (ast.unparse(call.args[1]) if len(call.args) > 1 else None)
        if loader not in ("Loader", "yaml.SafeLoader", "yaml.CSafeLoader"):
            return f"{name} with {loader}"
    if keyword(call, "shell") not in (None, False):
        return f"{name} with a shell"
    return ""


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_runs_what_it_reads(root: Path, folder: str) -> None:
    paths = sorted((root / folder).rglob("*.py"))
    assert paths
    found = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        allowed = ALLOWED.get(name, "nothing")
        found += [f"{name}:{line}" for line in dangers(path.read_text(encoding="utf-8")) if not line.endswith(allowed)]
    assert found == []


@pytest.mark.parametrize(
    ("path", "function", "count", "modules"),
    [
        ("lrec/schema.py", "_registered", 5, ("lrec.",)),
        ("lrec/retrieve/tables.py", "package", 3, ("pyarrow", "lancedb")),
        ("lrec/retrieve/gallery.py", "tables.package", 2, ("pyarrow",)),
    ],
)
def test_modules_are_loaded_by_names_that_stand_in_the_code_alone(
    root: Path, path: str, function: str, count: int, modules: tuple[str, ...]
) -> None:
    tree = ast.parse((root / path).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and name_of(node.func) == function]
    assert len(calls) == count
    for call in calls:
        assert all(isinstance(argument, ast.Constant) for argument in call.args)
        assert call.args[0].value.startswith(modules)


def test_commands_are_modules_of_the_project() -> None:
    from lrec.__main__ import COMMANDS

    assert all(module.startswith("lrec.") for module, _, _ in COMMANDS.values())


def test_the_one_loader_of_yaml_is_a_safe_one() -> None:
    import yaml

    from lrec.io import strict_yaml

    assert issubclass(strict_yaml.Loader, yaml.SafeLoader)
    assert not issubclass(strict_yaml.Loader, yaml.FullLoader | yaml.UnsafeLoader)


# Each line must be seen, or the search proves nothing.
EXAMPLES = """
import pickle
import joblib.memory
from marshal import loads
from torch import load
torch.load(path)
torch.load(path, weights_only=False)
torch.load(path, weights_only=trusted)
np.load(path, allow_pickle=True)
np.load(path, allow_pickle=flag)
numpy.save(path, a, allow_pickle=True)
yaml.load(text, Loader=yaml.FullLoader)
yaml.load(text, yaml.UnsafeLoader)
yaml.load(text)
yaml.unsafe_load(text)
eval(text)
exec(text)
os.system(text)
os.popen(text)
subprocess.run(text, shell=True)
subprocess.getoutput(text)
tarfile.open(path).extractall(folder)
archive.extract(name)
shutil.unpack_archive(path)
pd.read_pickle(path)
scipy.io.loadmat(path)
importlib.import_module(name)
""".strip().splitlines()
HARMLESS = """
import json
torch.load(path, map_location="cpu", weights_only=True)
np.load(path)
np.load(path, allow_pickle=False)
yaml.load(text, Loader=Loader)
yaml.safe_load(text)
subprocess.run(["git", "status"], check=True)
subprocess.run(["git"], shell=False)
self.extract(images)
model.eval()
""".strip().splitlines()


@pytest.mark.parametrize("line", EXAMPLES)
def test_each_danger_is_seen(line: str) -> None:
    assert list(dangers(line))


@pytest.mark.parametrize("line", HARMLESS)
def test_the_harmless_is_let_pass(line: str) -> None:
    assert list(dangers(line)) == []
