"""Extraction: one embedding per image, which depends only on that image.

Extraction is fast because batch norms are folded (`lrec.embedding.batch_norm`), torch is in inference mode, batches are
read ahead, and the images of a batch are divided among threads (`lrec.compute.threads`); `benchmarks/extraction.py`
measures the speed-up. Embeddings are written to a memory map, and a killed run resumes from its `Journal`.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lrec.compute import collective, threads
from lrec.compute.device import arithmetic, autocast, is_gpu
from lrec.compute.transfer import Reading
from lrec.data import batches
from lrec.data.batches import Images
from lrec.data.store import DATASET, IMAGES, INDEX
from lrec.embedding.journal import Journal
from lrec.embedding.reduction import Reduction
from lrec.embedding.runtimes import Exported
from lrec.io import hashing, progress
from lrec.model.ensemble import Ensemble, memory_format

Item = TypeVar("Item")


@dataclass(frozen=True)
class Options:
    """How images are embedded.

    Attributes:
        kind: kind of embedding, see `lrec.model.kinds.KINDS`.
        batch_size: images per batch.
        precision: precision of the forward pass, "float32" or "bfloat16" (autocast).
        device: device of the forward pass.
        workers: threads that read batches ahead.
        reduction: reduction of the network's embeddings, or None.
    """

    kind: str = "logits"
    batch_size: int = 100
    precision: str = "float32"
    device: str = "cpu"
    workers: int = 0
    reduction: Reduction | None = None

    def width(self, model: Ensemble | Exported) -> int:
        """Return d, the dimensions of an embedding by this model."""
        return self.reduction.dimensions if self.reduction else model.width(self.kind)


@contextlib.contextmanager
def embedding(
    model: Ensemble | Exported, mean: Sequence[float], std: Sequence[float], options: Options
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield a function that embeds (B, S, S, 3) uint8 images on the device as (B, d) float32.

    Args:
        model: as for `extract`.
        mean: per channel, for pixels scaled to 0-1.
        std: likewise.
        options: batch size and workers are ignored.
    """
    if isinstance(model, Exported):
        yield model.embed
        return
    layout = memory_format(model.backbone, options.device)
    model.to(options.device, memory_format=layout).eval()
    reduce = options.reduction.to(options.device) if options.reduction else torch.nn.Identity()

    def forward(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            with autocast(options.device, options.precision):
                images = batches.normalize(pixels, mean, std)
                embedded = model.embed(images.contiguous(memory_format=layout), options.kind)
            return reduce(embedded.float())

    exact = arithmetic(options.device, tf32=False, deterministic=False, tuned=False)
    with exact, threads.by_image(forward, options.device) as divided:
        yield divided


def extract(
    model: Ensemble | Exported,
    images: Images,
    out: np.ndarray,
    options: Options,
    *,
    description: str = "embed",
    journal: Journal | None = None,
    part: tuple[int, int] = (0, 1),
) -> None:
    """Embed images of a store, in order, into `out`.

    Args:
        model: an ensemble, which is put into evaluation mode, so that an image does not depend on its batch; after
            `lrec.embedding.batch_norm.fold`, it needs fewer operations for the same embeddings. Or a graph opened by
            another runtime, which then includes normalisation, kind, precision and reduction and runs on a CPU.
        images: R images.
        out: (R, d) float32 or float16 array to fill, such as a memory map.
        options: see `Options`.
        description: label of the progress bar.
        journal: journal of `out`, one part per batch; batches marked as done are skipped.
        part: (rank, count) if several processes fill the same array; each embeds every count-th batch.
    """
    size = options.batch_size
    spans = split(len(images), size)[part[0] :: part[1]]
    if journal:
        spans = [span for span in spans if not journal.is_done(span.start // size)]
    selections = [images.rows[span] for span in spans]
    bar = progress.bar(sum(map(len, selections)), description)
    with bar, embedding(model, images.mean, images.std, options) as embed:
        loaded = batches.gather(images.pixels, selections, options.device, options.workers)
        embedded = ((span, Reading(embed(pixels))) for span, pixels in zip(spans, loaded, strict=True))
        # A GPU embeds the next batch while the previous one is copied and written.
        for span, reading in _late(embedded, int(is_gpu(options.device))):
            out[span] = reading.get().numpy()
            if journal:
                journal.note(span.start // size)
            bar.update(span.stop - span.start)
    if journal:
        journal.save()


def _late(items: Iterator[Item], count: int) -> Iterator[Item]:
    """Yield items, always reading `count` items ahead."""
    ahead: deque[Item] = deque()
    for item in items:
        ahead.append(item)
        if len(ahead) > count:
            yield ahead.popleft()
    yield from ahead


def fill(path: Path, model: Ensemble | Exported, images: Images, dtype: str, options: Options) -> None:
    """Embed images into a .npy file, resuming an earlier run; several processes share the batches.

    Args:
        path: the file; the flags of its `Journal` are in the same folder.
        model: see `extract`.
        images: R images.
        dtype: dtype of the file, "float32" or "float16".
        options: see `Options`.
    """
    if collective.rank() == 0:
        parts = len(split(len(images), options.batch_size))
        Journal.create(path, (len(images), options.width(model)), dtype, parts)
    collective.wait()
    journal = Journal(path)
    part = collective.rank(), collective.count()
    extract(model, images, journal.array, options, description=path.stem, journal=journal, part=part)
    collective.wait()


def again(model: Ensemble | Exported, images: Images, options: Options) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return a function that embeds rows of a store in batches of a given size, for `lrec.embedding.audit.measure`.

    Args:
        model: see `extract`.
        images: images of the store; their rows are replaced.
        options: options of the extraction.
    """

    def embed(rows: np.ndarray, batch_size: int) -> np.ndarray:
        out = np.empty((len(rows), options.width(model)), np.float32)
        chosen, sized = replace(images, rows=rows), replace(options, batch_size=batch_size)
        extract(model, chosen, out, sized, description="audit")
        return out

    return embed


def split(count: int, batch_size: int) -> list[slice]:
    """Return the ranges of the batches of `count` images; the last may be shorter.

    >>> split(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]


def identity(store_folder: Path) -> list[object]:
    """Return values that identify a packed store without reading all of its pixels.

    The image file is identified by size, inode and modification time, the index and the pixel sums by their bytes. A
    store that was packed again counts as a different one, even if it is the same.
    """
    images = (store_folder / IMAGES).stat()
    small = [hashing.of_file(store_folder / name) for name in (INDEX, DATASET)]
    return [images.st_size, images.st_ino, images.st_mtime_ns, *small]
