"""The average of an ensemble's branches, exported, is a run like any other: starting weights, and no epochs."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from tiny_pipeline import COMBINATION, STAGES, write_settings

from lrec import export, paths
from lrec.model import saved

UPTO = "meta_classes"
RUN = "tiny/mobilenet_v2"
FILE = Path("exported", RUN, "average/average.safetensors")


def train(folder: Path, block: dict | None = None, **changes: object) -> None:
    """Train with changes to the section `train` and the variant's block."""
    settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    settings["embed"] |= {"kind": "features"}
    settings["train"] |= {"weights": "start.pth", "freeze_batch_norm": True} | changes
    settings["variants"]["tiny"] |= {"train": {"batch_size": 6}} | (block or {})
    write_settings(folder, settings)
    STAGES["meta_classes"]()
    STAGES["train"]()


@pytest.fixture(autouse=True)
def started(project: Path) -> None:
    """Weights that all branches can start from."""
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), "start.pth")


def test_it_is_trained_embedded_and_reported(project: Path, capsys: pytest.CaptureFixture):
    train(project)
    before = saved.load(paths.model(*COMBINATION))[0]
    assert export.main([RUN, "--format", "average"]) == 0
    assert f"{FILE}: one network, for train.weights" in capsys.readouterr().out
    train(project, {"ensemble_size": 1, "meta_class_size": "all", "epochs": 0}, weights=str(FILE))
    after, config = saved.load(paths.model(*COMBINATION))
    assert (config["epochs"], config["weights"].split()[0]) == (0, FILE.name)
    mean = sum(branch.get_submodule("features_18")[0].weight for branch in before.branches) / 2
    torch.testing.assert_close(after.branches[0].get_submodule("features_18")[0].weight, mean)
    for name in ("embed", "evaluate", "report", "check"):
        STAGES[name]()
    assert any("M=1" in name and "no epochs" in name for name in json.loads(paths.LEDGER.read_text())["tiny"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weights": "none", "freeze_batch_norm": False}, "started at random"),
        ({"freeze_batch_norm": False}, "batch norms were trained apart"),
    ],
)
def test_branches_without_an_average_are_refused(project: Path, changes: dict, reason: str, capsys):
    train(project, **changes)
    assert export.main([RUN, "--format", "average"]) == 1
    assert reason in capsys.readouterr().err
    assert not FILE.exists()
