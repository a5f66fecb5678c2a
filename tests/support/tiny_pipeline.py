"""A complete project on which the pipeline takes seconds, and checks of its behaviour on bad input.

`make` runs the stages in this process; `make_each` keeps a copy after each stage; `linked` makes a copy for a test with
hard links, so tests must replace files and never overwrite them.
"""

import copy
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lrec.io import command
from stages import embed, evaluate, meta_classes, preprocess, report, train

COMBINATION = ("tiny", "mobilenet_v2")
STAGES: dict[str, Callable[[], None]] = {
    "preprocess": functools.partial(preprocess.main, "tiny"),
    "meta_classes": functools.partial(meta_classes.main, "tiny"),
    "train": functools.partial(train.main, *COMBINATION),
    "embed": functools.partial(embed.main, *COMBINATION),
    "evaluate": functools.partial(evaluate.main, *COMBINATION),
    "report": functools.partial(report.main, False),
    "check": functools.partial(report.main, True),
}
RAW = Path("raw/tiny")
# Images of these classes; three for training, two for testing.
CLASSES = {"train": ("ant", "bee", "cat"), "test": ("dog", "eel")}


@functools.cache
def _project_settings(root: Path) -> dict:
    return yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))


def settings(root: Path) -> dict:
    """Return the project's params.yaml, reduced to a training of a second."""
    found = copy.deepcopy(_project_settings(root))
    found |= {"datasets": ["tiny"], "backbones": ["mobilenet_v2"], "data_root": "raw"}
    found["variants"] = {"tiny": found["variants"]["glyphs"] | {"layout": "folder", "folder": "tiny", "epochs": 1}}
    found["variants"]["tiny"] |= {"ensemble_size": 2, "meta_class_size": 2, "recall_at": [1, 2]}
    found["variants"]["tiny"]["train"]["batch_size"] = 6
    found["embed"] |= {"untrained": False, "audit_images": 4}
    found["evaluate"] |= {"subsets": 1, "pca_dimensions": [2]}
    return found


def write_settings(folder: Path, values: dict) -> None:
    """Replace params.yaml."""
    replace(folder / "params.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())


def replace(path: Path, content: bytes) -> None:
    """Replace a file that other projects may share by hard links."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def make(root: Path, folder: Path, upto: str = "report", after: Callable[[str], object] = lambda _: None) -> None:
    """Make a project and run its stages up to `upto`; call `after` with the name of each stage after it has run."""
    generator = np.random.default_rng(0)
    for split, names in CLASSES.items():
        for name in names:
            colour = generator.integers(0, 256, 3)
            (folder / RAW / split / name).mkdir(parents=True)
            for number in range(4):
                noisy = np.clip(colour + generator.integers(-40, 40, (36, 36, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(folder / RAW / split / name / f"{number}.png")
    write_settings(folder, settings(root))
    shutil.copytree(root / "data/reference", folder / "data/reference")
    (folder / "README.md").write_text(
        "# Tiny\n\n<!-- benchmarks: written by the stage report -->\n<!-- end of benchmarks -->\n", encoding="utf-8"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in list(STAGES)[: list(STAGES).index(upto) + 1]:
            assert command.guard(STAGES[name], debug=True) == 0
            after(name)


def make_each(root: Path, folder: Path) -> None:
    """Make a project and run all its stages; keep a copy after each, in a folder with the stage's name."""
    (folder / "whole").mkdir()
    make(root, folder / "whole", after=lambda name: linked(folder / "whole", folder / name))


def linked(made: Path, folder: Path) -> Path:
    """Make a copy of a project with hard links, without its lock files: locks on linked files would be shared."""
    shutil.copytree(made, folder, copy_function=os.link, ignore=shutil.ignore_patterns(".lrec"))
    return folder


def state(folder: Path) -> dict[str, tuple]:
    """Return the inode, size and modification time of every file, to find out whether anything was written."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(".lrec") and not path.is_dir():
            about = path.lstat()
            found[name] = about.st_ino, about.st_size, about.st_mtime_ns
    return found


def refused(work: Callable[[], object], capsys: pytest.CaptureFixture[str], folder: Path = Path()) -> str:
    """Run a stage that must fail, see `refused_by`."""
    return refused_by(lambda: command.guard(work), capsys, folder)


def refused_by(tool: Callable[[], int], capsys: pytest.CaptureFixture[str], folder: Path = Path()) -> str:
    """Run a tool that must fail; return its error message.

    Checks that the status is 1, that standard error has exactly one printable line, and that no file was touched.
    """
    before = state(folder)
    capsys.readouterr()
    assert tool() == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "image/s]" not in line and line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert all(character.isprintable() for character in lines[0]), lines[0]
    assert len(lines[0]) < 1000, lines[0]
    assert state(folder) == before
    return lines[0].removeprefix("error: ")
