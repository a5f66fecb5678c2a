"""Names of results: how a run differs from the original's benchmark, so that no result replaces another's."""

import re
from pathlib import Path
from typing import Any

from lrec import reference

# Settings of training that name the results of variants that are not benchmarks.
METHOD = ("share", *reference.LEARNED, "warmup_epochs", "random_crop", "seed")


def name(entry: dict[str, Any]) -> str:
    """Return a result's name in the ledger: its backbone, then the differences from the original's benchmark.

    So a trial never replaces a benchmark. For variants that are not benchmarks, the numbers of meta classes, epochs
    and pixels are not compared, and of the training only `METHOD`.

    >>> used = {"ensemble_size": 48, "meta_class_size": 12, "share": "layer1", "image_size": 256, "epochs": 20}
    >>> entry = {"variant": "car_cropped", "backbone": "resnet18", "kind": "logits", "partial": False}
    >>> name(entry | {"settings": used | {"weights": "imagenet"}})
    'resnet18'
    >>> used = {"ensemble_size": 4, "meta_class_size": 98, "share": "layer3", "image_size": 128, "epochs": 1}
    >>> used |= {"loss": "proxy_anchor", "warmup_epochs": 0.5, "weights": "none"}
    >>> name(entry | {"settings": used, "kind": "features", "partial": True})
    'resnet18 (M=4, D=98, share layer3, proxy_anchor, warm-up, 1 epoch, weights none, 128 px, partial, features)'
    >>> used |= {"weights": "average.safetensors fa433323667f9e4d", "learning_rate": 0.001}
    >>> name(entry | {"variant": "mine", "settings": used, "embedding": {"precision": "int8"}})
    'resnet18 (M=4, recommended, no crops, weights average fa43, int8)'
    """
    used, (dataset, _) = entry["settings"], reference.VARIANTS.get(entry["variant"], ("", ""))
    groups, size, epochs = used["meta_class_size"], used["image_size"], used["epochs"]
    start = _starting_weights(used["weights"], entry["backbone"])
    teacher = (used.get("teacher") or "").rpartition(" ")[2]  # the digest of its file
    differs = [
        (f"M={used['ensemble_size']}", used["ensemble_size"] != reference.ENSEMBLE_SIZE),
        (f"D={groups}", groups != reference.META_CLASS_SIZE.get(dataset, groups)),
        *((words, True) for words in _learned(used, bool(dataset))),
        ("validated", "kept_epoch" in used),
        (f"{epochs or 'no'} epoch{'' if epochs == 1 else 's'}", epochs != reference.EPOCHS.get(dataset, epochs or 1)),
        (f"weights {start}", start != "imagenet" and (bool(dataset) or start != "none")),
        (f"teacher {teacher[:4]}", bool(teacher)),
        (f"{size} px", bool(dataset) and size != reference.IMAGE_SIZE),
        (f"resize {used.get('resize')}", bool(dataset) and used.get("resize", reference.RESIZE) != reference.RESIZE),
        ("partial", entry["partial"]),
        (entry["kind"], entry["kind"] != reference.KIND),
        ("int8", is_quantized(entry)),
        (reduction(entry), bool(reduction(entry))),
    ]
    named = [text for text, is_different in differs if is_different]
    return entry["backbone"] + (f" ({', '.join(named)})" if named else "")


def _learned(used: dict[str, Any], is_benchmark: bool) -> list[str]:
    """Return how training settings differ from the nearest published recipe, after its name unless it is the original.

    >>> seeded = reference.RECIPES["recommended"] | {"learning_rate": 5e-5, "loss": "distillation", "seed": 1}
    >>> _learned(seeded, True), _learned(seeded, False)
    (['recommended', 'distillation', 'rate 5e-05', 'seed 1'], ['recommended', 'distillation', 'seed 1'])
    >>> _learned(reference.RECIPES["original"] | {"batch_size": 32, "freeze_batch_norm": True}, True)
    ['batch 32', 'batch norm frozen']
    """
    original = reference.RECIPES["original"] | reference.TRAIN
    # Results of earlier versions lack the settings that could not be chosen then.
    ours = {key: used.get(key, value) for key, value in original.items() if is_benchmark or key in METHOD}
    # Its length is at most half of the epochs.
    ours["warmup_epochs"] = int(ours["warmup_epochs"] > 0)
    found = []
    for recipe, settings in reference.RECIPES.items():
        differs = [key for key, value in ours.items() if value != (reference.TRAIN | settings)[key]]
        found.append([recipe, *(_worded(key, ours[key]) for key in differs)])
    recipe, *others = min(found, key=len)
    return others if recipe == "original" else [recipe, *others]


def _worded(key: str, value: Any) -> str:
    """Return a training setting in few words."""
    match key:
        case "loss" | "classifier":
            return value
        case "batch_size":
            return f"batch {value}"
        case "learning_rate":
            return f"rate {value}"
        case "schedule":
            return f"{value} schedule"
        case "warmup_epochs":
            return "warm-up" if value else "no warm-up"
        case "freeze_batch_norm":
            return f"batch norm {'frozen' if value else 'trained'}"
        case "random_crop":
            return "no crops" if value == 1 else f"crops {value}"
    return f"{key} {value}"


def _starting_weights(record: str, backbone: str) -> str:
    """Return a short name of what `lrec.model.weights.describe` returned: of a file, its name and four digits.

    A file that is named as the backbone, or as torchvision names its files, after the digest of their content, is taken
    for ImageNet weights.

    >>> files = ("resnet18.pth", "resnet18-49c8b62c.pth", "resnet18-f37072fd.pth", "my net.pth")
    >>> [_starting_weights(f"{name} 49c8b62c02d51342", "resnet18") for name in files]
    ['imagenet', 'imagenet', 'resnet18-f37072fd 49c8', 'my_net 49c8']
    >>> _starting_weights("none", "resnet18")
    'none'
    """
    file, _, digest = record.rpartition(" ")
    stem = Path(file).stem
    if not file or stem in (backbone, f"{backbone}-{digest[:8]}"):
        return "imagenet" if file else record
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', stem)[:40]} {digest[:4]}"


def reduction(entry: dict[str, Any]) -> str:
    """Return how a result's embeddings are reduced, and to how many dimensions; empty if they are not reduced.

    >>> [reduction({"embedding": kept | {"dimensions": 64}}) for kept in ({"reduce": "whitened"}, {})]
    ['whitened 64', '']
    """
    stored = entry.get("embedding", {})
    return f"{stored['reduce']} {stored.get('dimensions', '?')}" if "reduce" in stored else ""


def is_quantized(entry: dict[str, Any]) -> bool:
    """Return whether a result's embeddings were computed in int8."""
    return entry.get("embedding", {}).get("precision") == "int8"


def learns_as_original(entry: dict[str, Any]) -> bool:
    """Return whether a result's branches have the original's classifier and loss."""
    return all(entry["settings"].get(key, value) == value for key, value in reference.LEARNED.items())


def is_full_size(entry: dict[str, Any]) -> bool:
    """Return whether an entry is comparable with the benchmark: all images, the original's settings."""
    return entry["variant"] in reference.VARIANTS and name(entry) == entry["backbone"]


def metric(entry: dict[str, Any]) -> str:
    """Return a result's name in `dvc metrics`, which does not depend on the ensemble size.

    `dvc metrics diff` can therefore compare ensembles of different sizes. The parameters of a run show its size.

    >>> metric({"backbone": "resnet18", "kind": "features", "settings": {"ensemble_size": 4}})
    'resnet18 (features)'
    """
    differs = [entry["kind"]] if entry["kind"] != reference.KIND else []
    differs += [reduction(entry).split()[0]] if reduction(entry) else []
    return entry["backbone"] + (f" ({', '.join(differs)})" if differs else "")
