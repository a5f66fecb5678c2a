"""The system says no: full and read-only disks, no memory, no network, odd clocks, names and places, for real."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import checkout
import pytest
from checkout import PICTURES, TINY, call
from running import Undisturbed

DAYS = 2 * 24 * 3600 * 10**9
# Each stage, and a folder it writes to. Those that start within a second are tried by default, the rest when asked.
QUICK = [("preprocess@tiny", "data/processed"), ("meta_classes@tiny", "data/meta_classes")]
SLOW = [
    ("train@tiny-mobilenet_v2", "models"),
    ("train@tiny-mobilenet_v2", "history"),
    ("train@tiny-mobilenet_v2", ".lrec"),
    ("embed@tiny-mobilenet_v2", "embeddings"),
    ("embed@tiny-mobilenet_v2", ".lrec"),
    ("evaluate@tiny-mobilenet_v2", "results"),
    ("report", "metrics"),
    ("report", "report"),
]
PLACES = [*QUICK, *(pytest.param(*place, marks=pytest.mark.slow) for place in SLOW)]
Mount = Callable[[Path, int], None]


def run(folder: Path, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a stage directly."""
    command = [sys.executable, "-m", *TINY[name]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | variables)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a failed stage ends with."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert [other for other in done.stderr.splitlines() if other.startswith("error: ")] == [line]
    return line


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Put a small file system in the place of a folder, with what was in it."""
    mounted = []

    def put(folder: Path, spare: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        there = tmp_path / "there"
        shutil.copytree(folder, there)
        size = sum(2 * path.stat().st_size + 8192 for path in there.rglob("*")) + spare  # the new beside the old
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip(f"cannot mount a small file system here: {done.stderr.decode().strip()}")
        mounted.append(folder)
        shutil.copytree(there, folder, dirs_exist_ok=True)

    yield put
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(("name", "place"), PLACES)
@pytest.mark.parametrize("left", [0, 8192])
def test_a_full_disk(work: Path, undisturbed: Undisturbed, mount: Mount, name: str, place: str, left: int):
    """With no room at all, and with room for two blocks."""
    checkpoint = 2**27
    mount(work / place, checkpoint if place == ".lrec" and name.startswith("train") else 2**18)
    with (work / place / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            filler.truncate(filler.tell() - left)
    done = run(work, name)
    if done.returncode or not left:
        line = refused(done)
        assert "No space left" in line
        assert "free " in line
        assert place in line or ("checkpoint" in line and place == ".lrec")
    (work / place / "filler").unlink()
    assert checkout.artefacts(work) == undisturbed.artefacts
    assert checkout.drafts(work) == []
    assert run(work, name).returncode == 0
    assert checkout.artefacts(work) == undisturbed.artefacts


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_a_read_only_folder(work: Path, undisturbed: Undisturbed, mount: Mount, name: str, place: str):
    mount(work / place, 2**18)
    subprocess.run(["mount", "-o", "remount,ro", work / place], check=True)
    line = refused(run(work, name))
    assert place in line
    assert "Read-only file system; make the folder writable" in line
    assert checkout.artefacts(work) == undisturbed.artefacts
    assert checkout.drafts(work) == []


STARVED = """
import resource, runpy, sys
module, megabytes, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="imported")
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + int(megabytes) * 2**20,) * 2)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to say how much a process has")
@pytest.mark.parametrize(
    ("name", "megabytes", "lower"),
    [
        ("preprocess@tiny", 1, "machine.decode_workers"),
        pytest.param("train@tiny-mobilenet_v2", 10, "train.batch_size", marks=pytest.mark.slow),
        pytest.param("embed@tiny-mobilenet_v2", 10, "embed.batch_size", marks=pytest.mark.slow),
        pytest.param("embed@tiny-mobilenet_v2", 100, "embed.batch_size", marks=pytest.mark.slow),
        pytest.param("evaluate@tiny-mobilenet_v2", 1, "evaluate.analysis_images", marks=pytest.mark.slow),
    ],
)
def test_no_memory(work: Path, undisturbed: Undisturbed, name: str, megabytes: int, lower: str):
    """Little more than the modules take. Convolutions that find none may end the process; nothing is half-written."""
    module, *arguments = TINY[name]
    command = [sys.executable, "-c", STARVED, module, str(megabytes), *arguments]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(work)})
    if not (done.returncode == -signal.SIGSEGV and name.startswith("embed")):
        line = refused(done)
        assert line.startswith("error: out of memory")
        assert f"lower {lower}" in line
    assert checkout.artefacts(work) == undisturbed.artefacts
    assert checkout.drafts(work) == []


def test_no_network(work: Path, undisturbed: Undisturbed, tmp_path: Path):
    """Nothing listens where the proxy should be."""
    text = (work / "params.yaml").read_text(encoding="utf-8")
    (work / "params.yaml").write_text(
        text.replace("      weights: none\n", "      weights: imagenet\n"), encoding="utf-8"
    )
    closed = {"https_proxy": "http://127.0.0.1:9", "TORCH_HOME": str(tmp_path / "torch")}
    line = refused(run(work, "train@tiny-mobilenet_v2", **closed))
    assert "download failed" in line
    assert "set train.weights to the file, or train.weights=none" in line
    assert checkout.artefacts(work) == undisturbed.artefacts


def test_a_clock_that_is_set_back(work: Path, undisturbed: Undisturbed):
    """What was made in the future is as good as what was made in the past; both are taken for what they hold."""
    for path in (work / "data/processed").rglob("*"):
        os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + DAYS))
    assert "didn't change" in call(work, "dvc", "repro", "meta_classes@tiny")
    assert run(work, "meta_classes@tiny").returncode == 0
    assert run(work, "preprocess@tiny").returncode == 0
    assert checkout.artefacts(work) == undisturbed.artefacts


@pytest.mark.parametrize("kind", ["linked", "read-only", "deep", "long names"])
def test_raw_data_in_odd_places(work: Path, undisturbed: Undisturbed, tmp_path: Path, kind: str):
    """Behind a link, read-only, at the end of a path of 3,000 letters, with class names of 255 bytes."""
    raw, variables = work / "data/raw", {}
    if kind == "linked":
        shutil.move(raw, tmp_path / "elsewhere")
        raw.symlink_to(tmp_path / "elsewhere")
        shutil.move(tmp_path / "elsewhere" / PICTURES, tmp_path / "on another disk")
        (raw / PICTURES).symlink_to(tmp_path / "on another disk")
    elif kind == "read-only":
        done = subprocess.run(["mount", "--bind", "-o", "ro", raw, raw], capture_output=True)
        if done.returncode:
            pytest.skip(f"cannot mount a folder read-only here: {done.stderr.decode().strip()}")
    elif kind == "deep":
        deep = tmp_path.joinpath(*["ein sehr tiefer Ordner für Bilder"] * 85)
        deep.mkdir(parents=True)
        shutil.move(raw / PICTURES, deep)
        variables["LREC_DATA"] = str(deep)
    else:
        shutil.move(raw / PICTURES / "test/naïve", raw / PICTURES / "test" / ("ü" * 127 + "x"))
    done = run(work, "preprocess@tiny", **variables)
    if kind == "read-only":
        subprocess.run(["umount", raw], check=True)
    assert done.returncode == 0, done.stderr
    if kind == "long names":
        assert "ü" * 127 + "x" in (work / "data/processed/tiny/index.csv").read_text(encoding="utf-8")
    else:
        assert checkout.artefacts(work) == undisturbed.artefacts


def test_a_path_longer_than_the_system_takes(work: Path, undisturbed: Undisturbed):
    line = refused(run(work, "preprocess@tiny", LREC_DATA="/" + "ordner/" * 700))
    assert "ordner" in line
    assert checkout.artefacts(work) == undisturbed.artefacts


def test_a_terminal_without_the_letters(work: Path, undisturbed: Undisturbed):
    done = run(work, "preprocess@tiny", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert checkout.artefacts(work) == undisturbed.artefacts


def test_files_that_dvc_writes_in_place_and_a_kill_cuts_short(work: Path, undisturbed: Undisturbed):
    """dvc.lock comes back from git, .dvc/tmp/rwlock can be removed, as docs/reliability.md says."""
    checkout.commit(work, "A whole dvc.lock")
    whole = (work / "dvc.lock").read_bytes()
    for name, half in (("dvc.lock", whole[: whole.index(b"'") + 2]), (".dvc/tmp/rwlock", b'{"write": {')):
        (work / name).write_bytes(half)
        done = subprocess.run(["dvc", "repro"], cwd=work, capture_output=True, text=True, env=checkout.environment())
        assert done.returncode != 0
        assert name in done.stderr
        if name == "dvc.lock":
            call(work, "git", "checkout", name)
        else:
            (work / name).unlink()
    assert "up to date" in call(work, "dvc", "repro")
    assert checkout.artefacts(work) == undisturbed.artefacts
