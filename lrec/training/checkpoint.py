"""Checkpoints, from which an interrupted training run resumes with byte-identical results.

A run has a folder whose name is a hash of everything that the run depends on, so that a run with other parameters,
data or code never resumes from it. Each state is a subfolder with one file of tensors per process, and a
progress.json that is written last. A process can read the tensors written by any other, so a run may resume with a
different number of processes.
"""

import errno
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from torch import Tensor, nn
from typing_extensions import TypedDict

from lrec.compute import collective
from lrec.io import files, reading
from lrec.training.state import State

PROGRESS = "progress.json"
_STATE = TypeAdapter(State)


class _Spent(TypedDict):
    seconds: float


_SHARE = 0.1  # fraction of the training time that checkpoints after epochs may take
_FIELDS = ("step", "exp_avg", "exp_avg_sq")  # Adam's state per parameter
Optimizers = Mapping[str, torch.optim.Optimizer]


class Checkpoint:
    """The checkpoint of one training run.

    Args:
        folder: the folder of this run, in a folder that holds nothing but checkpoints: of those of other runs, the one
            with the longest training time is kept, so that it is not lost when other settings are tried; all else in
            the parent folder is deleted.
        minutes: interval between checkpoints, in addition to those at the ends of epochs.

    Attributes:
        other: the folder of the other run that is kept, None if there is none.
        earlier: seconds of training before the loaded state.
        cost: seconds that the last save took.
    """

    def __init__(self, folder: Path, minutes: float) -> None:
        self.folder, self.seconds = folder, 60 * minutes
        self.start = self.last = time.monotonic()
        self.earlier = self.cost = 0.0
        self.other: Path | None = None
        if collective.rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            others = {other: _work(other) for other in folder.parent.iterdir() if other != folder}
            best = max(others, key=others.__getitem__, default=None)
            self.other = best if best and others[best] > 0 else None
            _clear(other for other in others if other != self.other)
            _clear(state for state in folder.iterdir() if not (state / PROGRESS).is_file())
        collective.wait()

    def due(self) -> bool:
        """Return whether the interval since the last checkpoint has passed, by rank 0's clock."""
        return collective.agree(time.monotonic() - self.last >= self.seconds)

    def due_after_epoch(self) -> bool:
        """Return whether a checkpoint is due at the end of an epoch: always, unless epochs are very short."""
        since = time.monotonic() - self.last
        return collective.agree(since >= min(self.seconds, self.cost / _SHARE))

    def spent(self) -> float:
        """Return the seconds spent on the training so far, including earlier runs."""
        return self.earlier + time.monotonic() - self.start

    def save(
        self,
        learned: nn.Module,
        optimizers: Optimizers,
        progress: State,
        best: Mapping[str, Tensor] | None = None,
        shared: bool = True,
    ) -> None:
        """Write the state of a training run; the earlier state is deleted once this one is complete.

        Args:
            learned: stem, branches and losses, see `lrec.training.step.Trainer`.
            optimizers: one for each part of `learned` that has parameters.
            progress: the progress of the run.
            best: tensors of the model at its best epoch, saved as well.
            shared: whether other processes hold other branches; if not, rank 0 writes everything.

        Raises:
            OSError: the disk is full, or another error; the earlier state is kept.
        """
        start = time.monotonic()
        state = self.folder / f"{progress.epoch:05d}-{progress.step:07d}"
        first = collective.rank() == 0
        if first or shared:
            tensors = _tensors(learned, optimizers, best or {}, stem=first)
            try:
                with files.atomic_path(state / f"{collective.rank()}.safetensors") as draft:
                    safetensors.torch.save_file(tensors, draft)
            except (SafetensorError, OSError) as error:
                size = sum(value.nbytes for value in tensors.values()) / 1e9
                shutil.rmtree(state, ignore_errors=True)
                raise OSError(
                    errno.EIO,
                    f"{self.folder}: cannot write a checkpoint of {size:.1f} GB ({error}); the previous one is kept: "
                    "free disk space, then run again",
                ) from error
        collective.wait()
        if first:
            files.write_json(state / PROGRESS, vars(progress) | {"seconds": self.spent()})
            _clear(other for other in self.folder.iterdir() if other != state)
        collective.wait()
        self.last = time.monotonic()
        self.cost = self.last - start

    def load(self, learned: nn.Module, optimizers: Optimizers) -> tuple[State, dict[str, Tensor]] | None:
        """Load the newest state into modules and optimisers.

        Returns:
            The progress, and the tensors of this process's part of the best model, if any; None without a state.

        Raises:
            ValueError: a file is damaged.
        """
        states = sorted(path.parent for path in self.folder.glob(f"*/{PROGRESS}"))
        if not states:
            return None
        wanted = learned.state_dict().keys()
        try:
            with ExitStack() as stack:
                sources = {}
                for path in sorted(states[-1].glob("*.safetensors")):
                    stream = stack.enter_context(safetensors.safe_open(path, "pt"))
                    sources |= dict.fromkeys(stream.keys(), stream)

                def take(prefix: str) -> dict[str, Tensor]:
                    keys = [key for key in sources if key.startswith(prefix)]
                    return {key.removeprefix(prefix): sources[key].get_tensor(key) for key in keys}

                learned.load_state_dict({key: sources[f"model.{key}"].get_tensor(f"model.{key}") for key in wanted})
                for name, optimizer in optimizers.items():
                    _restore(optimizer, take(f"optimizer.{name}."))
                best = {
                    key: sources[f"best.{key}"].get_tensor(f"best.{key}") for key in wanted if f"best.{key}" in sources
                }
            progress = reading.read_json(states[-1] / PROGRESS, "train")
            self.earlier = float(progress.pop("seconds"))
            return _STATE.validate_python(progress), best
        except (SafetensorError, RuntimeError, LookupError, AttributeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{states[-1]}: damaged checkpoint ({reason}); delete it and run again") from error

    def remove(self) -> None:
        """Delete the folder, after the results of the training are written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _work(folder: Path) -> float:
    """Return the seconds of training in a folder of checkpoints; 0 if none is complete."""
    found = 0.0
    for path in folder.glob(f"*/{PROGRESS}"):
        with suppress(ValueError):
            found = max(found, reading.read_json(path, "train", _Spent)["seconds"])
    return found


def _clear(paths: Iterator[Path]) -> None:
    for path in list(paths):
        files.remove(path)


def _tensors(learned: nn.Module, optimizers: Optimizers, best: Mapping[str, Tensor], stem: bool) -> dict[str, Tensor]:
    """Return the tensors that one process writes; the stem, which all processes have, only if requested."""
    tensors = {f"model.{key}": value for key, value in learned.state_dict().items()}
    tensors |= {f"best.{key}": value for key, value in best.items()}
    for name, optimizer in optimizers.items():
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{name}.{number}.{key}": value for key, value in state.items()}
    skipped = () if stem else ("model.stem.", "best.stem.", "optimizer.stem.")
    return {
        key: value.detach().cpu().contiguous() for key, value in tensors.items() if not key.startswith(tuple(skipped))
    }


def _restore(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load an optimiser's state, in the memory format of its parameters, which fused steps require."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, field = key.split(".")
        if field not in _FIELDS:
            raise ValueError(f"strange optimiser state {key}")
        same_shape = value.shape == parameters[int(number)].shape and value.ndim > 0
        kept = torch.empty_like(parameters[int(number)], dtype=value.dtype).copy_(value) if same_shape else value
        state.setdefault(int(number), {})[field] = kept
    if sorted(state) != list(range(len(parameters))) or any(len(fields) < len(_FIELDS) for fields in state.values()):
        raise ValueError("optimiser state is missing")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
