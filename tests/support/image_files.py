"""Hand-made image files, and a tiny project in which one replaces the first training image."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import tiny_pipeline as tiny
from PIL import Image

PLACE = "train/ant/0"
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def photo(kind: str, **options: object) -> bytes:
    """Return the bytes of a photograph of 50 by 40 pixels."""
    return encoded(Image.fromarray(PIXELS), kind, **options)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, *more: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """Return a hand-made PNG."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def put(project: Path, suffix: str, content: bytes) -> Path:
    """Replace the first training image with a file."""
    (project / tiny.RAW / f"{PLACE}.png").unlink()
    path = project / tiny.RAW / f"{PLACE}{suffix}"
    path.write_bytes(content)
    return path
