"""Processes of one job: an error in one of them ends the job, whatever the others are waiting for."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

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
    assert done.stderr.splitlines()[-1].startswith("error: process 1 of 2 failed, as its own line says;")
    assert "Traceback" not in done.stderr


def test_a_connection_is_closed_in_the_end(root: Path, tmp_path: Path):
    done = run(root, tmp_path, "succeeds")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""
