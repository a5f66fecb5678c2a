"""The weights of a small network."""

import pytest
import torch
import torchvision
from weight_files import State


@pytest.fixture(scope="module")
def state() -> State:
    """A small network that still is one of the pipeline's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torchvision.models.mobilenet_v2(weights=None).state_dict()
