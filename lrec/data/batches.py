"""Batches from a memory-mapped store, read ahead by threads and normalised on the device."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Some images of a packed store, and how they are normalised.

    Attributes:
        pixels: (N, S, S, 3) uint8 of the whole store, a memory map.
        rows: (R,) int64, the rows of these images.
        mean: per channel (red, green, blue), for pixels scaled to 0-1.
        std: likewise.
    """

    pixels: np.ndarray
    rows: np.ndarray
    mean: Sequence[float]
    std: Sequence[float]

    def __len__(self) -> int:
        return len(self.rows)

    def some(self, chosen: np.ndarray | slice) -> "Images":
        """Return some of these images: a mask, positions or a range of `rows`."""
        return replace(self, rows=self.rows[chosen])

    def normalize(self, pixels: Tensor, flipped: Tensor | None = None) -> Tensor:
        """Return a batch as network input, see the function `normalize`."""
        return normalize(pixels, self.mean, self.std, flipped)


def gather(images: np.ndarray, selections: Sequence[np.ndarray], device: str, workers: int) -> Iterator[Tensor]:
    """Yield the images of each selection of rows, in order.

    Args:
        images: (N, S, S, 3) uint8, a memory map.
        selections: row numbers of each batch.
        device: where the batches go.
        workers: threads that read ahead, 0 for none; the batches do not depend on it.

    Yields:
        (B, S, S, 3) uint8 on the device.
    """
    pinned = torch.device(device).type != "cpu"

    def read(rows: np.ndarray) -> Tensor:
        batch = torch.from_numpy(images[rows])
        return batch.pin_memory() if pinned else batch

    if workers == 0:
        yield from (read(rows).to(device, non_blocking=pinned) for rows in selections)
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Tensor]] = deque()
        for rows in selections:
            ahead.append(pool.submit(read, rows))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result().to(device, non_blocking=pinned)
        while ahead:
            yield ahead.popleft().result().to(device, non_blocking=pinned)


def normalize(pixels: Tensor, mean: Sequence[float], std: Sequence[float], flipped: Tensor | None = None) -> Tensor:
    """Return a batch as network input, on its device.

    Args:
        pixels: (B, S, S, 3) uint8.
        mean: per channel, for values scaled to 0-1.
        std: likewise.
        flipped: (F,) int64, positions in the batch of the images to flip horizontally.

    Returns:
        (B, 3, S, S) float32 in channels_last memory format.
    """
    if flipped is not None and len(flipped):
        pixels = pixels.index_copy(0, flipped, pixels[flipped].flip(2))
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), pixels.device)
    return pixels.float().mul_(scale).sub_(shift).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the factor and the offset of each channel, cached on the device, since copying them stalls a GPU."""
    with torch.inference_mode(False):
        scale = torch.tensor([1 / (255 * value) for value in std], device=device)
        shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale, shift
