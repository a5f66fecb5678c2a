"""params.yaml is read strictly: the file, which of its values wins, and where the data are."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lrec import params, reference
from lrec.io import strict_yaml


def test_the_projects_file_is_valid(root: Path):
    settings = params.load(root / "params.yaml")
    assert settings.datasets == ["glyphs"]
    recipe = settings.train_of("sop")
    assert recipe.batch_size == 10
    assert recipe.learning_rate == 1e-4


def test_the_ledger_knows_the_published_recipes(root: Path):
    settings = params.load(root / "params.yaml")
    assert {name: recipe.model_dump() for name, recipe in settings.recipes.items()} == reference.RECIPES
    train = settings.train.model_dump()
    assert {key: train[key] for key in reference.TRAIN} == reference.TRAIN
    machine_and_start = {"recipe", "weights", "teacher", "validation_share", "validation_kind", "patience"}
    machine_and_start |= {"precision", "tf32", "compile", "cuda_graphs", "parallel"}
    assert train.keys() - reference.TRAIN.keys() - reference.RECIPES["original"].keys() == machine_and_start


def test_settings_of_the_original(root: Path):
    variants = params.load(root / "params.yaml").variants
    found = {name: (v.ensemble_size, v.meta_class_size, v.epochs, v.image_size) for name, v in variants.items()}
    del found["glyphs"]
    cars = (48, 12, 20, 256)
    assert found == {
        "car_uncropped": cars,
        "car_cropped": cars,
        "cub_uncropped": cars,
        "cub_cropped": cars,
        "sop": (48, 512, 40, 256),
        "isc": (48, 192, 40, 256),
    }


def test_a_recipe_freezes_only_the_statistics_of_starting_weights(edited):
    settings = edited("recipe: original #", "recipe: recommended #")
    assert not settings.train_of("glyphs").freeze_batch_norm
    assert settings.train_of("car_cropped").freeze_batch_norm


def test_numbers_in_scientific_notation_are_numbers(edited):
    assert edited("  learning_rate: null", "  learning_rate: 1e-4").train.learning_rate == 1e-4


def test_a_recipes_warm_up_takes_at_most_half_of_the_epochs(edited):
    settings = edited("recipe: original #", "recipe: recommended #")
    for epochs, expected in [(7, 1), (2, 1), (1, 0.5), (0, 0)]:
        settings.variants["glyphs"] = settings.variants["glyphs"].model_copy(update={"epochs": epochs})
        assert settings.train_of("glyphs").warmup_epochs == expected


def test_a_variants_recipe_wins_over_the_section(edited):
    recipe = edited("batch_size: null\n", "batch_size: 12\n").train_of("glyphs")
    assert (recipe.batch_size, recipe.gamma) == (64, 0.1)


def test_what_differs_from_the_recipe_is_found_wherever_it_is_set(edited):
    own = {"weights": "none", "batch_size": 64, "learning_rate": 0.001, "milestones": [0.7, 0.9], "flip": False}
    settings = edited("  loss: null", "  loss: norm_softmax")
    assert settings.overrides("glyphs") == {"loss": "norm_softmax"} | own
    assert settings.overrides("sop") == {"loss": "norm_softmax"}
    assert edited("  loss: null", "  loss: cross_entropy").overrides("sop") == {}


def test_a_missing_file_says_where_to_run(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="run from the repository's root"):
        params.load(tmp_path / "params.yaml")


def test_not_a_mapping(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ValueError, match="found list, expected a mapping"):
        params.load(path)


def test_the_environment_variable_wins(root: Path, monkeypatch: pytest.MonkeyPatch):
    settings = params.load(root / "params.yaml")
    monkeypatch.delenv("LREC_DATA", raising=False)
    assert settings.raw_root() == Path("data/raw")
    monkeypatch.setenv("LREC_DATA", "/elsewhere")
    assert settings.raw_root() == Path("/elsewhere")


def test_dvc_reads_the_same_values(root: Path, tmp_path: Path):
    """DVC parses YAML 1.2 with ruamel; both readers must see the same numbers."""
    from dvc.utils.serialize import load_yaml

    shutil.copy(root / "params.yaml", tmp_path)
    ours = yaml.load((tmp_path / "params.yaml").read_text(encoding="utf-8"), Loader=strict_yaml.Loader)
    assert load_yaml(str(tmp_path / "params.yaml")) == ours


@pytest.mark.parametrize("name", ["glyphs", "car_cropped"])
def test_blocks_come_back_as_they_stand(root: Path, name: str):
    settings = params.load(root / "params.yaml")
    assert settings.variant(name).model_dump() == yaml.safe_load((root / "params.yaml").read_text())["variants"][name]


def test_checking_the_file_loads_no_torch(root: Path):
    """The stages before training start in a moment."""
    code = "import sys; from lrec import params; params.load(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


@pytest.mark.parametrize("variable", ["~/sets", ""])
def test_the_home_folder_is_meant(edited, monkeypatch: pytest.MonkeyPatch, variable: str):
    monkeypatch.setenv("HOME", "/home/you")
    monkeypatch.setenv("LREC_DATA", variable)
    assert edited("data_root: data/raw", "data_root: ~/sets").raw_root() == Path("/home/you/sets")
