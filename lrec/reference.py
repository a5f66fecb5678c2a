"""The original implementation's benchmarks and settings, for which there are reported and clean reference figures."""

ENSEMBLE_SIZE, KIND, IMAGE_SIZE, RESIZE = 48, "logits", 256, "squash"
# The last layer of the stem, see `lrec.model.backbones.SHARES`.
SHARE = "layer1"
# Classifier and loss of the branches. Results of earlier versions lack these and some of the settings below.
LEARNED = {"classifier": "linear", "loss": "cross_entropy"}
# The recipes of params.yaml as published: the original's, and the one that docs/study.md has chosen.
RECIPES = {
    "original": {
        "share": SHARE,
        **LEARNED,
        "batch_size": 10,
        "learning_rate": 1e-4,
        "schedule": "multistep",
        "warmup_epochs": 0,
        "freeze_batch_norm": False,
        "random_crop": 1,
    },
    "recommended": {
        "share": "layer3",
        "classifier": "linear",
        "loss": "proxy_anchor",
        "batch_size": 32,
        "learning_rate": 2e-4,
        "schedule": "cosine",
        "warmup_epochs": 1,
        "freeze_batch_norm": True,
        "random_crop": 0.6,
    },
}
# Settings of training that belong to no recipe.
TRAIN = {
    "accumulate": 1,
    "milestones": [0.5, 0.7],
    "gamma": 0.1,
    "weight_decay": 0,
    "scale": 20,
    "embedding_size": 512,
    "loss_learning_rate": 0.01,
    "images_per_class": 0,
    "label_smoothing": 0,
    "flip": True,
    "seed": 0,
}
EPOCHS = {"car": 20, "cub": 20, "sop": 40, "isc": 40}
META_CLASS_SIZE = {"car": 12, "cub": 12, "sop": 512, "isc": 192}
NAMES = {"car": "CARS196", "cub": "CUB-200-2011", "sop": "Stanford Online Products", "isc": "In-shop"}
# Variant: data set and crop.
VARIANTS = {
    "car_uncropped": ("car", "uncropped"),
    "car_cropped": ("car", "cropped"),
    "cub_uncropped": ("cub", "uncropped"),
    "cub_cropped": ("cub", "cropped"),
    "sop": ("sop", "uncropped"),
    "isc": ("isc", "uncropped"),
}


def title(variant: str) -> str:
    """Return the heading of one of `VARIANTS`.

    >>> title("car_cropped"), title("isc")
    ('CARS196, cropped', 'In-shop')
    """
    dataset, crop = VARIANTS[variant]
    return f"{NAMES[dataset]}, {crop}" if f"{dataset}_{crop}" in VARIANTS else NAMES[dataset]
