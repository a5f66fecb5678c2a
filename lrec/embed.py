"""Extraction: one embedding per image, which depends on that image alone.

Nothing is computed that embeddings do not need (`lrec.batch_norm` on the network, inference mode, batches read
ahead), and no thread waits for another inside a batch (`lrec.threads`); how much that brings:
`benchmarks/extraction.py`. The embeddings go straight into a memory map,
whose `Journal` lets a run that was killed go on where it stopped.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrec import batches, collective, files, progress, threads
from lrec.backbones import memory_format
from lrec.device import arithmetic, autocast
from lrec.model import Ensemble
from lrec.store import DATASET, IMAGES, INDEX
from lrec.unfinished import Journal


@contextlib.contextmanager
def embedding(
    model: Ensemble, normalization: dict[str, list[float]], kind: str, precision: str, device: str
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Give a function that embeds (B, S, S, 3) uint8 images on the device as (B, d) float32.

    Args:
        model, normalization, kind, precision, device: as for `extract`.
    """
    layout = memory_format(model.backbone, device)
    model.to(device, memory_format=layout).eval()

    def forward(pixels: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(device, precision):
            images = batches.normalize(pixels, normalization["mean"], normalization["std"])
            return model.embed(images.contiguous(memory_format=layout), kind).float()

    exact = arithmetic(device, tf32=False, deterministic=False, tuned=False)
    with exact, threads.by_image(forward, device) as divided:
        yield divided


def extract(
    model: Ensemble,
    images: np.ndarray,
    rows: np.ndarray,
    normalization: dict[str, list[float]],
    out: np.ndarray,
    *,
    batch_size: int,
    kind: str = "logits",
    precision: str = "float32",
    device: str = "cpu",
    workers: int = 0,
    description: str = "embed",
    journal: Journal | None = None,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Embed rows of a store, in order, into `out`.

    Args:
        model: the ensemble; it is put into evaluation mode, so no image sees its batch. One that
            `lrec.batch_norm.fold` has been through gives the same embeddings with fewer operations.
        images: (N, S, S, 3) uint8.
        rows: (R,) rows to embed.
        normalization: {"mean", "std"} per channel.
        out: (R, d) float32 or float16 array to fill, such as a memory map.
        batch_size: images.
        kind: "logits" or "features", see `Ensemble.embed`.
        precision: "float32" or "bfloat16" (autocast).
        device: of the forward pass.
        workers: threads that read ahead.
        description: label of the progress bar.
        journal: of `out`, one part per batch; batches that it says are done are left out.
        share: (rank, count) when several processes fill the same array: every count-th batch.
    """
    spans = split(len(rows), batch_size)[share[0] :: share[1]]
    if journal:
        spans = [span for span in spans if not journal.is_done(span.start // batch_size)]
    selections = [rows[span] for span in spans]
    bar = progress.bar(sum(map(len, selections)), description)
    with bar, embedding(model, normalization, kind, precision, device) as embed:
        loaded = batches.gather(images, selections, device, workers)
        for span, pixels in zip(spans, loaded, strict=True):
            out[span] = embed(pixels).cpu().numpy()
            if journal:
                journal.note(span.start // batch_size)
            bar.update(len(pixels))
    if journal:
        journal.save()


def fill(
    path: Path, model: Ensemble, images: np.ndarray, rows: np.ndarray, dtype: str, batch_size: int, **options: Any
) -> None:
    """Embed rows into a .npy file, from where an earlier run stopped; several ranks share the batches.

    Args:
        path: the file; beside it lie the flags of its `Journal`.
        model, images, rows, batch_size, options: as for `extract`.
        dtype: "float32" or "float16", of the file.
    """
    if collective.rank() == 0:
        width = model.width(options["kind"])
        Journal.create(path, (len(rows), width), dtype, len(split(len(rows), batch_size)))
    collective.wait()
    journal = Journal(path)
    extract(
        model,
        images,
        rows,
        out=journal.array,
        batch_size=batch_size,
        description=path.stem,
        journal=journal,
        share=(collective.rank(), collective.count()),
        **options,
    )
    collective.wait()


def again(model: Ensemble, images: np.ndarray, **options: Any) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return a function that embeds (n,) rows in batches of a given size as (n, d) float32, for the audit."""

    def embed(rows: np.ndarray, batch_size: int) -> np.ndarray:
        out = np.empty((len(rows), model.width(options["kind"])), np.float32)
        extract(model, images, rows, out=out, description="audit", **options | {"batch_size": batch_size})
        return out

    return embed


def split(count: int, batch_size: int) -> list[slice]:
    """Return the ranges of the batches of so many images; the last may be shorter.

    >>> split(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]


def tested(splits: Sequence[str]) -> list[str]:
    """Return the splits that are searched and searched in: query and gallery, or else test.

    >>> tested(["train", "test"]), tested(["train", "query", "gallery"])
    (['test'], ['query', 'gallery'])
    """
    return ["query", "gallery"] if "query" in splits else ["test"]


def identity(store_folder: Path) -> list[object]:
    """Return what tells a packed store from another without reading all of its pixels.

    The images count by size, place on the disk and time of writing, however the clock is set; the index and
    the pixel sums by their bytes. A store that was packed anew is another one, at worst in vain.
    """
    images = (store_folder / IMAGES).stat()
    small = [files.digest(store_folder / name) for name in (INDEX, DATASET)]
    return [images.st_size, images.st_ino, images.st_mtime_ns, *small]
