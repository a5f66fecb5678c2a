"""Augmentation: random changes of training images, drawn on the CPU from a generator and applied on the device."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


@dataclass(frozen=True)
class Changes:
    """The changes of a batch of B images.

    flipped: (F,) int64, positions of the images to flip horizontally. windows: (B, 3) float32, the fraction of the
    side to keep and the centre of the window (x, y, from -1 to 1), or None to keep whole images.
    """

    flipped: Tensor | None
    windows: Tensor | None

    def part(self, chosen: range) -> "Changes":
        """Return the changes of a range of the images."""
        flipped, windows = self.flipped, self.windows
        if flipped is not None:
            flipped = flipped[(flipped >= chosen.start) & (flipped < chosen.stop)] - chosen.start
        return Changes(flipped, windows if windows is None else windows[chosen.start : chosen.stop])


def draw(generator: np.random.Generator, count: int, flip: bool, random_crop: float) -> Changes:
    """Draw the changes of a batch of `count` images.

    Args:
        generator: source of the randomness.
        count: B.
        flip: flip each image horizontally with probability 1/2.
        random_crop: smallest fraction of the area that is cropped and scaled up again; 1 for no cropping.
    """
    flipped = torch.from_numpy(np.flatnonzero(generator.random(count) < 0.5)) if flip else None
    if random_crop >= 1:
        return Changes(flipped, None)
    side = np.sqrt(generator.uniform(random_crop, 1, (count, 1)))
    centre = generator.uniform(-1, 1, (count, 2)) * (1 - side)
    return Changes(flipped, torch.from_numpy(np.hstack([side, centre]).astype(np.float32)))


def crop(images: Tensor, windows: Tensor) -> Tensor:
    """Crop a window from each image and scale it up to the full size, bilinearly.

    Args:
        images: (B, 3, S, S) float32.
        windows: (B, 3) float32 on the same device, see `Changes`.

    Returns:
        (B, 3, S, S) float32 in channels_last memory format.
    """
    side, x, y = windows.unbind(1)
    zero = torch.zeros_like(side)
    matrix = torch.stack([torch.stack([side, zero, x], 1), torch.stack([zero, side, y], 1)], 1)
    grid = affine_grid(matrix, list(images.shape), align_corners=False)
    cut = grid_sample(images, grid, padding_mode="border", align_corners=False)
    return cut.contiguous(memory_format=torch.channels_last)
