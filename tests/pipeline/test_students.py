"""From an ensemble to one network: exported as a teacher, it gives another training its start and its targets."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from tiny_pipeline import COMBINATION, STAGES, refused, write_settings

from lrec import export, params, paths
from lrec.data import teacher
from lrec.model import saved

UPTO = "meta_classes"
RUN = "tiny/mobilenet_v2"
FOLDER = Path("exported", RUN, "teacher")
ONE = {"ensemble_size": 1, "meta_class_size": "all"}


def choose(folder: Path, block: dict | None = None, **train: object) -> None:
    """Change the section `train` and the variant's block."""
    settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    settings["embed"] |= {"kind": "features"}
    settings["train"] |= {"weights": "start.pth", "freeze_batch_norm": True} | train
    settings["variants"]["tiny"] |= {"train": {"batch_size": 6}} | (block or {})
    write_settings(folder, settings)


@pytest.fixture(autouse=True)
def taught(project: Path) -> None:
    """An ensemble that starts from one network and is exported as a teacher."""
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), "start.pth")
    choose(project)
    STAGES["train"]()
    STAGES["embed"]()
    assert export.main([RUN, "--format", "teacher"]) == 0


def run_all() -> tuple[dict, dict]:
    """Run the later stages; return the model's config and the run's only entry of its name in the ledger."""
    for name in ("meta_classes", "train", "embed", "evaluate", "report", "check"):
        STAGES[name]()
    entries = json.loads(paths.LEDGER.read_text())["tiny"]
    return saved.read_config(paths.model(*COMBINATION)), entries


def test_a_student_learns_from_it_and_is_a_run_like_any_other(project: Path):
    width = np.load(FOLDER / teacher.EMBEDDINGS, mmap_mode="r").shape[1]
    start = {"weights": str(FOLDER / teacher.AVERAGE), "teacher": str(FOLDER), "loss": "distillation"}
    choose(project, ONE, **start)
    config, entries = run_all()
    assert config["teacher"].startswith(f"{RUN} ")
    assert config["meta_class_size"] == width
    assert config["weights"].startswith(f"{teacher.AVERAGE} ")
    assert any("M=1" in name and "distillation" in name for name in entries)


def test_the_average_itself_is_a_run_without_epochs(project: Path):
    choose(project, ONE | {"epochs": 0}, weights=str(FOLDER / teacher.AVERAGE))
    before = saved.load(paths.model(*COMBINATION))[0]
    config, entries = run_all()
    assert config["epochs"] == 0
    assert any("M=1" in name and "no epochs" in name for name in entries)
    after = saved.load(paths.model(*COMBINATION))[0]
    mean = sum(branch.get_submodule("features_18")[0].weight for branch in before.branches) / 2
    torch.testing.assert_close(after.branches[0].get_submodule("features_18")[0].weight, mean)
    assert "epoch" in paths.history(*COMBINATION).read_text()


def test_a_teacher_of_other_images_is_refused(project: Path, capsys: pytest.CaptureFixture):
    choose(project, ONE | {"image_size": 40}, teacher=str(FOLDER), loss="distillation")
    STAGES["preprocess"]()
    STAGES["meta_classes"]()
    assert "other training images" in refused(STAGES["train"], capsys)


def test_a_teacher_that_was_changed_is_refused(project: Path, capsys: pytest.CaptureFixture):
    choose(project, ONE, teacher=str(FOLDER), loss="distillation")
    STAGES["meta_classes"]()
    np.save(FOLDER / teacher.EMBEDDINGS, 2 * np.load(FOLDER / teacher.EMBEDDINGS))
    assert "beside it describes" in refused(STAGES["train"], capsys)


def test_a_folder_without_a_teacher_names_the_command(project: Path, capsys: pytest.CaptureFixture):
    choose(project, teacher="exported/tiny", loss="distillation")
    assert "--format teacher" in refused(STAGES["train"], capsys)


@pytest.mark.parametrize("values", [{"teacher": str(FOLDER)}, {"loss": "distillation"}])
def test_teacher_and_loss_come_together(project: Path, values: dict):
    choose(project, **values)
    with pytest.raises(ValueError, match=r"train\.teacher: found"):
        params.load()


def test_an_export_says_why_there_is_no_average(project: Path, capsys: pytest.CaptureFixture):
    choose(project, freeze_batch_norm=False)
    STAGES["train"]()
    STAGES["embed"]()
    assert export.main([RUN, "--format", "teacher"]) == 0
    assert f"without {teacher.AVERAGE}: its batch norms were trained apart" in capsys.readouterr().out
    assert sorted(path.name for path in FOLDER.iterdir()) == [teacher.FACTS, teacher.EMBEDDINGS]


def test_without_embeddings_of_this_model_there_is_no_teacher(project: Path, capsys: pytest.CaptureFixture):
    choose(project, seed=1)
    STAGES["train"]()
    assert export.main([RUN, "--format", "teacher"]) == 1
    assert "made with other weights" in capsys.readouterr().err
