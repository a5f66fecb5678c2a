"""Processes of one job: an error in one of them ends the job, whatever the others are waiting for."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from lrec.compute import collective

# gloo closes a connection at once; NCCL waits until every process closes it, which is imitated here.
PROGRAM = """
    import sys
    from torch import distributed
    from lrec.compute import collective
    from lrec.io import command

    close = distributed.destroy_process_group

    def close_like_nccl():
        store = distributed.distributed_c10d._get_default_store()
        store.set(f"closing {collective.rank()}", "")
        store.wait([f"closing {rank}" for rank in range(collective.count())])
        close()

    distributed.destroy_process_group = close_like_nccl

    def work():
        with collective.together():
            collective.wait()
            if sys.argv[1] == "fails" and collective.rank() == 1:
                raise ValueError("this process has an error")
            collective.wait()
        assert not distributed.is_initialized()

    command.run(lambda _: work(), "how")
"""


def run(root: Path, folder: Path, how: str) -> subprocess.CompletedProcess:
    (folder / "job.py").write_text(textwrap.dedent(PROGRAM))
    launch = f"from lrec.compute import launch; launch.run('job', ['{how}'], 2)"
    program = f"from lrec.io import command\ndef work():\n    {launch}\nraise SystemExit(command.guard(work))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(folder)])}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=90
    )


def test_an_error_in_one_process_ends_the_job(root: Path, tmp_path: Path):
    done = run(root, tmp_path, "fails")
    assert done.returncode == 1, done.stderr[-3000:]
    assert "process 1: error: this process has an error" in done.stderr.splitlines()
    assert done.stderr.splitlines()[-1].startswith("error: process 1 of 2 failed (see its error above);")
    assert "Traceback" not in done.stderr


def test_a_connection_is_closed_in_the_end(root: Path, tmp_path: Path):
    done = run(root, tmp_path, "succeeds")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The first of two processes with a GPU each, in name only; what is asked of torch."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    asked: list[tuple] = []
    for module, names in (
        (torch.cuda, ["set_device", "synchronize"]),
        (torch.distributed, ["init_process_group", "barrier", "destroy_process_group"]),
    ):
        for name in names:
            monkeypatch.setattr(module, name, lambda *given, name=name, **named: asked.append((name, *given, named)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    ones = torch.ones

    def run_kernel(*shape: int, device: str) -> torch.Tensor:
        asked.append(("kernel", device))
        return ones(*shape)

    monkeypatch.setattr(torch, "ones", run_kernel)
    return asked


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_has_a_gpu_of_its_own_and_none_closes_early(two: list[tuple], name: str):
    """No other process's GPU is touched, and a process waits long for what another does alone."""
    where = collective.device(name)
    assert where == "cuda:1"
    with collective.together(where):
        two.append(("work",))
    assert two == [
        ("kernel", "cuda:1"),
        ("set_device", "cuda:1", {}),
        (
            "init_process_group",
            "cpu:gloo,cuda:nccl",
            {"timeout": collective.PATIENCE, "device_id": torch.device("cuda:1")},
        ),
        ("work",),
        ("synchronize", "cuda:1", {}),
        ("barrier", {}),
        ("destroy_process_group", {}),
    ]


def test_fewer_gpus_than_processes_are_refused(two: list[tuple], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"machine.processes: found 2 on this machine for 1 GPU"):
        collective.device("cuda")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("[../gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]", ConnectionError, "has ended"),
        ("NCCL error: remote process exited or there was a network error", ConnectionError, "has ended"),
        ("NCCL error: unhandled cuda error, NCCL version 2.27.5", ConnectionError, "cannot exchange.*NCCL_DEBUG=INFO"),
        ("NCCL error: invalid usage: Duplicate GPU detected", ConnectionError, "cannot exchange.*Duplicate GPU"),
        ("CUDA out of memory. Tried to allocate 2 GiB", RuntimeError, "out of memory"),
    ],
)
def test_errors_of_the_connection_have_their_own_lines(
    two: list[tuple], monkeypatch: pytest.MonkeyPatch, text: str, kind: type[Exception], message: str
):
    def fail(*_: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(torch.distributed, "all_reduce", fail)
    with pytest.raises(kind, match=message):
        collective.add_up([torch.zeros(1)])
