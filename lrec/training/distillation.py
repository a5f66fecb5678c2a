"""Distillation: a student network learns the embeddings that a teacher network computes for the same images.

The teacher is a program of torch.export, as written by `python -m lrec.export --format exported`; it includes the
normalisation of images and the reduction of embeddings. It embeds each image as flipped and cropped for the student.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

from lrec.compute import collective
from lrec.compute.device import is_gpu
from lrec.data import batches
from lrec.data.batches import Images
from lrec.io import hashing, missing, progress
from lrec.model.ensemble import Ensemble, memory_format
from lrec.model.kinds import KINDS

PARAMETER = "train.teacher"
_RIDGE = 1e-4  # relative to the mean square of the features
_SIMILARITIES = 10  # weight of the similarities, whose squared differences are small; no other weight was tried


class Teacher:
    """A network that embeds the images of a batch; its weights do not change.

    Args:
        path: a file that torch.export.save wrote, of a program that maps (N, 3, S, S) float32, RGB scaled to 0-1, to
            (N, n) floats, for any N. Loading it can run code, so use only files that you trust.
        image_size: S, pixels.
        normalization: the student's {"mean", "std"} per channel, which is undone.
        device: where the teacher runs.

    Attributes:
        dimensions: n.
        macs: multiply-accumulates of one image.
        record: the name of the file and the start of its SHA-256.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, or a program that does not embed images of this size.
    """

    def __init__(
        self, path: Path, image_size: int, normalization: Mapping[str, Sequence[float]], device: str = "cpu"
    ) -> None:
        mean, std = (torch.tensor(normalization[key], device=device)[:, None, None] for key in ("mean", "std"))
        self._mean, self._std = mean, std
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: not found{missing.hint(path)}; {PARAMETER} must be a file of torch.export, see "
                "python -m lrec.export --format exported"
            )
        try:
            program = torch.export.load(path)
            if is_gpu(device):
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, device)
            self._network = program.module()
            with FlopCounterMode(display=False) as counted:
                found = self(torch.zeros(2, 3, image_size, image_size, device=device))
        except Exception as error:  # a damaged file can raise nearly anything inside torch
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise ValueError(
                f"{path}: does not embed images of {image_size} pixels ({reason}); export a network that was trained "
                "on images of this size with python -m lrec.export --format exported"
            ) from error
        if found.dim() != 2 or len(found) != 2 or not found.isfinite().all():
            raise ValueError(
                f"{path}: found an output {tuple(found.shape)} of two images, expected (2, n) finite numbers"
            )
        self.dimensions = found.shape[1]
        self.macs = counted.get_total_flops() // 4  # two operations each, two images
        self.record = f"{path.name} {hashing.of_file(path)[:16]}"

    def __call__(self, images: Tensor) -> Tensor:
        """Map (N, 3, S, S) float32, normalised for the student, to (N, n) float32 of unit norm."""
        with torch.no_grad():
            return normalize(self._network(images * self._std + self._mean).float(), dim=1)


def start_heads(model: Ensemble, teacher: Teacher, images: Images, batch_size: int, device: str) -> None:
    """Set each branch's head to the ridge regression from its pooled features to the teacher's embeddings.

    A head that starts at random first destroys the features of the branch's starting weights.

    Args:
        model: this process's part of the student, on the device, with linear classifiers; it is left in evaluation
            mode.
        teacher: the network whose embeddings the student learns.
        images: the training images.
        batch_size: images at a time.
        device: device of the forward passes.
    """
    model.eval()
    form = memory_format(model.backbone, device)
    width = 1 + model.branches[model.own.start].classifier.in_features  # and 1, for the bias
    inner = torch.zeros(len(model.own), width, width, dtype=torch.float64, device=device)
    outer = torch.zeros(len(model.own), width, teacher.dimensions, dtype=torch.float64, device=device)
    selections = [images.rows[start : start + batch_size] for start in range(0, len(images), batch_size)]
    quiet = collective.rank() > 0
    with torch.no_grad(), progress.bar(len(images), "start of the heads", quiet=quiet) as bar:
        for pixels in batches.gather(images.pixels, selections, device, 0):
            batch = images.normalize(pixels).contiguous(memory_format=form)
            maps, wanted = model.stem(batch), teacher(batch).double()
            for place, number in enumerate(model.own):
                features = KINDS["features"].output(model.branches[number], maps).double()
                features = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
                inner[place].addmm_(features.T, features)
                outer[place].addmm_(features.T, wanted)
            bar.update(len(batch))
        for place, number in enumerate(model.own):
            inner[place].diagonal().add_(_RIDGE * inner[place].diagonal().mean())
            found = torch.linalg.solve(inner[place], outer[place])
            head = model.branches[number].classifier
            head.weight.copy_(found[:-1].T)
            head.bias.copy_(found[-1])


class Distillation(nn.Module):
    """The difference between a student's and its teacher's embeddings of a batch.

    One minus the mean cosine to the teacher's embeddings, plus ten times the mean squared difference of the pairwise
    similarities (Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019; Park et al., Relational
    Knowledge Distillation, CVPR 2019).
    """

    def forward(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Map a branch's outputs (B, n) and the teacher's embeddings (B, n) of unit norm to a scalar."""
        found = normalize(outputs, dim=1)
        # An image's similarity to itself is 1 in both.
        differences = (found @ found.T - wanted @ wanted.T).square().sum() / (len(found) * (len(found) - 1))
        return 1 - (found * wanted).sum(1).mean() + _SIMILARITIES * differences
