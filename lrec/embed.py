"""Extraction: one embedding per image, which depends on that image alone."""

import numpy as np
import torch

from lrec import batches, progress
from lrec.device import autocast
from lrec.model import Ensemble


def extract(
    model: Ensemble,
    images: np.ndarray,
    rows: np.ndarray,
    normalization: dict[str, list[float]],
    out: np.ndarray,
    *,
    batch_size: int,
    precision: str = "float32",
    device: str = "cpu",
    workers: int = 0,
    description: str = "embed",
) -> None:
    """Embed rows of a store, in order, into `out`.

    Args:
        model: the ensemble; it is put into evaluation mode, so no image sees its batch.
        images: (N, S, S, 3) uint8.
        rows: (R,) rows to embed.
        normalization: {"mean", "std"} per channel.
        out: (R, M*D) array to fill, such as a memory map.
        batch_size: images.
        precision: "float32" or "bfloat16" (autocast).
        device: of the forward pass.
        workers: threads that read ahead.
        description: label of the progress bar.
    """
    model = model.to(device, memory_format=torch.channels_last).eval()
    selections = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    done = 0
    with torch.inference_mode(), progress.bar(len(rows), description) as bar:
        for pixels in batches.gather(images, selections, device, workers):
            with autocast(device, precision):
                embedded = model.embed(batches.normalize(pixels, normalization["mean"], normalization["std"]))
            out[done : done + len(embedded)] = embedded.float().cpu().numpy()
            done += len(embedded)
            bar.update(len(embedded))
