"""Claims keep two processes from one output, name the holder, and end with their process."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lrec.io import files, locks

HOLD = """
import sys, time
from pathlib import Path
from lrec.io import files, locks
with locks.held(*([Path(p) for p in some.split(",") if p] for some in sys.argv[1:3])):
    with files.atomic_folder(Path("models/a")) as draft:
        (draft / "half").write_text("half")
        print("held", flush=True)
        time.sleep(600)
"""
Holder = Callable[..., subprocess.Popen]


@pytest.fixture
def holder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Holder]:
    """Start a process that claims paths and is in the middle of writing models/a."""
    monkeypatch.chdir(tmp_path)
    started = []

    def start(writes: str, reads: str = "", **variables: str) -> subprocess.Popen:
        environment = os.environ | {"PYTHONPATH": str(root)} | variables
        command = [sys.executable, "-c", HOLD, writes, reads]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("writes", "reads", "doing"),
    [
        (["models/a"], [], "writing"),
        (["models/a/b"], [], "writing"),
        (["models"], [], "writing"),
        ([], ["models/a"], "writing"),
        (["data/x"], [], "reading"),
    ],
)
def test_the_holder_is_named(holder: Holder, writes: list[str], reads: list[str], doing: str):
    other = holder("models/a", "data/x")
    message = rf"^{(writes + reads)[0]}: process {other.pid} \(python -c .*\) is {doing} it; .*kill {other.pid}"
    with pytest.raises(ValueError, match=f"(?s){message}"), locks.held(map(Path, writes), map(Path, reads)):
        pytest.fail("both are in")


def test_one_that_is_stopped_while_it_makes_its_claim_is_named(holder: Holder, monkeypatch: pytest.MonkeyPatch):
    """Its claim is not known yet, so others are refused after a time; they do not wait for ever."""
    other = holder("models/a")
    with (locks.FOLDER / "lock").open("r+") as door:
        assert door.read().startswith(f"process {other.pid} on ")
        fcntl.flock(door, fcntl.LOCK_EX)
        monkeypatch.setattr(locks, "PATIENCE", 0.2)
        message = rf"held for 0 s by process {other.pid} on .* \(python -c .*expected a moment;.*kill -CONT"
        with pytest.raises(ValueError, match=f"(?s){message}"), locks.held([Path("models/b")]):
            pytest.fail("it did not wait for its turn")
    with locks.held([Path("models/b")]):
        assert (locks.FOLDER / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_command_line_in_no_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "orig_argv", ["python", "out\udcff"])
    with locks.held([Path("models/a")]):
        assert (locks.FOLDER / "lock").read_bytes().endswith(b"(python out\\udcff)")


def test_claims_that_were_cleared_away_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with locks.held([Path("models/a")]):
        shutil.rmtree(locks.FOLDER.parent)
    assert not locks.FOLDER.exists()


def test_work_on_other_paths_goes_on(holder: Holder):
    holder("models/a", "data/x")
    with locks.held([Path("models/ab"), Path("models/b")], [Path("data/x")]):
        assert len(list(locks.FOLDER.glob("*.json"))) == 2
    assert len(list(locks.FOLDER.glob("*.json"))) == 1


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_claim_ends_with_its_process_and_its_drafts_are_cleared(holder: Holder, sign: int):
    files.write_text(Path("models/a/old"), "old")
    other = holder("models/a")
    other.send_signal(sign)
    other.wait()
    assert len(list(Path("models").iterdir())) == 2
    with locks.held([Path("elsewhere")]):
        assert [path.name for path in Path("models").iterdir()] == ["a"]
    assert [path.name for path in Path("models/a").iterdir()] == ["old"]
    assert list(locks.FOLDER.glob("*.json")) == []


def test_a_folder_killed_between_its_two_renames_comes_back(tmp_path: Path):
    files.write_text(tmp_path / ".a.old.tmp/file", "old")
    files.write_text(tmp_path / ".a.12345678.tmp/file", "new")
    files.clear_drafts(tmp_path / "a")
    assert (tmp_path / "a/file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_running_processes_keep_their_drafts(holder: Holder):
    holder("models/a", TORCHELASTIC_RUN_ID="job", RANK="0", MASTER_PORT="1")
    killed = holder("models/a", TORCHELASTIC_RUN_ID="job", RANK="1", MASTER_PORT="1")
    killed.kill()
    killed.wait()
    with locks.held([Path("elsewhere")]):
        assert len(list(Path("models").glob(".a.*.tmp"))) == 2


def test_processes_of_one_torchrun_share_a_claim_and_keep_others_out(holder: Holder, monkeypatch: pytest.MonkeyPatch):
    holder("models/a", TORCHELASTIC_RUN_ID="job", RANK="0", MASTER_PORT="1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setenv("RANK", "1")
    with locks.held([Path("models/a")]):
        assert len(list(locks.FOLDER.glob("*.json"))) == 2
    for rank, port in (("0", "1"), ("1", "2")):
        monkeypatch.setenv("MASTER_PORT", port)
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(ValueError, match="is writing it"), locks.held([Path("models/a")]):
            pytest.fail("both are in")


def test_a_launcher_and_the_processes_it_starts_share_one_job(holder: Holder):
    with locks.held([Path("models/a")]):
        holder("models/a", TORCHELASTIC_RUN_ID="job", RANK="0", MASTER_PORT="1")
        assert len(list(locks.FOLDER.glob("*.json"))) == 2


def test_variables_of_other_launchers_make_no_job(holder: Holder, monkeypatch: pytest.MonkeyPatch):
    """Schedulers set them too; two such processes are not one training."""
    holder("models/a", RANK="0")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match="is writing it"), locks.held([Path("models/a")]):
        pytest.fail("both are in")
