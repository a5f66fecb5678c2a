"""Entries of the ledger, as the stage evaluate writes them."""

SETTINGS = {
    "ensemble_size": 4,
    "meta_class_size": 12,
    "share": "layer1",
    "image_size": 256,
    "epochs": 20,
    "batch_size": 10,
    "weights": "imagenet",
}


def entry(**changes) -> dict:
    """Return an entry of car_cropped with 4 branches, with the given changes."""
    recall = {"1": 0.50049, "2": 0.6, "4": 0.7, "8": 1.0}
    return {
        "variant": "car_cropped",
        "backbone": "resnet18",
        "kind": "logits",
        "embedding": {"kind": "logits", "dtype": "float32"},
        "evaluation": {"subsets": 5},
        "analysis": {},
        "recall": recall,
        "recall_at_1_interval": [0.45, 0.55],
        "map_at_r": 0.2,
        "r_precision": 0.3,
        "lone_queries": 0,
        "queries": 8131,
        "gallery": 8130,
        "untrained": {"recall": {key: value / 2 for key, value in recall.items()}},
        "counts": {"train": [8054, 98], "test": [8131, 98]},
        "official": {"train": [8054, 98], "test": [8131, 98]},
        "partial": False,
        "settings": SETTINGS,
    } | changes


def of_size(size: int, **changes) -> dict:
    """Return an entry with another number of branches."""
    return entry(**changes | {"settings": SETTINGS | {"ensemble_size": size}})


def full_size(**changes) -> dict:
    """Return an entry with the original's settings, which is comparable with the benchmark."""
    return entry(**changes | {"settings": SETTINGS | {"ensemble_size": 48}})
