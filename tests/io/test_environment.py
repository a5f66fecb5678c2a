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
# What other programs leave behind, and shells set to nothing.
SETTINGS = [
    {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    {"MPLBACKEND": "nonsense", "MPLCONFIGDIR": "/nonexistent"},
    {"WORLD_SIZE": "4"},
    {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "23456"},
    {"RANK": "x", "WORLD_SIZE": "two", "LOCAL_RANK": "-"},
    {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent", "TORCH_HOME": "/nonexistent"},
    {"LC_ALL": "C", "LANG": "xx_YY", "PYTHONIOENCODING": "ascii"},
    {"TQDM_MININTERVAL": "", "TQDM_DISABLE": "", "TQDM_NCOLS": "many", "COLUMNS": "many", "TERM": ""},
    {"PYTHONWARNINGS": "error", "PYTHONSAFEPATH": "1", "TORCHELASTIC_RUN_ID": "none", "COLUMNS": "1", "TZ": "nonsense"},
    {"LREC_DEBUG": "0", "OMP_NUM_THREADS": "", "OMP_WAIT_POLICY": "", "CUBLAS_WORKSPACE_CONFIG": ""},
    dict.fromkeys(
        ("MPLBACKEND", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"), ""
    ),
    dict.fromkeys(("HOME", "TMPDIR", "LC_ALL", "LANG", "LREC_DEBUG", "LREC_DATA", "PATH", "TERM", "PYTHONUTF8"), ""),
]


def run(root: Path, program: str, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in (os.environ | settings).items() if name != "PYTHONUTF8" or value}
    variables |= {"PYTHONPATH": str(root)}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=variables, timeout=300)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: " ".join(settings))
def test_settings_of_other_programs_are_ignored(root: Path, settings: dict[str, str]):
    done = run(root, EVERYTHING, settings)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: as expected"
    assert "Traceback" not in done.stderr


def test_names_that_would_be_read_as_others_are_refused(root: Path):
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run(root, EVERYTHING, settings)
    line = (
        "error: LC_ALL=C, PYTHONUTF8=0, PYTHONCOERCECLOCALE=0: names of files would be read as ascii, expected UTF-8;"
    )
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
