"""Keys of params.yaml: which values each takes; every slip is one line with the key's full path."""

import importlib
import re

import pytest

from lrec import schema
from lrec.model.backbones import BACKBONES, SHARES


def test_shared_depths_are_those_of_the_model(edited):
    found = [edited("  share: null", f"  share: {share}").train_of("glyphs").share for share in SHARES]
    assert found == list(SHARES)
    with pytest.raises(ValueError, match=f"train.share: found 'layer5', expected {' or '.join(map(repr, SHARES))}$"):
        edited("  share: null", "  share: layer5")


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
            "train.freeze_batch_norm: found true with train.weights none, but a network with random weights has no",
        ),
        (
            "images_per_class: 0",
            "images_per_class: 5",
            "train.images_per_class: found 5, expected a divisor of batch_size 64 that leaves at least two classes",
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
    monkeypatch.setattr(registry, known | {"novel": next(iter(known.values()))})
    if name == "layout":
        new = "layout: novel\n    folder: x"
        old = "layout: glyphs # generated, no download\n    folder: null"
    edited(old, new)
