"""A named recipe reaches the saved model, with any loss."""

from pathlib import Path

import pytest
import tiny_pipeline as tiny

from lrec import paths
from lrec.io import command
from lrec.model import saved
from lrec.training.losses import LOSSES

UPTO = "meta_classes"


@pytest.mark.parametrize("loss", LOSSES)
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
