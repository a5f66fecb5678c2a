"""The same commit, parameters and machine give the same bytes, whatever the number of workers."""

import json
import shutil
from pathlib import Path

import checkout
import pytest
import yaml
from checkout import TINY, call
from running import Undisturbed

MADE = {
    "preprocess": "data/processed",
    "meta_classes": "data/meta_classes",
    "train": "models",
    "embed": "embeddings",
    "evaluate": "results",
    "report": "report",
}
WORKERS = {"decode_workers": (1, 3), "workers": (0, 3)}


def settings(folder: Path) -> dict:
    return yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))


def write(folder: Path, changed: dict) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if "process" in name else pytest.mark.slow) for name in TINY]
)
@pytest.mark.parametrize("place", [0, 1])
def test_workers_change_no_byte(work: Path, undisturbed: Undisturbed, name: str, place: int):
    """The output is removed first, so that it is made anew."""
    changed = settings(work)
    for key, counts in WORKERS.items():
        changed["machine"][key] = counts[place]
    shutil.rmtree(work / MADE[name.partition("@")[0]])
    write(work, changed)
    call(work, "python", "-m", *TINY[name])
    found = checkout.artefacts(work)
    # The commit's name gets a + where parameters differ from it: it is in the ledger and on the page.
    told = {"metrics/benchmarks.json", "report/index.html"} if name == "report" else set()
    assert {path for path in undisturbed.artefacts if found.get(path) != undisturbed.artefacts[path]} <= told


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_threads(work: Path, undisturbed: Undisturbed, name: str):
    """One thread instead of all: the same bytes, but for training and extraction, whose last bits may differ."""
    call(work, "python", "-m", *TINY[name], OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    found = checkout.artefacts(work)
    different = {path for path in undisturbed.artefacts if found.get(path) != undisturbed.artefacts[path]}
    if not name.startswith(("train", "embed", "evaluate")):
        assert different == set()
    if name.startswith("evaluate"):
        result = "results/tiny/mobilenet_v2/result.json"
        one, all_of_them = (json.loads((folder / result).read_text()) for folder in (work, undisturbed.folder))
        assert one["recall"] == all_of_them["recall"]
