"""Settings that do nothing are named, with what makes them useless."""

from lrec import params, schema


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


def test_what_only_a_student_uses_is_said(edited):
    assert edited("  teacher: null", "  teacher: a.pt2").without_effect("glyphs", ["teacher"]) == [
        "train.teacher: a.pt2 has no effect while train.loss is cross_entropy"
    ]
    assert edited("seed: 0", "seed: 0").without_effect("glyphs", ["teacher", "classifier"]) == []  # null again
    student = edited("learning_rate: 0.001", "learning_rate: 0.001, loss: distillation, teacher: a.pt2")
    assert student.without_effect("glyphs", ["embedding_size"]) == [
        "train.embedding_size: 512 has no effect while train.loss is distillation"
    ]


def test_settings_that_do_nothing_are_said(edited):
    settings = edited("  batch_size: null", "  batch_size: 4")
    given = ["batch_size", "seed", "gamma", "scale", "loss_learning_rate", "patience", "milestones"]
    assert settings.without_effect("glyphs", given) == [
        "train.batch_size: 4 has no effect on glyphs, whose own block sets 64; set variants.glyphs.train.batch_size",
        "train.scale: 20.0 has no effect while train.classifier is linear",
        "train.loss_learning_rate: 0.01 has no effect while train.loss is cross_entropy",
        "train.patience: 5 has no effect while train.validation_share is 0.0",
        "train.milestones: [0.5, 0.7] has no effect on glyphs, whose own block sets [0.7, 0.9]; "
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


def test_keys_that_can_be_unused_exist():
    for section, keys in schema.UNUSED.items():
        known = params.Params.model_fields[section].annotation.model_fields
        assert all(key in known and other in known for key, (other, _) in keys.items())
