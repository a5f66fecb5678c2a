"""A student of an exported network is a run like any other, whatever its backbone; a killed one resumes."""

import json
from pathlib import Path

import pytest
import yaml
from small_training import interrupted
from tiny_pipeline import COMBINATION, STAGES, replace, write_settings

from lrec import export, paths
from lrec.io import command
from lrec.model import saved

UPTO = "embed"
RUN = "tiny/mobilenet_v2"
TEACHER = Path("exported", RUN, "exported/model.pt2")


def taught(folder: Path, epochs: int = 1, **changes: object) -> None:
    """Set the pipeline to train one network on the embeddings of the teacher, which is exported if it is not yet."""
    if not TEACHER.exists():
        assert export.main([RUN, "--format", "exported"]) == 0
    settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    settings["train"] |= {"loss": "distillation", "teacher": str(TEACHER)} | changes
    settings["machine"]["checkpoint_minutes"] = 1e-9  # after each step
    settings["variants"]["tiny"] |= {"ensemble_size": 1, "meta_class_size": "all", "epochs": epochs}
    write_settings(folder, settings)
    STAGES["meta_classes"]()


def test_it_is_trained_embedded_and_reported(project: Path):
    taught(project)
    for name in ("train", "embed", "evaluate", "report", "check"):
        STAGES[name]()
    model, config = saved.load(paths.model(*COMBINATION))
    assert model.outputs == 4  # two branches of two logits
    assert config["teacher"].split()[0] == TEACHER.name
    assert config["teacher_macs"] > 10**6
    assert any("M=1" in name and "distillation" in name for name in json.loads(paths.LEDGER.read_text())["tiny"])


@pytest.mark.slow  # test_killed.py kills trainings with other losses
def test_a_killed_one_resumes_to_the_same_bytes(project: Path, capsys: pytest.CaptureFixture):
    taught(project, epochs=3)
    STAGES["train"]()
    weights = paths.model(*COMBINATION) / saved.MODEL
    expected, history = weights.read_bytes(), paths.history(*COMBINATION).read_bytes()
    with interrupted(3):
        STAGES["train"]()
    STAGES["train"]()
    assert "resuming from a checkpoint: epoch 2, step 2" in capsys.readouterr().out
    assert (weights.read_bytes(), paths.history(*COMBINATION).read_bytes()) == (expected, history)


def test_without_a_teacher_or_with_a_damaged_one_training_is_refused(project: Path, capsys: pytest.CaptureFixture):
    taught(project)
    settings = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    settings["train"]["teacher"] = None
    write_settings(project, settings)
    assert command.guard(STAGES["train"]) == 1
    assert "error: params.yaml: train.teacher: found null with train.loss distillation" in capsys.readouterr().err
    replace(TEACHER, TEACHER.read_bytes()[:1000])
    taught(project)
    assert command.guard(STAGES["train"]) == 1
    assert f"error: {TEACHER}: does not embed images of 32 pixels" in capsys.readouterr().err
