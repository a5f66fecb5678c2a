"""Errors are one line on standard error, files are whole or not there."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lrec.io import command, files, reading


def test_an_expected_error_is_one_line(capsys: pytest.CaptureFixture[str]):
    def fail() -> None:
        raise ValueError("a.csv:\n  found 1, expected 2")

    assert command.guard(fail) == 1
    assert capsys.readouterr().err == "error: a.csv: found 1, expected 2\n"


@pytest.mark.parametrize("ask", ["argument", "variable"])
def test_debug_keeps_the_traceback(ask: str, monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        assert os.environ["LREC_DEBUG"] == "1"  # for the processes that the work starts
        raise ValueError("no")

    before = "1" if ask == "variable" else ""
    monkeypatch.setenv("LREC_DEBUG", before)
    with pytest.raises(ValueError, match="no"):
        command.guard(fail, debug=ask == "argument")
    assert os.environ["LREC_DEBUG"] == before


@pytest.mark.parametrize("text", ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"])
def test_what_gpu_libraries_say_without_memory(text: str, capsys: pytest.CaptureFixture[str]):
    def fail() -> None:
        raise RuntimeError(text)

    assert command.guard(fail, lower="train.batch_size") == 1
    assert capsys.readouterr().err.startswith("error: out of memory (CUDA error: CUBLAS")


def test_a_defect_is_not_dressed_up_as_bad_input():
    def fail() -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        command.guard(fail)


def test_an_interrupt_has_its_own_status():
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert command.guard(interrupt) == 130


def test_a_failed_write_keeps_the_old_file(tmp_path: Path):
    path = tmp_path / "sub" / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": float("nan")})

    def write_half() -> None:
        with files.atomic(path) as stream:
            stream.write(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert reading.read_json(path, "report") == {"a": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_a_table_keeps_line_ends_in_its_cells(tmp_path: Path, end: str):
    table = pd.DataFrame({"path": [f"a{end}b.png", f"{end}", "c.png"], "class": ["", '"', ","], "row": ["1", "2", "3"]})
    files.write_table(tmp_path / "t.csv", table)
    pd.testing.assert_frame_equal(reading.read_table(tmp_path / "t.csv", ["path"], "report"), table)


def test_files_get_the_ordinary_permissions(tmp_path: Path):
    files.write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path):
    for text in ("one", "two"):
        with files.atomic_folder(tmp_path / "f") as draft:
            (draft / text).write_text(text)
    assert [entry.name for entry in (tmp_path / "f").iterdir()] == ["two"]


def test_a_folder_is_synced_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced, target = [], tmp_path / "f"
    whole = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").resolve().name, target.exists()))
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with files.atomic_folder(target) as draft:
        (draft / "sub").mkdir()
        for name in ("a", "sub/b"):
            (draft / name).write_text(name)
        (draft / "link").symlink_to("gone")
    assert sorted(synced) == sorted([(name, False) for name in ("a", "b", "sub", draft.name)] + [(tmp_path.name, True)])


def test_a_killed_writer_leaves_the_old_folder(tmp_path: Path):
    """SIGKILL in the middle; what the next writer does first clears the draft away."""
    with files.atomic_folder(tmp_path / "f") as draft:
        (draft / "old").write_text("old")
    program = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from lrec.io import files
        with files.atomic_folder(Path(sys.argv[1])) as draft:
            (draft / "new").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "f")], env=os.environ | {"PYTHONPATH": "."})
    assert done.returncode == -signal.SIGKILL
    assert [entry.name for entry in (tmp_path / "f").iterdir()] == ["old"]
    assert len(list(tmp_path.iterdir())) == 2
    files.clear_drafts(tmp_path / "f")
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]
    with files.atomic_folder(tmp_path / "f") as draft:
        (draft / "new").write_text("new")
    assert [entry.name for entry in (tmp_path / "f").iterdir()] == ["new"]


def test_arrays_are_checked(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"a\.npy: 2 dimensions of float32, expected 4 of uint8; delete it and run"):
        reading.read_array(tmp_path / "a.npy", "preprocess", 4, np.uint8)
    with pytest.raises(FileNotFoundError, match=r"b\.npy: not found; run `dvc repro` \(stage embed\) first"):
        reading.read_array(tmp_path / "b.npy", "embed", 2, np.float32)


def test_a_library_that_memory_is_too_short_for(capsys: pytest.CaptureFixture[str]):
    def work() -> None:
        raise ImportError(text)

    text = "_C.so: failed to map segment from shared object"
    assert command.guard(work, lower="train.batch_size") == 1
    assert capsys.readouterr().err.startswith(f"error: out of memory ({text}); lower train.batch_size, or ")
    text = "cannot import name 'x'"
    with pytest.raises(ImportError):
        command.guard(work)


@pytest.mark.parametrize(
    "text",
    [
        "FIND was unable to find an engine to execute this computation",
        "GET was unable to find an engine to execute this computation",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
    ],
)
def test_memory_of_a_gpu_that_ran_out_is_said(text: str, capsys: pytest.CaptureFixture[str]):
    def work() -> None:
        raise RuntimeError(text)

    assert command.guard(work, lower="train.batch_size") == 1
    line = capsys.readouterr().err
    assert line.startswith(f"error: out of memory ({text}")
    assert "; lower train.batch_size, or " in line
