"""What several tests share: the folder of real data beside the checkout, and a tiny packed store."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import checkout
import numpy as np
import pandas as pd
import pytest
import running
from hypothesis import Phase, settings
from once import once

# As in the stages, before torch is loaded: waiting threads do not spin. Parallel test processes share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(processes))))

import checked_device  # noqa: E402
import torch  # noqa: E402

from lrec import params  # noqa: E402
from lrec.data import store  # noqa: E402

# Before anything is trained: autograd makes a queue for each device that it knows of then, and never another.
checked_device.register()

# For mutation testing, which asks whether a test fails and not for its smallest example.
settings.register_profile("first-failure", phases=[Phase.explicit, Phase.generate])

ROOT = Path(__file__).resolve().parent.parent


# The files that take longest begin, so that no process is left alone with one of them in the end.
FIRST = [
    "pipeline/test_pipeline.py",
    "pipeline/test_killed.py",
    "project/test_benchmarks.py",
    "training/test_processes.py",
    "training/test_parallel_stage.py",
    "training/test_checkpoint.py",
    "pipeline/test_two_at_once.py",
    "project/test_installed.py",
    "project/test_commands.py",
    "retrieve/test_serve.py",
    "io/test_environment.py",
    "pipeline/test_faults.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files; pytest-xdist keeps the order (--no-loadscope-reorder)."""
    place = {ROOT / "tests" / name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(FIRST)))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture
def edited(tmp_path: Path, root: Path) -> Callable[[str, str], params.Params]:
    """A function that loads the project's params.yaml with one replacement."""

    def load(old: str, new: str) -> params.Params:
        text = (root / "params.yaml").read_text(encoding="utf-8")
        assert old in text
        path = tmp_path / "params.yaml"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return params.load(path)

    return load


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images, annotations and weights; tests skip where it is absent."""
    folder = Path(os.environ.get("LREC_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("no folder of real data: set LREC_SHARED to one")
    return folder


@pytest.fixture(scope="session")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> running.Undisturbed:
    """The tiny project, run from end to end with DVC: tests copy it and do it harm."""
    place = once(tmp_path_factory, "undisturbed", lambda folder: running.undisturbed(root, folder / checkout.PROJECT))
    return running.Undisturbed.read(place / checkout.PROJECT)


@pytest.fixture
def work(undisturbed: running.Undisturbed, tmp_path: Path) -> Iterator[Path]:
    """A copy of the tiny project after its run, at another place."""
    folder = tmp_path / checkout.PROJECT
    shutil.copytree(undisturbed.folder, folder, symlinks=True)
    yield folder
    shutil.rmtree(tmp_path)


@pytest.fixture
def tiny_store(tmp_path: Path) -> store.Store:
    """Six training classes and three test classes of five 32 px images each, one colour per class."""
    generator = np.random.default_rng(0)
    names = [f"class {number}" for number in range(9) for _ in range(5)]
    colours = generator.integers(0, 256, (9, 3))
    pictures = [
        np.clip(colours[row // 5] + generator.integers(-20, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
        for row in range(45)
    ]
    index = pd.DataFrame({"path": [f"{row}.png" for row in range(45)], "class": names})
    index["split"] = ["train" if row < 30 else "test" for row in range(45)]
    store.pack(tmp_path / "store", [lambda picture=picture: picture for picture in pictures], index, 32, {})
    return store.open_store(tmp_path / "store")


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny project that the pipeline has run, up to the stage that the test module names in UPTO."""
    import tiny_pipeline

    snapshots = once(tmp_path_factory, "made", lambda folder: tiny_pipeline.make_each(root, folder))
    return snapshots / getattr(request.module, "UPTO", "report")


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `made` of the test's own, as the current folder."""
    import tiny_pipeline

    folder = tiny_pipeline.linked(made, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads of torch's, however many a worker of pytest has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
