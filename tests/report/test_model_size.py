"""The size of a network is what torchvision says of it."""

import pytest
import torch
import torchvision.models

from lrec.model.backbones import BACKBONES
from lrec.report import model_size


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("share", ["none", "layer1"])
def test_one_branch_has_the_size_of_the_network(backbone: str, share: str):
    weights = torchvision.models.get_model_weights(backbone).IMAGENET1K_V1
    with torch.device("meta"):
        network = torchvision.models.get_model(backbone)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert model_size.count_parameters(backbone, 1, 1000, share) == parameters == weights.meta["num_params"]
    macs = model_size.count_macs(backbone, 1, 1000, weights.transforms().crop_size[0], share)
    # thop counts normalisation too, which is a tenth of what depthwise convolutions leave.
    assert macs / 1e9 == pytest.approx(weights.meta["_ops"], rel=0.1 if backbone == "mobilenet_v2" else 0.02)


def test_branches_are_counted_and_the_stem_once():
    one, two, three = (model_size.count_parameters("convnext_tiny", size, 12) for size in (1, 2, 3))
    assert three - two == two - one < one


def test_compute_of_a_run_follows_from_images_epochs_and_branches():
    settings = {"ensemble_size": 4, "meta_class_size": 8, "image_size": 32, "share": "layer1", "epochs": 7}
    entry = {"backbone": "resnet18", "settings": settings, "counts": {"train": [100, 8]}, "run": {"epochs": 5}}
    image, training = model_size.compute(entry)
    assert image == model_size.count_macs("resnet18", 4, 8, 32)
    assert training == 3 * image * 100 * 5  # it ended early
    assert model_size.compute(entry | {"run": {}})[1] == 3 * image * 100 * 7
    student = entry | {"settings": settings | {"teacher_macs": 1000}}
    assert model_size.compute(student) == (image, training + 100 * (5 * 1000 + image + 1000))
