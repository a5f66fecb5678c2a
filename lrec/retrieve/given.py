"""Checks the input of the Python API: images (files, opened images or pixels), embeddings, and class names."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import Image

from lrec.datasets import decoding, names

# A file, as a path, as bytes or opened in binary mode; an image opened with Pillow; or (H, W, 3) uint8 pixels.
OneImage: TypeAlias = str | Path | bytes | BinaryIO | Image.Image | np.ndarray
# One of them or several, such as (N, H, W, 3) uint8.
SomeImages: TypeAlias = OneImage | torch.Tensor | Iterable[OneImage]
_EXPECTED = "expected a file, its bytes, an opened image or (H, W, 3) uint8"


def images(given: SomeImages) -> list[OneImage]:
    """Return one or several images as a list.

    Raises:
        ValueError: the argument is not one or several images.
    """
    given = _without_torch(given)
    if isinstance(given, str | Path | bytes | Image.Image) or hasattr(given, "read"):
        return [given]
    if isinstance(given, np.ndarray):
        if given.dtype.kind in "OU":  # file names
            return list(given.ravel())
        return list(given) if given.ndim > 3 else [given]
    if not isinstance(given, Iterable):
        raise ValueError(f"image: found {type(given).__name__}, {_EXPECTED}")
    return [_without_torch(one) for one in given]


def opened(image: OneImage) -> Image.Image:
    """Return an image as RGB; all kinds of input are decoded by the same rules.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file or its bytes cannot be decoded, or an array is not (H, W, 3) uint8, or empty.
    """
    if isinstance(image, str | Path):
        return decoding.decode(Path(image))
    if isinstance(image, Image.Image):
        return decoding.convert(image)
    if isinstance(image, bytes):
        return decoding.decode(io.BytesIO(image), f"{len(image):,} bytes")
    if hasattr(image, "read") and not isinstance(image, io.TextIOBase):
        return decoding.decode(image, "open file")
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image: found {type(image).__name__}, {_EXPECTED}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"image: found {image.dtype} of shape {image.shape}, expected (H, W, 3) uint8 with at least one pixel"
        )
    return Image.fromarray(image)


def embeddings(given: SomeImages) -> np.ndarray | None:
    """Return embeddings, one (d,) or several (N, d) of floats, as (N, d); None if images are given."""
    given = _without_torch(given)
    if isinstance(given, list | tuple) and given:
        parts = [_without_torch(one) for one in given]
        if all(isinstance(part, np.ndarray) and part.ndim == 1 and part.dtype.kind == "f" for part in parts):
            given = np.stack(parts)
    if not isinstance(given, np.ndarray) or given.dtype.kind != "f":
        return None
    if given.ndim > 2:
        raise ValueError(
            f"images: found {given.dtype} of shape {given.shape}, expected (H, W, 3) uint8 from 0 to 255, or "
            "embeddings (N, d) of floats"
        )
    return np.atleast_2d(given)


def classes(written: str | Sequence[str | None] | None, count: int, known: Iterable[str]) -> list[str]:
    """Return the class names of new images, "" where unknown, checked by the rules for data sets.

    Args:
        written: one name per image; a string for a single image; None if all are unknown.
        count: number of images.
        known: names already in the database.

    Raises:
        ValueError: the number of names is wrong, or a name is not allowed in a data set with the others.
    """
    if not isinstance(written, str | Iterable | None):
        raise ValueError(f"classes: found {written!r:.80}, expected a name per image")
    listed = [written] if isinstance(written, str) else [""] * count if written is None else list(written)
    if len(listed) != count:
        raise ValueError(f"classes: found {len(listed)}, expected {count}, one per image")
    for name in listed:
        if not isinstance(name, str | None):
            raise ValueError(f"classes: found {name!r:.80}, expected a name")
    found = [names.composed(name or "") for name in listed]
    there = [name for name in known if name]
    if new := set(found).difference(["", *there]):
        names.require_classes(dict.fromkeys([*there, *sorted(new)], "classes"))
    return found


def _without_torch(given: SomeImages) -> SomeImages:
    if not isinstance(given, torch.Tensor):
        return given
    return (given.float() if given.is_floating_point() else given).detach().cpu().numpy()
