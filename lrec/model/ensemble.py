"""The ensemble: one shared stem, M branches, D logits each.

In the original implementation the stem is a ResNet's conv1, bn1, relu, maxpool and layer1. Each branch has its own
layer2, layer3, layer4, global average pool and linear classifier with bias.
"""

from collections import OrderedDict
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lrec.model import backbones, checkpoints
from lrec.model import weights as starting_weights
from lrec.model.backbones import BACKBONES, SHARE
from lrec.model.classifiers import Classifier
from lrec.model.kinds import KINDS

LINEAR = Classifier()


class Ensemble(nn.Module):
    """A shared stem and M branches.

    Args:
        backbone: a key of `lrec.model.backbones.BACKBONES`.
        ensemble_size: M, branches.
        outputs: outputs per branch: D logits, or the dimensions of an embedding that a loss learns.
        weights: see `lrec.model.weights.load`. With weights from a file or ImageNet, all branches start with the same
            weights; without weights, each starts at random. Classifiers always differ.
        seed: seed of the random initialisation; the same seed gives the same bytes.
        share: how far the stem reaches, one of `lrec.model.backbones.SHARES`; "none" gives M separate networks,
            as in DREML, "layer4" M classifiers on one network.
        own: the branches that this process holds; all by default. The others are empty. The initial weights of a
            branch do not depend on which process holds it.
        classifier: classifier of the branches.

    Raises:
        ValueError: unknown backbone or share, or weights that do not fit.
    """

    def __init__(
        self,
        backbone: str,
        ensemble_size: int,
        outputs: int,
        weights: str | None = None,
        *,
        seed: int = 0,
        share: str = SHARE,
        own: range | None = None,
        classifier: Classifier = LINEAR,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"unknown backbone {backbone!r}, expected one of {', '.join(BACKBONES)}")
        self.backbone, self.ensemble_size, self.outputs = backbone, ensemble_size, outputs
        self.share, self.classifier = share, classifier
        self.own = range(ensemble_size) if own is None else own
        cut = BACKBONES[backbone]
        stem, branch = cut.split(share)
        state = starting_weights.load(backbone, weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _build(backbone, outputs, classifier, state, f"weights {weights} for {backbone}")
            self.stem = nn.Sequential(_named(network, stem))
            self.branches = nn.ModuleList()
            for number in range(ensemble_size):
                if number:
                    network = _restart(backbone, network, classifier, state)
                parts = _named(network, branch)
                parts["pool"] = nn.AdaptiveAvgPool2d(1)
                if cut.normalized:
                    parts["normalized"] = network.get_submodule(cut.normalized)
                parts["flatten"] = nn.Flatten()
                parts["classifier"] = network.get_submodule(cut.classifier)
                self.branches.append(nn.Sequential(parts) if number in self.own else nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) normalised float images to (N, M, D) logits."""
        maps = self.stem(images)
        return torch.stack([branch(maps) for branch in self.branches], dim=1)

    def embed(self, images: Tensor, kind: str = "logits") -> Tensor:
        """Map (N, 3, H, W) normalised float images to (N, d) embeddings of unit norm.

        The branches' outputs are L2-normalised, concatenated and divided by sqrt(M), so that the dot
        product of two embeddings is the mean of the branches' cosines.

        Args:
            images: as for `forward`.
            kind: one of `lrec.model.kinds.KINDS`; d is M times its width.

        If only some branches are held, only their columns are returned.
        """
        maps = self.stem(images)
        branches = [self.branches[number] for number in self.own]
        outputs = [KINDS[kind].output(branch, maps) for branch in branches]
        return normalize(torch.stack(outputs, dim=1).float(), dim=2).flatten(1) / self.ensemble_size**0.5

    def width(self, kind: str = "logits") -> int:
        """Return d, the dimensions of an embedding of this kind."""
        return self.ensemble_size * KINDS[kind].width(self.branches[self.own.start])

    def parts(self) -> dict[str, list[nn.Module]]:
        """Return submodules by torchvision's names, without the classifier: one each in the stem, M in the branches."""
        cut = BACKBONES[self.backbone]
        stem, branch = cut.split(self.share)
        found = {name: [self.stem.get_submodule(_flat(name))] for name in stem}
        places = {name: _flat(name) for name in branch} | ({cut.normalized: "normalized"} if cut.normalized else {})
        return found | {name: [one.get_submodule(place) for one in self.branches] for name, place in places.items()}


def _flat(name: str) -> str:
    """Return a name without dots, which a Sequential accepts."""
    return name.replace(".", "_")


def _named(network: nn.Module, names: tuple[str, ...]) -> OrderedDict[str, nn.Module]:
    """Return submodules by names that a Sequential accepts."""
    return OrderedDict((_flat(name), network.get_submodule(name)) for name in names)


def _build(
    backbone: str, outputs: int, classifier: Classifier, state: dict[str, Tensor] | None, what: str
) -> nn.Module:
    """Build one whole network with a new classifier; `state` gives all other weights."""
    cut = BACKBONES[backbone]
    network = backbones.network(backbone)
    if state is not None:
        wanted = {k: v.shape for k, v in network.state_dict().items() if not k.startswith(cut.classifier)}
        found = {k: v.shape for k, v in state.items() if not k.startswith(cut.classifier)}
        # Files from before PyTorch counted batches in batch norms lack that entry, which is not used here.
        strange = [
            k for k in sorted(wanted | found) if wanted.get(k) != found.get(k) and "num_batches_tracked" not in k
        ]
        if strange:
            key = strange[0]
            raise ValueError(
                f"{what}: {len(strange)} entries differ from torchvision's, the first is {key}: found "
                f"{tuple(found.get(key, ())) or 'none'}, expected {tuple(wanted.get(key, ())) or 'none'}"
                f"{checkpoints.fits(state)}"
            )
        network.load_state_dict({k: state[k] for k in found}, strict=False)
    width = network.get_submodule(cut.classifier).in_features
    network.set_submodule(cut.classifier, classifier.build(width, outputs))
    return network


def _restart(backbone: str, network: nn.Module, classifier: Classifier, state: dict[str, Tensor] | None) -> nn.Module:
    """Return the next branch's network: with the same weights and a new classifier, or entirely new."""
    cut = BACKBONES[backbone]
    last = network.get_submodule(cut.classifier)
    if state is None:
        return _build(backbone, last.out_features, classifier, None, "")
    copy = deepcopy(network)
    copy.set_submodule(cut.classifier, classifier.build(last.in_features, last.out_features))
    return copy


def memory_format(backbone: str, device: str) -> torch.memory_format:
    """Return the memory format of images and weights with which a backbone is fastest.

    That is channels last on a GPU and, on a CPU, for depthwise convolutions only.

    Source: measured in benchmarks/training.py and benchmarks/extraction.py.
    """
    last = torch.device(device).type != "cpu" or BACKBONES[backbone].depthwise
    return torch.channels_last if last else torch.contiguous_format
