"""params.yaml is read strictly: every slip is one line with the key's full path."""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lrec import params, schema
from lrec.io import strict_yaml
from lrec.model.backbones import BACKBONES, SHARES


@pytest.fixture
def edited(tmp_path: Path, root: Path):
    """A function that loads the project's params.yaml with one replacement."""

    def load(old: str, new: str) -> params.Params:
        text = (root / "params.yaml").read_text(encoding="utf-8")
        assert old in text
        path = tmp_path / "params.yaml"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return params.load(path)

    return load


def test_the_projects_file_is_valid(root: Path):
    settings = params.load(root / "params.yaml")
    assert settings.datasets == ["glyphs"]
    recipe = settings.train_of("sop")
    assert recipe.batch_size == 10
    assert recipe.learning_rate == 1e-4


def test_shared_depths_are_those_of_the_model(edited):
    found = [edited("  share: null", f"  share: {share}").train_of("glyphs").share for share in SHARES]
    assert found == list(SHARES)
    with pytest.raises(ValueError, match=f"train.share: found 'layer5', expected {' or '.join(map(repr, SHARES))}$"):
        edited("  share: null", "  share: layer5")


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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size: null\n", "batch_sise: 10\n", "train.batch_sise: unknown key; did you mean batch_size?"),
        ("  batch_size: null\n", "", "train.batch_size: missing"),
        ("batch_size: null\n", "batch_size: ten\n", "train.batch_size: found 'ten', expected a valid integer"),
        ("batch_size: null\n", "batch_size: 10.5\n", "train.batch_size: found 10.5"),
        ("batch_size: null\n", "batch_size: true\n", "train.batch_size: found True"),
        ("batch_size: null\n", "batch_size: 1\n", "train.batch_size: found 1, expected greater than or equal to 2"),
        ("batch_size: null\n", "batch_size: 10\n  batch_size: 12\n", "key 'batch_size' given twice"),
        ("flip: true", "flip: 'yes'", "train.flip: found 'yes'"),
        ("milestones: [0.5, 0.7]", "milestones: [0.5, 7]", "train.milestones.1: found 7"),
        (
            "warmup_epochs: null",
            "warmup_epochs: 7",
            "train.warmup_epochs: found 7, expected less than the 7 epochs of variants.glyphs",
        ),
        (
            "milestones: [0.7, 0.9]",
            "milestones: [0.7, 0.9], warmup_epochs: 7",
            "params.yaml: variants.glyphs.train.warmup_epochs: found 7, expected less than the 7 epochs of variants.gl",
        ),
        (
            "freeze_batch_norm: null",
            "freeze_batch_norm: true",
            "train.freeze_batch_norm: found true with train.weights none, but a network that starts at random has no",
        ),
        (
            "images_per_class: 0",
            "images_per_class: 5",
            "train.images_per_class: found 5, expected a divisor of batch_size 64 that leaves two classes or more",
        ),
        ("images_per_class: 0", "images_per_class: 64", "train.images_per_class: found 64, expected a divisor"),
        ("learning_rate: 0.001", "recipe: [original]", "variants.glyphs.train.recipe: found ['original'], expected"),
        (
            "precision: float32",
            "precision: int8",
            "embed.precision: found int8, which runtime torch does not have; set embed.runtime to onnxruntime or",
        ),
        ("datasets: [glyphs]", "datasets: [glyfs]", "unknown variant 'glyfs', expected one of glyphs, car_uncropped"),
        ("\n  kind: logits", "\n  kind: logit", "embed.kind: found 'logit', expected 'logits' or 'features'"),
        ("audit_tolerance: 0.0001", "audit_tolerance: 0.0", "evaluate.audit_tolerance: found 0.0, expected greater"),
        ("datasets: [glyphs]", "datasets: []", "datasets: found []"),
        ("datasets: [glyphs]", "datasets: [glyphs, glyphs]", "expected no entry twice"),
        ("backbones: [resnet18]", "backbones: [resnet19]", "backbones.0: found 'resnet19', expected 'resnet18'"),
        ("layout: car\n", "layout: cars\n", "variants.car_uncropped.layout: found 'cars', expected"),
        ("folder: car ", "folder: null ", "variants.car_uncropped: found"),
        (
            "image_size: 256",
            "image_sise: 256",
            "variants.car_uncropped.image_sise: unknown key; did you mean image_",
        ),
        (
            "recall_at: [1, 2, 4, 8]",
            "recall_at: [2, 1]",
            "variants.glyphs.recall_at: found [2, 1], expected incr",
        ),
        ("learning_rate: 0.001", "learning_rte: 0.001", "variants.glyphs.train.learning_rte: unknown key"),
        ("learning_rate: 0.001", "learning_rate: fast", "variants.glyphs.train.learning_rate: found 'fast'"),
        ("normalize: {mean: [0.4853,", "normalize: {mean: [a,", "variants.car_uncropped.normalize.mean.0: found 'a'"),
        ("train:\n", "train: [\n", "not readable as YAML"),
        (
            "    batch_size: 10",
            "    batch_sise: 10",
            "recipes.original.batch_sise: unknown key",
        ),
        (
            "    batch_size: 10",
            "    batch_size: null",
            "recipes.original.batch_size: found None",
        ),
    ],
)
def test_slips_are_named(edited, old: str, new: str, message: str):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as raised:
        edited(old, new)
    assert message in str(raised.value)
    assert str(raised.value).count("params.yaml") == 1


def test_a_recipe_freezes_only_the_statistics_of_starting_weights(edited):
    settings = edited("recipe: original #", "recipe: recommended #")
    assert not settings.train_of("glyphs").freeze_batch_norm
    assert settings.train_of("car_cropped").freeze_batch_norm


def test_a_null_in_a_variants_block_hides_nothing(edited):
    settings = edited("learning_rate: 0.001", "learning_rate: 0.001, share: null, loss: null")
    assert settings.without_effect("glyphs", ["share", "loss"]) == []


def test_what_a_loss_does_not_use_is_said(edited):
    proxies = edited("  loss: null", "  loss: proxy_anchor")
    assert proxies.without_effect("glyphs", ["label_smoothing", "embedding_size"]) == [
        "train.label_smoothing: 0.0 has no effect while train.loss is proxy_anchor"
    ]
    assert edited("flip: true", "flip: true").without_effect("glyphs", ["embedding_size"]) == [
        "train.embedding_size: 512 has no effect while train.loss is cross_entropy"
    ]


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


@pytest.mark.parametrize(("old", "new"), schema.MOVED.items())
def test_a_key_that_moved_is_refused_with_its_new_name(edited, old: str, new: str):
    section, _, key = old.partition(".")
    change = ("datasets: [glyphs]", "datasets: [glyphs]\npreprocess: {workers: 0}")
    if key:
        change = (f"{section}:\n", f"{section}:\n  {key}: 1\n")
    with pytest.raises(ValueError, match=rf"^params\.yaml: {re.escape(old)}: moved; set {re.escape(new)} instead$"):
        edited(*change)


def test_a_variants_own_key_that_moved_is_refused(edited):
    with pytest.raises(ValueError, match=r"variants\.glyphs\.train\.device: moved; set machine\.device instead"):
        edited("train: {weights: none,", "train: {device: cpu, weights: none,")


def test_new_names_of_moved_keys_exist():
    assert {new.partition(".")[2] for new in schema.MOVED.values()} <= set(schema.Machine.model_fields)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_registered_backbone_is_accepted(edited, name: str):
    assert edited("backbones: [resnet18]", f"backbones: [{name}]").backbones == [name]


@pytest.mark.parametrize("name", ["layout", "backbone", "kind", "loss"])
def test_a_new_entry_of_a_registry_is_accepted_by_the_schema(edited, monkeypatch: pytest.MonkeyPatch, name: str):
    registry, (old, new) = {
        "layout": ("lrec.datasets.reader.LAYOUTS", ("layout: glyphs", "layout: novel")),
        "backbone": ("lrec.model.backbones.BACKBONES", ("backbones: [resnet18]", "backbones: [novel]")),
        "kind": ("lrec.model.kinds.KINDS", ("\n  kind: logits", "\n  kind: novel")),
        "loss": ("lrec.training.losses.LOSSES", ("loss: cross_entropy", "loss: novel")),
    }[name]
    with pytest.raises(ValueError, match="found 'novel', expected "):
        edited(old, new)
    known = importlib.import_module(registry.rpartition(".")[0]).__dict__[registry.rpartition(".")[2]]
    monkeypatch.setattr(registry, known | {"novel": next(reversed(known.values()))})
    if name == "layout":
        new = "layout: novel\n    folder: x"
        old = "layout: glyphs # generated, no download\n    folder: null"
    edited(old, new)


def test_checking_the_file_loads_no_torch(root: Path):
    """The stages before training start in a moment."""
    code = "import sys; from lrec import params; params.load(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_settings_that_do_nothing_are_said(edited):
    settings = edited("  batch_size: null", "  batch_size: 4")
    given = ["batch_size", "seed", "gamma", "scale", "loss_learning_rate", "patience", "milestones"]
    assert settings.without_effect("glyphs", given) == [
        "train.batch_size: 4 has no effect on glyphs, whose own block says 64; set variants.glyphs.train.batch_size",
        "train.scale: 20.0 has no effect while train.classifier is linear",
        "train.loss_learning_rate: 0.01 has no effect while train.loss is cross_entropy",
        "train.patience: 5 has no effect while train.validation_share is 0.0",
        "train.milestones: [0.5, 0.7] has no effect on glyphs, whose own block says [0.7, 0.9]; "
        "set variants.glyphs.train.milestones",
    ]
    assert settings.without_effect("sop", ["batch_size", "gamma"]) == []
    settings = edited("  loss: null", "  loss: multi_similarity")
    assert settings.without_effect("glyphs", ["embedding_size", "loss_learning_rate"]) == [
        "train.loss_learning_rate: 0.01 has no effect while train.loss is multi_similarity"
    ]
    assert settings.without_effect("glyphs", []) == []


def test_settings_of_a_variant_that_is_not_listed_are_said(edited):
    settings = edited("  batch_size: 10", "  batch_size: 4")
    assert settings.unlisted("cub_cropped", ["image_size", "epochs"]) == (
        "variants.cub_cropped: image_size 256, epochs 20: no effect, since datasets is [glyphs]; "
        "add cub_cropped to datasets, or set it in variants.glyphs"
    )
    assert settings.unlisted("glyphs", ["epochs"]) == settings.unlisted("cub_cropped", []) == ""


def test_settings_that_others_make_useless_are_said(edited):
    settings = edited("load_ids: null", "load_ids: a.csv")
    assert settings.unused("meta_classes", ["seed", "load_ids"]) == [
        "meta_classes.seed: 0 has no effect while meta_classes.load_ids is a.csv"
    ]
    assert settings.unused("evaluate", ["subsets", "analysis_images"]) == []


@pytest.mark.parametrize("variable", ["~/sets", ""])
def test_the_home_folder_is_meant(edited, monkeypatch: pytest.MonkeyPatch, variable: str):
    monkeypatch.setenv("HOME", "/home/you")
    monkeypatch.setenv("LREC_DATA", variable)
    assert edited("data_root: data/raw", "data_root: ~/sets").raw_root() == Path("/home/you/sets")


def test_keys_that_can_be_unused_exist():
    for section, keys in schema.UNUSED.items():
        known = params.Params.model_fields[section].annotation.model_fields
        assert all(key in known and other in known for key, (other, _) in keys.items())
