"""A trained ensemble on disk: model.safetensors and config.json."""

from pathlib import Path
from typing import Annotated, NotRequired

import safetensors.torch
from pydantic import AfterValidator, Field
from safetensors import SafetensorError, safe_open
from typing_extensions import TypedDict

from lrec.io import files, reading
from lrec.model import weights as starting_weights
from lrec.model.backbones import BACKBONES, SHARES
from lrec.model.classifiers import Classifier
from lrec.model.ensemble import Ensemble

MODEL, CONFIG = "model.safetensors", "config.json"
SHAPE = ("backbone", "ensemble_size", "outputs", "share")

Size = Annotated[int, Field(ge=1, le=10**6)]


class Normalization(TypedDict):
    """Per channel, for pixels scaled to 0-1."""

    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]


class _Config(TypedDict):
    """The keys of config.json that are needed to use a trained network; the other keys record its training."""

    backbone: Annotated[str, Field(pattern=f"^({'|'.join(BACKBONES)})$")]
    ensemble_size: Size
    outputs: NotRequired[Size]
    meta_class_size: NotRequired[Size]
    share: Annotated[str, Field(pattern=f"^({'|'.join(SHARES)})$")]
    image_size: Size
    classifier: NotRequired[Annotated[str, Field(pattern="^(linear|cosine)$")]]
    scale: NotRequired[Annotated[float, Field(gt=0)]]
    normalization: Normalization
    seed: int


def _with_outputs(config: dict) -> dict:
    if not config.keys() & {"outputs", "meta_class_size"}:
        raise ValueError("the key outputs")
    return config


Config = Annotated[_Config, AfterValidator(_with_outputs)]


def save(model: Ensemble, folder: Path, settings: dict) -> dict:
    """Write a folder of model.safetensors and config.json, both or neither; return the config: shape and `settings`."""
    config = {key: getattr(model, key) for key in SHAPE}
    config |= {"classifier": model.classifier.kind, "scale": model.classifier.scale} | settings
    with files.atomic_folder(folder) as draft:
        with files.atomic(draft / MODEL) as stream:
            stream.write(safetensors.torch.save({k: v.cpu().contiguous() for k, v in model.state_dict().items()}))
        files.write_json(draft / CONFIG, config)
    return config


def read_config(folder: Path) -> dict:
    """Read the config of a saved ensemble: at least the keys of `Config`."""
    return reading.read_json(folder / CONFIG, "train", Config)


def classifier(config: dict) -> Classifier:
    """Return the classifier that a config names; in configs of earlier versions, which name none, it is linear."""
    return Classifier(*(config[key] for key in ("classifier", "scale") if key in config))


def outputs(config: dict) -> int:
    """Return the number of outputs per branch; configs of earlier versions call it meta_class_size."""
    return config["outputs" if "outputs" in config else "meta_class_size"]


def load(folder: Path) -> tuple[Ensemble, dict]:
    """Read a saved ensemble on the CPU, and its config.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or the weights do not fit the config.
    """
    config = read_config(folder)
    path = folder / MODEL
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; run `dvc repro` (stage train) first")
    try:
        # Checked before the network is built, since a config may ask for any size.
        with safe_open(path, "pt") as stream:
            branches = {key.split(".")[1] for key in stream.keys() if key.startswith("branches.")}  # noqa: SIM118
            found = len(branches), stream.get_slice("branches.0.classifier.weight").get_shape()[0] if branches else 0
        size = config["ensemble_size"], outputs(config)
        if found != size:
            raise RuntimeError(f"found {found[0]} branches of {found[1]} outputs")
        model = Ensemble(config["backbone"], *size, share=config["share"], classifier=classifier(config))
        state = safetensors.torch.load_file(path)
        starting_weights.require_usable(state, path)
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"{path}: does not fit {CONFIG} beside it ({reason}); run `dvc repro` (stage train)"
        ) from error
    return model, config
