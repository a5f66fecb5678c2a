"""The ensemble: one shared stem, M branches, D logits each; its size; and how it is saved.

In the paper the stem is a ResNet's conv1, bn1, relu, maxpool and layer1. Each branch has its own layer2,
layer3, layer4, global average pool and linear classifier with bias.
"""

import warnings
from collections import OrderedDict
from copy import deepcopy
from pathlib import Path
from typing import Annotated

import safetensors.torch
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import normalize
from typing_extensions import TypedDict

from lrec import files, paper, reading
from lrec import weights as starting_weights
from lrec.backbones import BACKBONES, SHARES, Backbone

MODEL, CONFIG = "model.safetensors", "config.json"
SHAPE = ("backbone", "ensemble_size", "meta_class_size", "share")

Size = Annotated[int, Field(ge=1, le=10**6)]


class Normalization(TypedDict):
    """Per channel, of pixels scaled to 0-1."""

    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]


class Config(TypedDict):
    """What config.json must say for a trained network to be used; the rest is a record of its training."""

    backbone: Annotated[str, Field(pattern=f"^({'|'.join(BACKBONES)})$")]
    ensemble_size: Size
    meta_class_size: Size
    share: Annotated[str, Field(pattern=f"^({'|'.join(SHARES)})$")]
    image_size: Size
    normalization: Normalization
    seed: int


class Ensemble(nn.Module):
    """A shared stem and M branches.

    Args:
        backbone: a key of `lrec.backbones.BACKBONES`.
        ensemble_size: M, branches.
        meta_class_size: D, logits per branch.
        weights: see `lrec.weights.load`. From a file or ImageNet every branch starts alike; without
            weights every branch starts at random on its own. Classifiers always differ.
        seed: of everything random in the start; the same seed gives the same bytes.
        share: how far the stem reaches, one of `lrec.backbones.SHARES`; "none" gives M networks of
            their own, as in DREML, "layer4" M classifiers on one network.
        own: the branches to hold, of several processes' each; by default all. The others are empty, and
            every branch starts with the same bytes whoever holds it.

    Raises:
        ValueError: unknown backbone or share, or weights that do not fit.
    """

    def __init__(
        self,
        backbone: str,
        ensemble_size: int,
        meta_class_size: int,
        weights: str | None = None,
        *,
        seed: int = 0,
        share: str = paper.SHARE,
        own: range | None = None,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"unknown backbone {backbone!r}, expected one of {', '.join(BACKBONES)}")
        self.backbone, self.ensemble_size, self.meta_class_size = backbone, ensemble_size, meta_class_size
        self.share = share
        self.own = range(ensemble_size) if own is None else own
        cut = BACKBONES[backbone]
        stem, branch = cut.split(share)
        state = starting_weights.load(backbone, weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _build(cut, meta_class_size, state, f"weights {weights} for {backbone}")
            self.stem = nn.Sequential(_named(network, stem))
            self.branches = nn.ModuleList()
            for number in range(ensemble_size):
                if number:
                    network = _restart(network, cut, state)
                parts = _named(network, branch)
                parts |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
                parts["classifier"] = network.get_submodule(cut.classifier)
                self.branches.append(nn.Sequential(parts) if number in self.own else nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) float images, normalised, to (N, M, D) logits."""
        trunk = self.stem(images)
        return torch.stack([branch(trunk) for branch in self.branches], dim=1)

    def embed(self, images: Tensor, kind: str = "logits") -> Tensor:
        """Map (N, 3, H, W) float images, normalised, to (N, d) embeddings of unit norm.

        Each branch's output is L2-normalised, concatenated and divided by sqrt(M), so that the dot
        product of two embeddings is the mean over branches of the cosine.

        Args:
            images: as above.
            kind: "logits", the paper's, d = M*D; or "features", what the classifiers see: d is M times
                the width of the pooled features, 512 for resnet18 and resnet34, 2048 for the others.

        A part of an ensemble gives the columns of the branches that it holds.
        """
        trunk = self.stem(images)
        branches = [self.branches[number] for number in self.own]
        outputs = [branch[:-1](trunk) if kind == "features" else branch(trunk) for branch in branches]
        return normalize(torch.stack(outputs, dim=1).float(), dim=2).flatten(1) / self.ensemble_size**0.5

    def width(self, kind: str = "logits") -> int:
        """Return d, the numbers in an embedding of this kind."""
        classifier = self.branches[self.own.start][-1]
        return self.ensemble_size * (classifier.in_features if kind == "features" else classifier.out_features)


def _named(network: nn.Module, names: tuple[str, ...]) -> OrderedDict[str, nn.Module]:
    """Return submodules by names that a Sequential takes, which have no dot."""
    return OrderedDict((name.replace(".", "_"), network.get_submodule(name)) for name in names)


def _build(cut: Backbone, meta_class_size: int, state: dict[str, Tensor] | None, what: str) -> nn.Module:
    """Build one whole network with a classifier of D outputs; `state` gives all but the classifier."""
    network = cut.build(weights=None)
    if state is not None:
        wanted = {k: v.shape for k, v in network.state_dict().items() if not k.startswith(cut.classifier)}
        found = {k: v.shape for k, v in state.items() if not k.startswith(cut.classifier)}
        # Files from before batch norm counted its batches lack that entry, which nothing here reads.
        strange = [
            k for k in sorted(wanted | found) if wanted.get(k) != found.get(k) and "num_batches_tracked" not in k
        ]
        if strange:
            key = strange[0]
            raise ValueError(
                f"{what}: {len(strange)} entries differ from torchvision's, the first is {key}: found "
                f"{tuple(found.get(key, ())) or 'none'}, expected {tuple(wanted.get(key, ())) or 'none'}"
            )
        network.load_state_dict({k: state[k] for k in found}, strict=False)
    width = network.get_submodule(cut.classifier).in_features
    network.set_submodule(cut.classifier, nn.Linear(width, meta_class_size))
    return network


def _restart(network: nn.Module, cut: Backbone, state: dict[str, Tensor] | None) -> nn.Module:
    """Return the start of the next branch: the same weights and a new classifier, or all of it new."""
    classifier = network.get_submodule(cut.classifier)
    if state is None:
        return _build(cut, classifier.out_features, None, "")
    copy = deepcopy(network)
    copy.set_submodule(cut.classifier, nn.Linear(classifier.in_features, classifier.out_features))
    return copy


def count_parameters(backbone: str, ensemble_size: int, meta_class_size: int, share: str = paper.SHARE) -> int:
    """Return the number of trainable numbers, counted on the meta device, which holds none of them."""
    with torch.device("meta"):
        model = Ensemble(backbone, 1, meta_class_size, share=share)
    stem, branch = (sum(p.numel() for p in part.parameters()) for part in (model.stem, model.branches))
    return stem + ensemble_size * branch


def count_macs(
    backbone: str, ensemble_size: int, meta_class_size: int, image_size: int, share: str = paper.SHARE
) -> int:
    """Return multiply-accumulates of one image's forward pass (thop counts them, on the meta device).

    A multiply-accumulate is two floating-point operations. thop leaves out what costs next to nothing,
    such as relu.
    """
    with warnings.catch_warnings():
        # thop compares versions with distutils, which says on import that it is deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        from thop import profile

    with torch.device("meta"):
        model = Ensemble(backbone, 1, meta_class_size, share=share)
        image = torch.empty(1, 3, image_size, image_size)
        trunk = model.stem(image)
    # Outside the meta device: thop keeps its own counters in real memory.
    stem, _ = profile(model.stem, inputs=(image,), verbose=False)
    branch, _ = profile(model.branches[0], inputs=(trunk,), verbose=False)
    return int(stem + ensemble_size * branch)


def save(model: Ensemble, folder: Path, settings: dict) -> dict:
    """Write a folder of model.safetensors and config.json, both or neither; return the config: shape and `settings`."""
    config = {key: getattr(model, key) for key in SHAPE}
    config |= settings
    with files.atomic_folder(folder) as draft:
        with files.atomic(draft / MODEL) as stream:
            stream.write(safetensors.torch.save({k: v.cpu().contiguous() for k, v in model.state_dict().items()}))
        files.write_json(draft / CONFIG, config)
    return config


def read_config(folder: Path) -> dict:
    """Read the config of a saved ensemble: at least what `Config` says."""
    return reading.read_json(folder / CONFIG, "train", Config)


def load(folder: Path) -> tuple[Ensemble, dict]:
    """Read a saved ensemble on the CPU, and its config.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is damaged, or the weights do not fit the config.
    """
    config = read_config(folder)
    path = folder / MODEL
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; run `dvc repro` (stage train) first")
    try:
        # Before a network is built by the config, which may ask for any size.
        with safe_open(path, "pt") as stream:
            branches = {key.split(".")[1] for key in stream.keys() if key.startswith("branches.")}  # noqa: SIM118
            found = len(branches), stream.get_slice("branches.0.classifier.bias").get_shape()[0] if branches else 0
        if found != (config["ensemble_size"], config["meta_class_size"]):
            raise RuntimeError(f"found {found[0]} branches of {found[1]} meta classes")
        model = Ensemble(config["backbone"], config["ensemble_size"], config["meta_class_size"], share=config["share"])
        state = safetensors.torch.load_file(path)
        starting_weights.require_usable(state, path)
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"{path}: does not fit {CONFIG} beside it ({reason}); run `dvc repro` (stage train)"
        ) from error
    return model, config
