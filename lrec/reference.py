"""The original implementation's benchmarks and settings, for which there are reported and clean reference figures."""

ENSEMBLE_SIZE, KIND, IMAGE_SIZE = 48, "logits", 256
# The last layer of the stem, see `lrec.model.backbones.SHARES`.
SHARE = "layer1"
# Classifier and loss of the branches. Results of earlier versions lack these settings.
LEARNED = {"classifier": "linear", "loss": "cross_entropy"}
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
