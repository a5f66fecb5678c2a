"""The figures: true shapes, what is shown of whom, and the same bytes every time."""

import copy
from pathlib import Path

import matplotlib
import pytest
from ledger_entries import full_size
from PIL import Image

from lrec import reference
from lrec.model.backbones import BACKBONES
from lrec.report import diagram, figures, naming


@pytest.fixture(scope="module")
def entry(root: Path) -> dict:
    """A result at the original's settings."""
    return full_size(variant="car_uncropped", recall={"1": 0.9012})


def test_shapes_are_the_models():
    found = diagram.shapes("resnet18", 48, 12, 256)
    assert list(found) == [
        *("image", "conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
        *("pool", "flatten", "classifier", "embedding"),
    ]
    assert found["layer1"] == (64, 64, 64)
    assert found["layer4"] == (512, 8, 8)
    assert found["flatten"] == (512,)
    assert found["embedding"] == (576,)
    assert diagram.shapes("resnet50", 2, 5, 64)["layer4"] == (2048, 2, 2)


def test_rows_of_cars(root: Path, entry: dict):
    found = figures.rows("car_uncropped", root / "data/reference", {"resnet18": entry})
    assert list(found) == [name for name in figures.TITLES if name in found]
    assert [(row.name, row.values) for row in found["resnet18"]] == [
        ("LREC, ours", {"ours": pytest.approx(90.12)}),
        ("LREC", {"clean": 89.85, "reported": 93.4}),
        ("DREML (48 networks), 2018", {"secondary": 86.0}),
        ("DREML re-run (48 networks), 2019", {"source": 85.0}),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"partial": True},
        {"kind": "features"},
        {"ensemble_size": 4},
        {"meta_class_size": 13},
        {"image_size": 128},
        {"share": "none"},
        {"epochs": 1},
        {"batch_size": 32},
        {"learning_rate": 0.001},
        {"schedule": "cosine"},
        {"freeze_batch_norm": True},
        {"label_smoothing": 0.1},
        {"seed": 1},
        {"resize": "crop"},
        {"weights": "none"},
        {"weights": "imagenet21k.pth f37072fd0123abcd"},
        {"warmup_epochs": 1.0},
        {"random_crop": 0.5},
        {"kept_epoch": 20},
    ],
)
def test_what_is_not_the_benchmark_is_not_shown(root: Path, entry: dict, change: dict):
    other = copy.deepcopy(entry)
    (other if change.keys() & other.keys() else other["settings"]).update(change)
    assert naming.is_full_size(entry)
    assert not naming.is_full_size(other)
    found = figures.rows("car_uncropped", root / "data/reference", {"resnet18": other})
    assert found == figures.rows("car_uncropped", root / "data/reference", {})


def test_a_benchmark_without_recall_at_1_is_not_shown(root: Path, entry: dict):
    other = copy.deepcopy(entry)
    other["recall"] = {"10": 0.99}
    found = figures.rows("car_uncropped", root / "data/reference", {"resnet18": other})
    assert found == figures.rows("car_uncropped", root / "data/reference", {})


def test_nothing_published_is_lost(root: Path):
    published = (root / "data/reference/published_recall.csv").read_text(encoding="utf-8").splitlines()[1:]
    at_1 = [line for line in published if line.split(",")[6] == "1"]
    shown = [
        row
        for variant in reference.VARIANTS
        for group in figures.rows(variant, root / "data/reference", {}).values()
        for row in group
        if row.name != "LREC"
    ]
    assert len(shown) == len(at_1) > 0


def test_every_backbone_has_its_place():
    assert set(BACKBONES) <= set(figures.TITLES)


@pytest.mark.parametrize("backbone", ["convnext_tiny", "efficientnet_v2_s"])
def test_a_new_backbone_is_drawn_once_it_has_figures(root: Path, entry: dict, backbone: str):
    assert backbone not in figures.rows("car_uncropped", root / "data/reference", {})
    found = figures.rows("car_uncropped", root / "data/reference", {backbone: entry})
    assert [(row.name, row.values) for row in found[backbone]] == [("LREC, ours", {"ours": pytest.approx(90.12)})]


def test_a_users_own_style_changes_nothing(root: Path, tmp_path: Path):
    reference, panel = root / "data/reference", figures.PANELS["sota_isc"]
    figures.comparison(tmp_path / "a.png", panel, reference, {})
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.bbox": "tight"}):
        figures.comparison(tmp_path / "b.png", panel, reference, {})
        diagram.draw(tmp_path / "d.png", "resnet18", 2, 5, 64)
        assert matplotlib.rcParams["font.size"] == 30
    diagram.draw(tmp_path / "c.png", "resnet18", 2, 5, 64)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "d.png").read_bytes()


def test_same_bytes_and_no_metadata(root: Path, tmp_path: Path, entry: dict):
    reference, known = root / "data/reference", {"cub_cropped": {"resnet18": entry}}
    for name in ("a", "b"):
        figures.comparison(tmp_path / f"{name}.png", figures.PANELS["sota_car_cub_crop"], reference, known)
        diagram.draw(tmp_path / f"{name}_diagram.png", "resnet18", 48, 12, 256)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a_diagram.png").read_bytes() == (tmp_path / "b_diagram.png").read_bytes()
    figures.comparison(tmp_path / "c.png", figures.PANELS["sota_car_cub_crop"], reference, {})
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert set(image.info) == {"dpi"}
