"""A named recipe reaches the saved model, with any loss."""

from pathlib import Path

import pytest
import tiny_pipeline as tiny

from lrec import paths
from lrec.io import command
from lrec.model import saved
from lrec.training.losses import LOSSES
from stages import train

UPTO = "meta_classes"


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if not loss.taught])
def test_recommended(root: Path, project: Path, loss: str):
    values = tiny.settings(root)
    values["train"] |= {"recipe": "recommended", "loss": loss, "classifier": "cosine", "images_per_class": 2}
    values["embed"]["kind"] = "features"
    tiny.write_settings(project, values)
    for stage in ("train", "embed"):
        assert command.guard(tiny.STAGES[stage], debug=True) == 0
    model, config = saved.load(paths.model(*tiny.COMBINATION))
    # A loss that learns an embedding has a linear head, in the config as in the network.
    expected = "linear" if LOSSES[loss].is_metric else "cosine"
    assert (config["classifier"], model.classifier.kind) == (expected, expected)
    assert (config["recipe"], config["schedule"]) == ("recommended", "cosine")
    # D is that of the groupings, however many outputs a branch has; and the config tells one grouping from another.
    assert config["meta_class_size"] == values["variants"]["tiny"]["meta_class_size"]
    assert config["outputs"] == model.outputs == (values["train"]["embedding_size"] if LOSSES[loss].is_metric else 2)
    assert config["meta_classes"]


def test_the_first_line_says_precision_and_device(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As it is chosen: bfloat16 on a GPU that has it, see tests/compute/test_device.py."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit", stop)
    monkeypatch.setattr(train.device, "choose_precision", lambda _, precision: {"auto": "bfloat16"}[precision])
    capsys.readouterr()
    with pytest.raises(KeyboardInterrupt):
        train.main(*tiny.COMBINATION)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("tiny/mobilenet_v2: training in bfloat16 on CPU, ")
