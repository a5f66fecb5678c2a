"""The ensemble is torchvision's network, cut where the original cuts it; sizes match the original's to the digit."""

import csv
import json
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision.models

from lrec import reference
from lrec.model import saved
from lrec.model.backbones import BACKBONES
from lrec.model.ensemble import Ensemble
from lrec.report import model_size


def original_counts(root: Path) -> list[tuple[str, int, int]]:
    with (root / "data/reference/reported_parameters.csv").open() as stream:
        return [
            (row["backbone"], reference.META_CLASS_SIZE[row["dataset"]], int(row["parameters"]))
            for row in csv.DictReader(stream)
        ]


def test_all_16_parameter_counts_of_the_original(root: Path):
    expected = original_counts(root)
    assert len(expected) == 16
    for backbone, size, count in expected:
        assert model_size.count_parameters(backbone, 48, size) == count


def test_the_count_is_that_of_the_real_module():
    ensemble = Ensemble("resnet18", 3, 7)
    assert model_size.count_parameters("resnet18", 3, 7) == sum(p.numel() for p in ensemble.parameters())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_branch_is_torchvisions_network(backbone: str, tmp_path: Path):
    """With one file of weights, stem and branch compute what the whole network computes."""
    torch.manual_seed(0)
    network = getattr(torchvision.models, backbone)(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / f"{backbone}.pth")
    ensemble = Ensemble(backbone, 2, 5, weights=str(tmp_path / "{backbone}.pth"), seed=1).eval()
    images = torch.randn(2, 3, 64, 64)
    for branch in ensemble.branches:
        network.set_submodule(BACKBONES[backbone].classifier, branch.classifier)
        with torch.inference_mode():
            torch.testing.assert_close(branch(ensemble.stem(images)), network(images))


def test_branches_share_the_weights_but_not_the_classifier(tmp_path: Path):
    safetensors.torch.save_file(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "w.safetensors")
    first, second = Ensemble("resnet18", 2, 5, weights=str(tmp_path / "w.safetensors")).branches
    assert torch.equal(first.layer4[1].conv2.weight, second.layer4[1].conv2.weight)
    assert not torch.equal(first.classifier.weight, second.classifier.weight)
    assert first.layer4[1].conv2.weight.data_ptr() != second.layer4[1].conv2.weight.data_ptr()


def test_without_weights_every_branch_starts_on_its_own():
    first, second = Ensemble("resnet18", 2, 5).branches
    assert not torch.equal(first.layer2[0].conv1.weight, second.layer2[0].conv1.weight)


def test_same_seed_same_bytes_and_no_trace_in_the_global_generator():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    states = [Ensemble("resnet18", 2, 5, seed=seed).state_dict() for seed in (3, 3, 4)]
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_shapes_and_the_embedding():
    ensemble = Ensemble("resnet18", 3, 5).eval()
    with torch.inference_mode():
        logits, embedded = ensemble(torch.randn(4, 3, 32, 32)), ensemble.embed(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 3, 5)
    assert embedded.shape == (4, 15)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(embedded.unflatten(1, (3, 5)).norm(dim=2), torch.full((4, 3), 3**-0.5))


def test_the_dot_product_is_the_mean_cosine_over_branches():
    ensemble = Ensemble("resnet18", 3, 5).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        first, second = ensemble(images)
        left, right = ensemble.embed(images)
    torch.testing.assert_close(left @ right, torch.cosine_similarity(first, second, dim=1).mean())


def test_macs_are_thops_of_the_whole_network():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from thop import profile
    network = torchvision.models.resnet18(num_classes=5)
    whole, _ = profile(network, inputs=(torch.zeros(1, 3, 64, 64),), verbose=False)
    assert model_size.count_macs("resnet18", 1, 5, 64) == whole
    one, two, three = (model_size.count_macs("resnet18", branches, 5, 64) for branches in (1, 2, 3))
    assert three - two == two - one > 0
    # Nothing is shared: as many whole networks.
    assert model_size.count_macs("resnet18", 2, 5, 64, share="none") == 2 * whole


SETTINGS = {"image_size": 32, "normalization": {"mean": [0.5] * 3, "std": [0.25] * 3}, "seed": 0, "epochs": 4}


def test_save_and_load(tmp_path: Path):
    ensemble = Ensemble("resnet18", 2, 5, seed=3)
    config = saved.save(ensemble, tmp_path, SETTINGS)
    loaded, found = saved.load(tmp_path)
    shape = {"backbone": "resnet18", "ensemble_size": 2, "outputs": 5, "share": "layer1"}
    shape |= {"classifier": "linear", "scale": 20.0}
    assert found == config == shape | SETTINGS
    for key, value in ensemble.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_a_config_of_an_earlier_version_has_d_as_its_outputs(tmp_path: Path):
    config = saved.save(Ensemble("resnet18", 2, 5, seed=3), tmp_path, SETTINGS)
    del config["outputs"]
    (tmp_path / saved.CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match="expected the key outputs"):
        saved.load(tmp_path)
    (tmp_path / saved.CONFIG).write_text(json.dumps(config | {"meta_class_size": 5}))
    assert saved.load(tmp_path)[0].outputs == 5


def test_saved_bytes_are_the_same_twice(tmp_path: Path):
    for name in ("one", "two"):
        saved.save(Ensemble("resnet18", 1, 5, seed=3), tmp_path / name, {})
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


def test_damaged_models_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"config\.json: not found"):
        saved.load(tmp_path)
    saved.save(Ensemble("resnet18", 1, 5), tmp_path, SETTINGS)
    whole = (tmp_path / saved.MODEL).read_bytes()
    (tmp_path / saved.MODEL).write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors: does not fit"):
        saved.load(tmp_path)
    (tmp_path / saved.MODEL).write_bytes(whole)
    config = (tmp_path / saved.CONFIG).read_text()
    (tmp_path / saved.CONFIG).write_text(config.replace('"outputs": 5', '"outputs": 6'))
    with pytest.raises(ValueError, match=r"model\.safetensors: does not fit"):
        saved.load(tmp_path)


class Mark:
    """What a hostile file would run when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_weight_files_that_are_none(tmp_path: Path):
    cases = {
        "text.pth": (b"hello", "no weights that load safely"),
        "empty.pth": (b"", "no weights that load safely"),
        "text.safetensors": (b"hello", "no weights that load safely"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            Ensemble("resnet18", 1, 5, weights=str(tmp_path / name))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="found list, expected a state dict"):
        Ensemble("resnet18", 1, 5, weights=str(tmp_path / "list.pth"))
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"entries differ from torchvision's, the first is layer1\.2"):
        Ensemble("resnet18", 1, 5, weights=str(tmp_path / "other.pth"))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth: not found; train\.weights must be"):
        Ensemble("resnet18", 1, 5, weights=str(tmp_path / "nowhere.pth"))


def test_a_hostile_weight_file_runs_nothing(tmp_path: Path):
    mark = tmp_path / "mark"
    torch.save({"conv1.weight": Mark(mark)}, tmp_path / "hostile.pth")
    with pytest.raises(ValueError, match="no weights that load safely"):
        Ensemble("resnet18", 1, 5, weights=str(tmp_path / "hostile.pth"))
    assert not mark.exists()


def test_a_failed_download_names_the_parameter(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(ValueError, match=r"resnet18.*download failed.*set train\.weights"):
        Ensemble("resnet18", 1, 5, weights="imagenet")


def test_unknown_backbone():
    with pytest.raises(ValueError, match="unknown backbone 'resnet19', expected one of resnet18"):
        Ensemble("resnet19", 1, 5)
