"""From pictures of any kind to embeddings, as the pipeline makes them of its stored images."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from lrec.data import batches
from lrec.datasets import picture
from lrec.embedding import batch_norm, extract
from lrec.model import saved

# A file, a decoded picture, or (H, W, 3) uint8 pixels.
Picture: TypeAlias = str | Path | Image.Image | np.ndarray

_BATCH = 64


class Encoder:
    """A trained ensemble with what it takes to prepare a picture for it.

    Args:
        folder: of the saved ensemble.
        resize: "squash" or "crop", as the training images were resized.
        device: of the forward pass.
        kind: of embedding, see `lrec.model.kinds.KINDS`.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: the model is damaged.
    """

    def __init__(self, folder: Path, resize: str, device: str = "cpu", kind: str = "logits") -> None:
        ensemble, config = saved.load(folder)
        self._ensemble = batch_norm.fold(ensemble)
        self._normalization = config["normalization"]
        self._resize, self._options = resize, extract.Options(kind, _BATCH, device=device)
        self.image_size: int = config["image_size"]

    def prepare(self, images: Iterable[Picture]) -> np.ndarray:
        """Decode and resize to (N, S, S, 3) uint8.

        Raises:
            FileNotFoundError: a file is not there.
            ValueError: a file cannot be decoded, or an array is not (H, W, 3) uint8.
        """
        ready = [picture.crop_and_resize(_open(image), None, self.image_size, self._resize) for image in images]
        return np.stack(ready) if ready else np.empty((0, self.image_size, self.image_size, 3), np.uint8)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Embed (N, S, S, 3) uint8 as (N, d) float32 of unit norm."""
        out = np.empty((len(pixels), self._ensemble.width(self._options.kind)), np.float32)
        selections = [np.arange(start, min(start + _BATCH, len(pixels))) for start in range(0, len(pixels), _BATCH)]
        with extract.embedding(self._ensemble, **self._normalization, options=self._options) as embedding:
            for rows, batch in zip(
                selections, batches.gather(pixels, selections, self._options.device, 0), strict=True
            ):
                out[rows] = embedding(batch).cpu().numpy()
        return out

    def embed(self, images: Sequence[Picture]) -> np.ndarray:
        """Embed pictures of any kind as (N, d) float32, holding a batch of them in memory at a time."""
        starts = range(0, len(images), _BATCH)
        parts = [self.encode(self.prepare(images[start : start + _BATCH])) for start in starts]
        return np.concatenate(parts) if parts else self.encode(self.prepare([]))


def _open(image: Picture) -> Image.Image:
    if isinstance(image, str | Path):
        return picture.decode(Path(image))
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: found {image.dtype} of shape {image.shape}, expected (H, W, 3) uint8")
    return Image.fromarray(image)
