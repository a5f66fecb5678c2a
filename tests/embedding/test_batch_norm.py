"""Folding batch norms changes the operations of a network and not its outputs."""

from copy import deepcopy

import pytest
import torch
import torchvision
from torch import nn

from lrec.embedding import batch_norm
from lrec.model.backbones import BACKBONES
from lrec.model.ensemble import Ensemble


def stir(network: nn.Module) -> nn.Module:
    """Give every batch norm statistics and weights that are far from the identity."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_var, 0.5), (module.weight, 0.5), (module.bias, -0.5)):
                tensor.data.uniform_(low, low + 1, generator=generator)
            module.running_mean.normal_(0, 0.3, generator=generator)
    return network.eval()


def settle(network: nn.Module) -> nn.Module:
    """Take the statistics of noise, so that what tells images apart reaches the end of a deep network."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(2)))
    return network.eval()


@pytest.mark.parametrize("backbone", list(BACKBONES))
@pytest.mark.parametrize("kind", ["logits", "features"])
def test_folded_equals_naive(backbone: str, kind: str):
    """In float64, so that what is left is a difference of the networks and not of rounding."""
    ensemble = settle(stir(Ensemble(backbone, 2, 5))).double()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    folded = batch_norm.fold(deepcopy(ensemble)).to(memory_format=torch.channels_last)
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.inference_mode():
        naive, ours = ensemble.embed(images, kind), folded.embed(images, kind)
    assert naive.shape == (3, ensemble.width(kind))
    torch.testing.assert_close(ours, naive, rtol=0, atol=1e-6)
    assert (naive[0] - naive[1]).abs().max() > 1e-3


def test_pairs_of_a_mobilenet():
    network = stir(torchvision.models.mobilenet_v2(num_classes=5))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    folded = batch_norm.fold(deepcopy(network))
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.inference_mode():
        expected, found = network(images), folded(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_a_batch_norm_before_its_convolution_stays():
    network = stir(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)))
    images = torch.randn(2, 3, 4, 4)
    expected = network(images)
    folded = batch_norm.fold(network)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == 2
    torch.testing.assert_close(folded(images), expected)


def test_folding_twice_changes_nothing():
    folded = batch_norm.fold(stir(Ensemble("resnet18", 1, 5)))
    before = deepcopy(folded.state_dict())
    after = batch_norm.fold(folded).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
