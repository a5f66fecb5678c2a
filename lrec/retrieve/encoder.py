"""Embeds images of any kind (files, arrays, ...) in the same way as the pipeline embeds its stored images."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from lrec.data import batches
from lrec.datasets import decoding
from lrec.embedding import batch_norm, extract, graph, reduction, runtimes
from lrec.io import hashing, progress, reading
from lrec.model import saved
from lrec.model.ensemble import Ensemble
from lrec.model.kinds import KINDS
from lrec.retrieve import given
from lrec.retrieve.given import OneImage, SomeImages

_BATCH = 64
# Threads of a server take turns at work that uses all cores, and at using per-process state: torch's thread count and
# matmul precision, and OpenVINO's requests.
TURN = threading.RLock()


class Encoder:
    """A trained ensemble and the preprocessing of its images.

    Args:
        folder: folder of the saved ensemble.
        resize: "squash" or "crop"; None means as the training images were resized.
        device: device of the forward pass.
        kind: kind of embedding, see `lrec.model.kinds.KINDS`.
        reduced: file with the reduction, as written by the stage embed; None for no reduction.
        runtime: "torch", or a key of `lrec.embedding.runtimes.RUNTIMES`, which runs the exported graph on a CPU.
        quantized: file with the 8-bit graph, kind and reduction included, with which the stage embed made the
            embeddings; None for the network as it was trained.
        weights: SHA-256 of the model if the caller has checked it, so that a large file is not read once more.

    Raises:
        FileNotFoundError: the model, the reduction or the graph is missing.
        ValueError: the model is damaged or does not say how its training images were resized, the kind is unknown,
            the reduction belongs to another kind or model, or the runtime is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        resize: decoding.Resize | None = None,
        device: str = "cpu",
        kind: str = "logits",
        reduced: str | Path | None = None,
        runtime: str = runtimes.TORCH,
        quantized: str | Path | None = None,
        weights: str | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind: found {kind!r:.40}, expected one of {', '.join(KINDS)}")
        runtimes.require(runtime, "int8" if quantized else "float32", written=bool(quantized))
        config = saved.read_config(Path(folder))
        resize = resize or config.get("resize")
        if resize not in get_args(decoding.Resize):
            expected = " or ".join(get_args(decoding.Resize))
            raise ValueError(
                f"{folder}: found resize {resize!r:.40}, expected {expected}; pass the one it was trained with"
            )
        self._resize, self._normalization = resize, config["normalization"]
        self.image_size: int = config["image_size"]
        fitted = reduction.read(Path(reduced)) if reduced else None
        if reduced:
            _require_own(Path(reduced), Path(folder), kind, weights)
        self._network = self._opened(Path(folder), kind, fitted, runtime, quantized)
        device = device if isinstance(self._network, Ensemble) else "cpu"
        self._options = extract.Options(kind, _BATCH, device=device, reduction=fitted)

    def _opened(
        self, folder: Path, kind: str, fitted: reduction.Reduction | None, runtime: str, quantized: str | Path | None
    ) -> Ensemble | runtimes.Exported:
        """Return the network, opened by the runtime."""
        if quantized:
            reading.require_made(Path(quantized), None, "another graph")
            return runtimes.Exported(Path(quantized), runtime, "int8")
        ensemble, _ = saved.load(folder)
        batch_norm.fold(ensemble)
        if runtime == runtimes.TORCH:
            return ensemble
        return runtimes.exported(graph.Embedding(ensemble, self._normalization, kind, fitted), self.image_size, runtime)

    def prepare(self, images: SomeImages) -> np.ndarray:
        """Decode and resize one or several images, see `lrec.retrieve.given`, to (N, S, S, 3) uint8.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file cannot be decoded, or an array is not (H, W, 3) uint8.
        """
        opened = map(given.opened, given.images(images))
        ready = [decoding.crop_and_resize(image, None, self.image_size, self._resize) for image in opened]
        return np.stack(ready) if ready else np.empty((0, self.image_size, self.image_size, 3), np.uint8)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Embed (N, S, S, 3) uint8 as (N, d) float32 of unit norm; may be called from several threads."""
        out = np.empty((len(pixels), self._options.width(self._network)), np.float32)
        selections = [np.arange(start, min(start + _BATCH, len(pixels))) for start in range(0, len(pixels), _BATCH)]
        with TURN, extract.embedding(self._network, **self._normalization, options=self._options) as embedding:
            for rows, batch in zip(
                selections, batches.gather(pixels, selections, self._options.device, 0), strict=True
            ):
                out[rows] = embedding(batch).cpu().numpy()
        return out

    def embed(self, images: SomeImages) -> np.ndarray:
        """Embed one or several images, see `prepare`, as (N, d) float32, with one batch in memory at a time."""
        listed = given.images(images)
        starts = range(0, len(listed), _BATCH)
        parts = [self.encode(self.prepare(listed[start : start + _BATCH])) for start in starts]
        return np.concatenate(parts) if parts else self.encode(self.prepare([]))

    def embed_readable(self, images: Sequence[OneImage]) -> tuple[np.ndarray, dict[int, Exception]]:
        """Embed the readable images among many, with a progress bar if there is more than one batch.

        Returns:
            Embeddings (n, d) float32, in order, and the error of each unreadable image, by its position.
        """
        out = np.empty((len(images), self._options.width(self._network)), np.float32)
        unread, done = {}, 0
        with progress.bar(len(images), "embed", quiet=len(images) <= _BATCH) as bar:
            for start in range(0, len(images), _BATCH):
                some, ready = images[start : start + _BATCH], []
                for place, image in enumerate(some, start=start):
                    try:
                        ready.append(self.prepare(image))
                    except (ValueError, OSError) as error:
                        unread[place] = error
                if ready:
                    out[done : done + len(ready)] = self.encode(np.concatenate(ready))
                done += len(ready)
                bar.update(len(some))
        return out[:done], unread


def _require_own(path: Path, folder: Path, kind: str, weights: str | None) -> None:
    """Refuse a reduction that was fitted to embeddings of another kind or another model."""
    about = reduction.about(path)
    if about.get("kind", kind) != kind:
        raise ValueError(
            f"{path}: reduces embeddings of kind {about['kind']!r:.40}, found {kind!r}; pass that kind, or no reduction"
        )
    model = folder / saved.MODEL
    if model.is_file() and "model" in about and about["model"] != (found := weights or hashing.of_file(model)):
        raise ValueError(
            f"{path}: was fitted to another model (SHA-256 {about['model']!s:.16}) than {model} ({found[:16]}); pass "
            "the one that the stage embed wrote for this model"
        )
