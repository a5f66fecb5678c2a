"""Finds a state dict with torchvision's keys in a checkpoint of any trainer.

Trainers store a network under a key of their own (`state_dict`, `model`), next to the optimiser's state, and may add a
prefix to its keys (`module.`, `_orig_mod.`, `backbone.`). The part with all entries of the backbone is used. If there
are several, the one under a usual key is used, if any.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrec.model import backbones
from lrec.model.backbones import BACKBONES

DEPTH = 3  # levels of keys
# Where trainers store the network itself, not an average of it.
USUAL = ("state_dict", "model_state_dict", "model", "network", "net")
State = dict[str, Tensor]


def state_dict(content: Any, backbone: str, path: Path) -> tuple[State, str]:
    """Return the state dict in a file's content, and a note on where it was; "" if it is the whole content.

    Args:
        content: the file's content.
        backbone: torchvision's name of the network to find.
        path: the file, for errors.

    Raises:
        ValueError: there is no state dict, or there are several networks of this kind.
    """
    parts = dict(_parts(content))
    if not parts:
        inside = f" with the keys {', '.join(map(repr, content))[:120]}" if isinstance(content, dict) else ""
        raise ValueError(
            f"{path}: found {type(content).__name__}{inside}, expected a state dict in torchvision's keys, or one "
            "under a key of a checkpoint"
        )
    wanted = _wanted(backbone)
    fitting = [(key, prefix) for key, state in parts.items() for prefix in _prefixes(state, wanted)]
    if len({prefix for _, prefix in fitting}) == 1:
        fitting = [place for name in USUAL for place in fitting if place[0] == name][:1] or fitting
    if len(fitting) > 1:
        places = " and ".join(_named(key, prefix) for key, prefix in fitting[:4])
        raise ValueError(
            f"{path}: found {len(fitting)} networks of {backbone}, {places}, expected one; save the state dict of the "
            "one to start from in a file of its own"
        )
    if not fitting and "" not in parts:
        places = ", ".join(repr(key) for key in parts)[:120]
        raise ValueError(
            f"{path}: found dict with state dicts under {places}, expected one with all entries of {backbone} in "
            f"torchvision's keys{fits([*parts.values()][0])}"
        )
    key, prefix = fitting[0] if fitting else ("", "")
    if not key and not prefix:
        return parts[""], ""
    # Entries of a loss or another head are left out; all entries within the network's layers are kept.
    layers = {name.partition(".")[0] for name in [*wanted, BACKBONES[backbone].classifier]}
    chosen = {name.removeprefix(prefix): value for name, value in parts[key].items() if name.startswith(prefix)}
    chosen = {name: value for name, value in chosen.items() if name.partition(".")[0] in layers}
    left = len(parts[key]) - len(chosen)
    others = [f"{left} other entries left out"] * (left > 0)
    others += [f"not the one under {name!r:.80}" for name in parts if name != key and _prefixes(parts[name], wanted)]
    return chosen, ", ".join([f"used {_named(key, prefix)}", *others])


def _named(key: str, prefix: str) -> str:
    place = f"the state dict under {key!r:.80}" if key else "its entries"
    return f"{place} without the prefix {prefix!r:.80} of their keys" if prefix else place


def _parts(content: Any, key: str = "") -> Iterator[tuple[str, State]]:
    """Yield the state dicts in a file's content, with their keys joined by dots."""
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        if content or not key:
            yield key, dict(content)
        return
    if key.count(".") + 1 < DEPTH:
        for name, value in content.items():
            yield from _parts(value, f"{key}.{name}" if key else name)


def _wanted(backbone: str) -> set[str]:
    """Return the entries a file must have: all except the classifier, which is replaced, and unused batch counts."""
    cut = BACKBONES[backbone]
    with torch.device("meta"):
        network = backbones.network(backbone)
    keys = network.state_dict()
    return {key for key in keys if not key.startswith(cut.classifier) and "num_batches_tracked" not in key}


def _prefixes(state: State, wanted: set[str]) -> list[str]:
    """Return the prefixes under which a state dict has every wanted entry."""
    first = min(wanted)
    found = {key.removesuffix(first) for key in state if key == first or key.endswith(f".{first}")}
    return sorted(prefix for prefix in found if all(f"{prefix}{key}" in state for key in wanted))


def fits(state: State) -> str:
    """Return a clause that names the backbone whose entries have these names and shapes; "" if there is none."""
    for name, cut in BACKBONES.items():
        for prefix in _prefixes(state, _wanted(name)):
            with torch.device("meta"):
                network = backbones.network(name)
            shapes = {k: v.shape for k, v in network.state_dict().items() if not k.startswith(cut.classifier)}
            own = {key.removeprefix(prefix): value.shape for key, value in state.items() if key.startswith(prefix)}
            own = {key: shape for key, shape in own.items() if not key.startswith(cut.classifier)}
            if all(own.get(key, shape) == shape for key, shape in shapes.items()) and set(own) <= set(shapes):
                return f"; these are weights of {name}"
    return ""
