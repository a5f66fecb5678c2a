"""Two at the same work: the second is told who holds it, and what comes out is whole."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import checkout
import psutil
import pytest
import yaml
from checkout import TINY, call
from running import Repro, Undisturbed

from lrec import paths
from lrec.io import locks

VARIANT, BACKBONE = "tiny", "mobilenet_v2"
WRITTEN = {
    "preprocess@tiny": paths.store(VARIANT),
    "meta_classes@tiny": paths.meta_classes(VARIANT),
    "train@tiny-mobilenet_v2": paths.model(VARIANT, BACKBONE),
    "embed@tiny-mobilenet_v2": paths.embeddings(VARIANT, BACKBONE),
    "evaluate@tiny-mobilenet_v2": paths.results(VARIANT, BACKBONE),
    "report": paths.LEDGER,
}


def stage(folder: Path, name: str) -> subprocess.Popen:
    """Start a stage directly, as dvc would."""
    command = [sys.executable, "-m", *TINY[name]]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# Runs one stage for each line: loading torch takes longer than being kept out.
IN_TURN = """
import json, runpy, sys
for line in sys.stdin:
    module, *sys.argv[1:] = json.loads(line)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        print(ended.code, file=sys.stderr)
"""


def test_a_stage_is_kept_out_by_the_holder_of_its_output(
    work: Path, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(work)
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", IN_TURN], **pipes, text=True) as process:
        for name in TINY:
            with locks.held([WRITTEN[name]]):
                process.stdin.write(json.dumps(TINY[name]) + "\n")
                process.stdin.flush()
                error, code = process.stderr.readline(), process.stderr.readline()
            assert code == "1\n", error
            assert f"{WRITTEN[name]}" in error or str(WRITTEN[name].parent) in error
            assert f"process {os.getpid()} (python " in error
            assert f"is writing it; wait until it ends, or end it (kill {os.getpid()}), and run again" in error
            assert checkout.artefacts(work) == undisturbed.artefacts
        assert process.communicate()[1] == ""


def suspend_at_work(process: psutil.Process, folder: Path) -> None:
    """Stop a stage once its claim stands and it has let go of the lock that claims are made under."""
    while process.is_running():
        if list((folder / locks.FOLDER).glob("*.json")):
            process.suspend()
            with (folder / locks.FOLDER / "lock").open("a") as door, contextlib.suppress(BlockingIOError):
                fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            process.resume()
        time.sleep(0.001)
    pytest.fail("the stage ended before it could be stopped")


def test_a_second_repro_and_one_after_a_dvc_that_was_killed(undisturbed: Undisturbed, tmp_path: Path):
    """The stage is stopped in its tracks, so that the second meets it for certain."""
    folder = tmp_path / checkout.PROJECT
    call(tmp_path, "cp", "-r", str(undisturbed.before["preprocess@tiny"]), str(folder))
    name = "preprocess@tiny"
    run = Repro(folder, name)
    process = run.stage(name)
    assert process, run.output()
    suspend_at_work(process, folder)
    try:
        again = subprocess.run(
            ["dvc", "repro", name], cwd=folder, capture_output=True, text=True, env=checkout.environment()
        )
        assert again.returncode != 0
        assert f"(PID {run.dvc.pid})" in again.stderr
        run.dvc.kill()
        run.dvc.wait()
        orphaned = subprocess.run(
            ["dvc", "repro", name], cwd=folder, capture_output=True, text=True, env=checkout.environment()
        )
        assert orphaned.returncode != 0
        assert f"process {process.pid} (python -m stages.preprocess tiny) is writing it" in orphaned.stderr
    finally:
        process.resume()
    run.wait()
    call(folder, "dvc", "repro", name)
    expected = {path: content for path, content in undisturbed.artefacts.items() if path.startswith("data/processed")}
    assert expected.items() <= checkout.artefacts(folder).items()
    assert checkout.drafts(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_two_started_together(work: Path, undisturbed: Undisturbed, name: str):
    """Four times: one at least succeeds, the other one too or names it; the outputs are whole and clean."""
    refused = 0
    for _ in range(4):
        both = [stage(work, name) for _ in range(2)]
        errors = [process.communicate()[1] for process in both]
        codes = [process.returncode for process in both]
        assert 0 in codes, errors
        for process, code, error in zip(both, codes, errors, strict=True):
            other = both[1] if process is both[0] else both[0]
            if code:
                refused += 1
                assert f"process {other.pid} (python -m {' '.join(TINY[name])}) is writing it" in error
                assert "Traceback" not in error
        assert checkout.artefacts(work) == undisturbed.artefacts
        assert checkout.drafts(work) == []
    assert refused


@pytest.mark.slow
def test_two_queue_workers(undisturbed: Undisturbed, tmp_path: Path):
    """Each experiment's results are those of an ordinary run with its parameters.

    The folder's name has a space but only ASCII: DVC cannot queue experiments in others.
    """
    work = tmp_path / "two workers"
    shutil.copytree(undisturbed.folder, work, symlinks=True)
    checkout.commit(work, "Before the experiments")
    raw = {"LREC_DATA": str(work / "data/raw")}
    cutoffs = {"one": [1, 3], "two": [1, 5]}
    for name, ks in cutoffs.items():
        setting = f"variants.tiny.recall_at={ks}".replace(" ", "")
        call(work, "dvc", "exp", "run", "--queue", "-n", name, "-S", setting, "-S", f"train.seed={ks[1]}", **raw)
    call(work, "dvc", "queue", "start", "-j", "2", **raw)
    end = time.monotonic() + 500
    while any(word in call(work, "dvc", "queue", "status") for word in ("Queued", "Running")):
        assert time.monotonic() < end
        time.sleep(5)
    status = call(work, "dvc", "queue", "status")
    assert status.count("Success") == 2, status + "".join(call(work, "dvc", "queue", "logs", name) for name in cutoffs)
    call(work, "dvc", "queue", "stop", "--kill")
    for name, ks in cutoffs.items():
        call(work, "dvc", "exp", "branch", name, f"result-{name}")
        call(work, "git", "checkout", ".")  # without the other's entry in the ledger
        settings = yaml.safe_load((work / "params.yaml").read_text(encoding="utf-8"))
        settings["variants"]["tiny"]["recall_at"], settings["train"]["seed"] = ks, ks[1]
        (work / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        call(work, "dvc", "repro", "--force", "--no-run-cache")
        for path in ("metrics/recall.json", "metrics/benchmarks.md", "README.md", "metrics/training.csv"):
            queued = call(work, "git", "show", f"result-{name}:{path}").encode()
            assert checkout.untimed(path, queued) == checkout.untimed(path, (work / path).read_bytes()), path
    assert not [p for p in psutil.process_iter() if "celery" in p.name()]
