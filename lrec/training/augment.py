"""Random changes of training images: drawn on the CPU from a generator, applied on the device."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


@dataclass(frozen=True)
class Changes:
    """What happens to a batch of B images.

    flipped: (F,) int64, positions of those flipped horizontally. windows: (B, 3) float32, fraction of the
    side that is kept and where its centre lies (x, y, from -1 to 1), or None to keep all.
    """

    flipped: Tensor | None
    windows: Tensor | None

    def part(self, chosen: range) -> "Changes":
        """Return the changes of some of the images in a row."""
        flipped, windows = self.flipped, self.windows
        if flipped is not None:
            flipped = flipped[(flipped >= chosen.start) & (flipped < chosen.stop)] - chosen.start
        return Changes(flipped, windows if windows is None else windows[chosen.start : chosen.stop])


def draw(generator: np.random.Generator, count: int, flip: bool, random_crop: float) -> Changes:
    """Draw the changes of a batch of `count` images.

    Args:
        generator: source of the randomness.
        count: B.
        flip: flip every second image horizontally, on average.
        random_crop: smallest fraction of the area that is cut out and scaled up again, 1 for none.
    """
    flipped = torch.from_numpy(np.flatnonzero(generator.random(count) < 0.5)) if flip else None
    if random_crop >= 1:
        return Changes(flipped, None)
    side = np.sqrt(generator.uniform(random_crop, 1, (count, 1)))
    centre = generator.uniform(-1, 1, (count, 2)) * (1 - side)
    return Changes(flipped, torch.from_numpy(np.hstack([side, centre]).astype(np.float32)))


def crop(images: Tensor, windows: Tensor) -> Tensor:
    """Cut a window out of each image and scale it up to the whole side, bilinearly.

    Args:
        images: (B, 3, S, S) float32.
        windows: (B, 3) float32 on their device, see `Changes`.

    Returns:
        (B, 3, S, S) float32 in channels_last memory format.
    """
    side, x, y = windows.unbind(1)
    zero = torch.zeros_like(side)
    matrix = torch.stack([torch.stack([side, zero, x], 1), torch.stack([zero, side, y], 1)], 1)
    grid = affine_grid(matrix, list(images.shape), align_corners=False)
    cut = grid_sample(images, grid, padding_mode="border", align_corners=False)
    return cut.contiguous(memory_format=torch.channels_last)
