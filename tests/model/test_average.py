"""The average of an ensemble's branches is one network in torchvision's terms."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from lrec.model import average
from lrec.model.ensemble import Ensemble

STARTED = {"weights": "a.pth 0123456789abcdef"}


def apart(backbone: str, branches: int) -> Ensemble:
    """An ensemble whose branches differ in their weights alone."""
    model = Ensemble(backbone, branches, 3)
    for branch in model.branches[1:]:
        for own, first in zip(branch.buffers(), model.branches[0].buffers(), strict=True):
            own.copy_(first)
    return model


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "convnext_tiny"])
def test_one_branch_is_the_network_itself(backbone: str, tmp_path: Path):
    """Read back as starting weights, it gives the same features, whatever the shared depth."""
    model = Ensemble(backbone, 1, 3, share="layer3").eval()
    path = tmp_path / "average.safetensors"
    safetensors.torch.save_file(average.weights(model, STARTED), path)
    again = Ensemble(backbone, 1, 5, str(path), share="layer1").eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again.embed(images, "features"), model.embed(images, "features"))


def test_weights_are_means_and_fit_torchvision():
    model = apart("resnet18", 3)
    found = average.weights(model, STARTED)
    mean = sum(branch.layer4[0].conv1.weight for branch in model.branches) / 3
    torch.testing.assert_close(found["layer4.0.conv1.weight"], mean)
    torch.testing.assert_close(found["conv1.weight"], model.stem.conv1.weight)
    strange = torchvision.models.resnet18().load_state_dict(found, strict=False)
    assert strange.missing_keys == ["fc.weight", "fc.bias"]
    assert not strange.unexpected_keys


def test_branches_that_started_apart_have_no_average():
    with pytest.raises(ValueError, match="started at random"):
        average.weights(apart("resnet18", 2), {"weights": "none"})


def test_batch_norms_trained_apart_have_no_average():
    model = apart("resnet18", 2)
    model.branches[1].layer4[0].bn1.running_mean += 1
    with pytest.raises(ValueError, match="freeze_batch_norm"):
        average.weights(model, STARTED)
