"""The cosine classifier: invariances, bytes from a seed, counts, saving and exporting."""

from pathlib import Path

import pytest
import torch
import torchvision.models
from torch.nn.functional import cosine_similarity

from lrec.model import saved
from lrec.model.classifiers import Classifier, Cosine
from lrec.model.ensemble import Ensemble
from lrec.report import model_size

COSINE = Classifier("cosine", 16.0)
SETTINGS = {"image_size": 32, "normalization": {"mean": [0.5] * 3, "std": [0.25] * 3}, "seed": 0}


def test_outputs_are_scaled_cosines_whatever_the_lengths():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 8, generator=generator)
    classifier = COSINE.build(8, 3)
    assert isinstance(classifier, Cosine)
    expected = 16 * cosine_similarity(features[:, None], classifier.weight[None], dim=2)
    torch.testing.assert_close(classifier(features), expected)
    torch.testing.assert_close(classifier(7 * features), expected)
    with torch.no_grad():
        classifier.weight.mul_(3)
    torch.testing.assert_close(classifier(features), expected)


def test_weights_start_short():
    """Long ones would hardly turn: Adam moves each weight by about the learning rate."""
    lengths = COSINE.build(1280, 98).weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((98,), 0.25), atol=0.025, rtol=0)


def test_it_has_one_weight_per_output_and_no_bias():
    linear, cosine = (model_size.count_parameters("resnet18", 3, 5, classifier=c) for c in (Classifier(), COSINE))
    assert linear - cosine == 3 * 5


@pytest.mark.parametrize("weights", [None, "file"])
def test_branches_start_with_classifiers_of_their_own(tmp_path: Path, weights: str | None):
    if weights:
        path = tmp_path / "resnet18.pth"
        torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
        weights = str(path)
    first, again = (Ensemble("resnet18", 2, 5, weights, seed=4, classifier=COSINE) for _ in range(2))
    one, two = (branch.classifier.weight for branch in first.branches)
    assert not torch.equal(one, two)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_it_is_saved_and_loaded(tmp_path: Path):
    ensemble = Ensemble("mobilenet_v2", 2, 5, classifier=COSINE)
    config = saved.save(ensemble, tmp_path, SETTINGS)
    assert (config["classifier"], config["scale"]) == ("cosine", 16.0)
    loaded, _ = saved.load(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded.eval()(images), ensemble.eval()(images))


def test_a_config_from_before_there_was_a_choice_is_linear():
    assert saved.classifier({}) == Classifier("linear", 20.0)
    assert saved.classifier({"classifier": "cosine", "scale": 30.0}) == Classifier("cosine", 30.0)
