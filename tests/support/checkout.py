"""Git clones of the working tree with the pipeline, unchanged or with a tiny data set."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

# The tiny pipeline's stages in order: DVC's name, and the arguments of `python -m`.
TINY = {
    "preprocess@tiny": ["stages.preprocess", "tiny"],
    "meta_classes@tiny": ["stages.meta_classes", "tiny"],
    "train@tiny-mobilenet_v2": ["stages.train", "tiny", "mobilenet_v2"],
    "embed@tiny-mobilenet_v2": ["stages.embed", "tiny", "mobilenet_v2"],
    "evaluate@tiny-mobilenet_v2": ["stages.evaluate", "tiny", "mobilenet_v2"],
    "report": ["stages.report"],
}
OUTPUTS = ["data", "models", "embeddings", "history", "results", "metrics", "report", "README.md", "dvc.lock"]
# Names with spaces and non-ASCII letters.
PROJECT = "Bildsuche für 写真"
PICTURES = "Fotos für alle"
CLASSES = ["Rotkehlchen", "größe 2", "鳥", "Ёж", "a & b", "naïve", "🦜"]


def environment() -> dict[str, str]:
    """Return an environment in which `python` and `dvc` are those that run the tests."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def call(folder: Path, *command: str, **variables: str) -> str:
    """Run a command in a folder and return its output; if it fails, the assertion shows the output."""
    done = subprocess.run(
        command,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment() | variables,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}"
    return done.stdout


def clone(root: Path, folder: Path) -> None:
    """Make a git clone, and copy uncommitted changes of the working tree into it."""
    call(root, "git", "clone", "--quiet", str(root), str(folder))
    changed = call(root, "git", "ls-files", "-z", "--modified", "--others", "--exclude-standard").split("\0")
    for name in filter(None, changed):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (root / name).exists():
            shutil.copy(root / name, folder / name)


def commit(folder: Path, message: str) -> None:
    """Commit all changes."""
    for command in (["config", "user.name", "Test"], ["config", "user.email", "test@example.org"], ["add", "-A"]):
        call(folder, "git", *command)
    call(folder, "git", "commit", "--quiet", "--allow-empty", "-m", message)


def tiny(root: Path, folder: Path) -> None:
    """Make a clone whose pipeline, on 56 images, takes half a minute, mostly for starting Python."""
    clone(root, folder)
    settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    own = {"layout": "folder", "folder": PICTURES, "ensemble_size": 2, "meta_class_size": 3, "epochs": 2}
    recipe = {"weights": "none", "batch_size": 8, "share": "layer3"}
    settings["variants"]["tiny"] = settings["variants"]["glyphs"] | own | {"recall_at": [1, 2], "train": recipe}
    settings |= {"datasets": ["tiny"], "backbones": ["mobilenet_v2"]}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    generator = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        colour = generator.integers(0, 256, 3)
        place = folder / "data/raw" / PICTURES / ("train" if number < 4 else "test") / name
        place.mkdir(parents=True)
        for picture in range(8):
            pixels = np.clip(colour + generator.integers(-60, 60, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{picture}.png")
    commit(folder, "A pipeline of seconds")


def artefacts(folder: Path) -> dict[str, str]:
    """Return a digest of every file that the pipeline makes; the seconds of training are left out."""
    found = {}
    for path in (path for name in OUTPUTS for path in [folder / name, *(folder / name).rglob("*")]):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith("data/raw"):
            found[name] = hashlib.sha256(untimed(name, path.read_bytes())).hexdigest()
    return found


def untimed(name: str, content: bytes) -> bytes:
    """Return an artefact's content without the seconds of training, and without digests that depend on them."""
    if name == "metrics/benchmarks.json":
        ledger = json.loads(content)
        for entry in ledger["tiny"].values() if "tiny" in ledger else ():
            del entry["run"]["seconds"]
        return json.dumps(ledger).encode()
    if name in ("README.md", "metrics/benchmarks.md", "report/index.html"):
        return re.sub(rb"\b\d+ s\b", b"", content)
    if name == "dvc.lock":
        locked = yaml.safe_load(content)
        for out in locked["stages"].get("report", {}).get("outs", ()):
            if out["path"] in ("metrics/benchmarks.json", "metrics/benchmarks.md", "report"):
                out["md5"] = out["size"] = None
        return json.dumps(locked).encode()
    return content


def drafts(folder: Path) -> list[Path]:
    """Return the half-written files in a project."""
    places = [folder, *(folder / name for name in (*OUTPUTS, ".lrec", "logs"))]
    return [path for place in places for path in (place.glob if place == folder else place.rglob)(".*.tmp")]
