"""Starting weights from a file that are used: of other kinds, and as trainers save them."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_pipeline as tiny
import torch
from weight_files import State, prefixed, saved, use

from lrec.io import command
from lrec.model import weights
from lrec.model.ensemble import Ensemble

UPTO = "meta_classes"  # the last stage that these tests need


@pytest.mark.parametrize("form", ["half", "double", "old format", "strided", "counts of batches left out"])
def test_sound(project: Path, root: Path, state: State, form: str) -> None:
    content = {
        "half": lambda: saved(
            {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        ),
        "double": lambda: saved(
            {key: value.double() if value.is_floating_point() else value for key, value in state.items()}
        ),
        "old format": lambda: saved(state, _use_new_zipfile_serialization=False),
        "strided": lambda: saved(
            {key: value.mT.contiguous().mT if value.ndim > 1 else value for key, value in state.items()}
        ),
        "counts of batches left out": lambda: saved({k: v for k, v in state.items() if "num_batches" not in k}),
    }[form]()
    (project / "w.pth").write_bytes(content)
    use(project, root, "w.pth")
    assert command.guard(tiny.STAGES["train"], debug=True) == 0


HEADS = {"prototypes.weight": torch.zeros(3)}
# As trainers save a network: what is in the file, and what is said of it.
CHECKPOINTS: dict[str, tuple[Callable[[State], object], str]] = {
    "under a key": (lambda s: {"epoch": 3, "state_dict": s}, "used the state dict under 'state_dict'"),
    "of one that ran in parallel": (
        prefixed("module."),
        "used its entries without the prefix 'module.' of their keys",
    ),
    "compiled": (prefixed("_orig_mod.module."), "without the prefix '_orig_mod.module.'"),
    "both, with the optimiser and the command line": (
        lambda s: {
            "model": prefixed("module.")(s),
            "optimizer": {"state": {0: {"step": torch.zeros(1)}}, "param_groups": [{"lr": 0.1}]},
            "args": argparse.Namespace(lr=0.1),
        },
        "used the state dict under 'model' without the prefix 'module.' of their keys",
    ),
    "beside a loss": (
        lambda s: {"state_dict": prefixed("net.")(s) | {"loss.w": torch.zeros(2)}, "version": "2"},
        "without the prefix 'net.' of their keys, 1 other entries left out",
    ),
    "with another head": (
        lambda s: prefixed("module.")({k: v for k, v in s.items() if "classifier" not in k} | HEADS),
        "without the prefix 'module.' of their keys, 1 other entries left out",
    ),
    "beside its average": (
        lambda s: {"state_dict_ema": s, "state_dict": s},
        "used the state dict under 'state_dict', not the one under 'state_dict_ema'",
    ),
    "two levels down": (lambda s: {"trainer": {"model_state_dict": s}}, "under 'trainer.model_state_dict'"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_of_another_trainer_is_used(
    tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    make, line = CHECKPOINTS[name]
    plain, path = tmp_path / "plain.pth", tmp_path / "w.pth"
    plain.write_bytes(saved(state))
    path.write_bytes(saved(make(state)))
    expected = Ensemble("mobilenet_v2", 1, 2, str(plain)).state_dict()
    assert capsys.readouterr().out == ""
    found = Ensemble("mobilenet_v2", 1, 2, str(path)).state_dict()
    assert line in capsys.readouterr().out
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_tilde_is_the_home_folder(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w_mobilenet_v2.pth").write_bytes(saved(state))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.load("mobilenet_v2", "~/w_{backbone}.pth")
    assert weights.describe("mobilenet_v2", "~/w_{backbone}.pth").startswith("w_mobilenet_v2.pth ")
