"""Distillation: a network learns the embeddings that another one, its teacher, gives to the same images.

The teacher is a program of torch.export, such as `python -m lrec.export --format exported` writes, which includes the
normalisation of images and the reduction of embeddings. It sees each image as the student does, flipped and cropped.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lrec.compute.device import is_gpu
from lrec.io import hashing, missing

PARAMETER = "train.teacher"
_SIMILARITIES = 10  # weight of the similarities, whose squared differences are small; chosen on held-out classes


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
        self.record = f"{path.name} {hashing.of_file(path)[:16]}"

    def __call__(self, images: Tensor) -> Tensor:
        """Map (N, 3, S, S) float32, normalised for the student, to (N, n) float32 of unit norm."""
        with torch.no_grad():
            return normalize(self._network(images * self._std + self._mean).float(), dim=1)


class Distillation(nn.Module):
    """The loss of a batch: what its embeddings, and the similarities among them, lack of the teacher's.

    One minus the mean cosine to the teacher's embeddings, and ten times the mean squared difference of the pairwise
    similarities (Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019; Park et al., Relational
    Knowledge Distillation, CVPR 2019).
    """

    def forward(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Map a branch's outputs (B, n) and the teacher's embeddings (B, n) of unit norm to a scalar."""
        found = normalize(outputs.float(), dim=1)
        pairs = ~torch.eye(len(found), dtype=torch.bool, device=found.device)
        similarities = (found @ found.T - wanted @ wanted.T)[pairs]
        return 1 - (found * wanted).sum(1).mean() + _SIMILARITIES * similarities.square().mean()
