"""Variables that notebooks, launchers and shells set stop nothing, or one line names them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import checkout
import pytest

from lrec import export
from lrec.compute import collective
from lrec.datasets import __main__ as datasets
from lrec.io import command, environment, given, provenance
from lrec.retrieve import __main__ as retrieve

EVERYTHING = """
import os, sys
from lrec.io import command
import lrec.retrieve, lrec.report.page, lrec.report.diagram, lrec.datasets.check
import stages.train, stages.report

def work():
    raise ValueError("as expected")

sys.exit(command.guard(work))
"""
# What other programs leave behind, and shells set to nothing; those that do not exclude one another at a time.
NOWHERE = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCH_HOME"), "/nonexistent")
SETTINGS = {
    "of a notebook": {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        **{"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "23456"},
        **NOWHERE,
        **{"LC_ALL": "C", "LANG": "xx_YY", "PYTHONIOENCODING": "ascii"},
        **{"TQDM_MININTERVAL": "", "TQDM_DISABLE": "", "TQDM_NCOLS": "many", "COLUMNS": "many", "TERM": ""},
    },
    "nonsense": {
        **{"MPLBACKEND": "nonsense", "MPLCONFIGDIR": "/nonexistent"},
        **{"RANK": "x", "WORLD_SIZE": "two", "LOCAL_RANK": "-"},
        **{"TORCH_DISTRIBUTED_DEBUG": "nonsense", "PYTORCH_ALLOC_CONF": "nonsense", "PYTORCH_CUDA_ALLOC_CONF": "a:1,"},
    },
    "strict": {
        **{"PYTHONWARNINGS": "error", "PYTHONSAFEPATH": "1", "COLUMNS": "1", "TZ": "nonsense"},
        **{"WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "none"},
        **{"LREC_DEBUG": "0", "OMP_NUM_THREADS": "", "OMP_WAIT_POLICY": "", "CUBLAS_WORKSPACE_CONFIG": ""},
    },
    "nothing": dict.fromkeys(
        """MPLBACKEND RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR TORCHELASTIC_RUN_ID HOME TMPDIR LC_ALL
        LANG LREC_DEBUG LREC_DATA PATH TERM PYTHONUTF8 TORCH_DISTRIBUTED_DEBUG TORCH_LOGS TORCH_COMPILE_DEBUG
        TORCHINDUCTOR_COMPILE_THREADS""".split(),
        "",
    ),
}


def run(root: Path, program: str, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in (os.environ | settings).items() if name != "PYTHONUTF8" or value}
    variables |= {"PYTHONPATH": str(root)}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=variables, timeout=300)


@pytest.mark.parametrize(
    "name",
    ["nothing", "strict", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nonsense", "of a notebook"))],
)
def test_settings_of_other_programs_are_ignored(root: Path, name: str):
    done = run(root, EVERYTHING, SETTINGS[name])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: as expected"
    assert "Traceback" not in done.stderr


def test_names_that_would_be_read_as_others_are_refused(root: Path):
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run(root, EVERYTHING, settings)
    line = "error: LC_ALL=C, PYTHONUTF8=0, PYTHONCOERCECLOCALE=0: file names would be read as ascii, expected UTF-8;"
    assert line.split(":")[0] in done.stderr
    assert "would be read as" in done.stderr
    assert done.stderr.strip().endswith("set PYTHONUTF8=1")
    assert done.returncode == 1


def test_only_torchrun_starts_processes_of_one_job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert (collective.started(), collective.rank(), collective.count()) == (False, 0, 1)
    assert environment.rank() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    assert (collective.started(), collective.rank(), collective.count()) == (True, 1, 2)

    def fail() -> None:
        raise ValueError("no")

    assert command.guard(fail) == 1
    assert capsys.readouterr().err == "process 1: error: no\n"


@pytest.mark.parametrize("value", ["", "0", "false", "No", " off "])
def test_debug_can_be_said_to_be_off(value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def fail() -> None:
        raise ValueError("no")

    monkeypatch.setenv("LREC_DEBUG", value)
    assert command.guard(fail) == 1
    assert capsys.readouterr().err == "error: no\n"
    assert os.environ["LREC_DEBUG"] == value


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
def test_a_variable_of_torchrun_that_a_shell_has_kept_starts_nothing(monkeypatch: pytest.MonkeyPatch, name: str):
    for other in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(other, "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    assert collective.started()
    monkeypatch.delenv(name)
    assert (collective.started(), collective.rank(), collective.count()) == (False, 0, 1)


def test_gits_hooks_name_another_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A hook of one repository starts a pipeline in another."""
    for name in ("other", "own"):
        (tmp_path / name).mkdir()
        checkout.call(tmp_path / name, "git", "init", "--quiet")
        (tmp_path / name / "params.yaml").write_text(f"train: {{seed: {len(name)}}}\n")
        checkout.commit(tmp_path / name, name)
    expected = checkout.call(tmp_path / "own", "git", "rev-parse", "HEAD").strip()
    monkeypatch.chdir(tmp_path / "own")
    for name, value in {"GIT_DIR": ".git", "GIT_WORK_TREE": ".", "GIT_INDEX_FILE": ".git/index"}.items():
        monkeypatch.setenv(name, str(tmp_path / "other" / value))
    assert given.changed({"seed": 3}, "train", "train@a-b") == []
    provenance.record(tmp_path / "run.json", {}, 1.0, "CPU")
    assert json.loads((tmp_path / "run.json").read_text())["commit"] == expected


@pytest.mark.parametrize("module", [export, retrieve, datasets])
def test_help_without_docstrings(module: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """As PYTHONOPTIMIZE=2 leaves them out; the terminal is as narrow as can be said."""
    monkeypatch.setattr(module, "__doc__", None)
    monkeypatch.setattr(sys, "argv", ["tool", "--help"])
    monkeypatch.setenv("COLUMNS", "1")
    with pytest.raises(SystemExit, match="^0$"):
        module.main()


def test_hidden_variables_come_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with environment.without("TQDM_"):
        assert "TQDM_DISABLE" not in os.environ
    assert os.environ["TQDM_DISABLE"] == "1"


def test_what_stops_the_import_of_torch_is_removed_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    kept = {
        "PYTORCH_ALLOC_CONF": "backend:native,roundup_power2_divisions:[256:1,>:8], max_split_size_mb:64",
        "TORCH_DISTRIBUTED_DEBUG": "detail",
        "TORCH_HOME": "/weights",
    }
    for name, value in {**kept, "TORCH_LOGS": "", "PYTORCH_CUDA_ALLOC_CONF": "no\x1bnsense"}.items():
        monkeypatch.setenv(name, value)
    environment.clear_for_torch()
    assert {name: os.environ.get(name) for name in kept} == kept
    assert not {"TORCH_LOGS", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys()
    line = "WARNING: PYTORCH_CUDA_ALLOC_CONF=no\\x1bnsense: ignored, expected key:value, separated by commas; "
    assert capsys.readouterr().err == line + "correct it or unset it\n"


IMPORTS = """
import importlib, os, sys

class Reached(Exception):
    pass

class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            raise Reached

sys.meta_path.insert(0, Finder())
for name in sys.argv[1:]:
    os.environ["TORCH_DISTRIBUTED_DEBUG"] = ""
    try:
        importlib.import_module(name)
    except Reached:
        print(name, "TORCH_DISTRIBUTED_DEBUG" in os.environ)
    for module in [module for module in sys.modules if module.startswith(("lrec", "stages", "benchmarks"))]:
        del sys.modules[module]
"""


def test_every_tool_clears_the_variables_before_it_imports_torch(root: Path):
    tools = ["lrec.export", "lrec.retrieve.gallery", "stages.train", "benchmarks.recall"]
    done = subprocess.run([sys.executable, "-c", IMPORTS, *tools], cwd=root, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{tool} False" for tool in tools], done.stderr


def test_a_safe_path_needs_the_name_of_the_folder(root: Path):
    """As docs/reliability.md says: Python itself ends before anything of the project runs."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "stages.preprocess", "nope"]
    for more, line in (({}, "No module named 'stages'"), ({"PYTHONPATH": "."}, "unknown variant 'nope'")):
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=own | more)
        assert done.returncode == 1
        assert line in done.stderr
