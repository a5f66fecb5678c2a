"""Decoding of image files and opened images, cropping and resizing."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from lrec.datasets.dataset import Box
from lrec.io import missing

# Only raster formats: other formats can start programs (EPS) or are not photos.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
MAX_PIXELS = 80_000_000
BOX_TOLERANCE = 2
DEEP_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")
ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
Resize = Literal["squash", "crop"]
# What turns an image upright, by its EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_image(name: str) -> bool:
    """Return whether a file with this name is read as an image."""
    return name.lower().endswith(SUFFIXES)


def decode(file: Path | BinaryIO, name: str = "") -> Image.Image:
    """Open an image file as 8-bit RGB.

    The first frame is used, rotated by its EXIF orientation, with transparent parts over white. 16-bit grey is scaled
    to 8 bits (65535 becomes 255); of 16-bit colour, Pillow keeps the high byte. Palette, grey, CMYK, YCbCr and Lab
    are converted by Pillow. Colour profiles are ignored.

    Args:
        file: a JPEG, PNG, BMP, GIF, WebP, TIFF or PPM file of at most `MAX_PIXELS` pixels; one opened in binary mode is
            read from its beginning and left open.
        name: name of the image, for errors; "" for its path.

    Returns:
        The image, mode RGB, fully decoded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, not an image, empty, too large, or has floating-point pixels; the message
            names it.
    """
    if isinstance(file, Path) and not file.is_file():
        found = f"image not found{missing.hint(file)}"
        raise FileNotFoundError(f"{file}: {found}; correct the path, or unpack the data set again (docs/datasets.md)")
    with _naming(name or str(file)), Image.open(file, formats=FORMATS) as image:
        return _to_rgb(image)


def convert(image: Image.Image) -> Image.Image:
    """Convert an image opened with Pillow as `decode` does, to the same pixels.

    Args:
        image: an image of any mode; it is not changed. The result is rotated if the image has an EXIF orientation;
            `ImageOps.exif_transpose` removes the orientation, other ways to rotate an image do not.

    Returns:
        A new image, mode RGB.

    Raises:
        ValueError: as for `decode`, or a frame other than the first is selected; the message names the image's file.
    """
    with _naming(str(getattr(image, "filename", "") or "opened image")):
        if frame := image.tell():
            raise ValueError(f"frame {frame} is selected, expected the first, 0, as of a file; pass image.copy()")
        try:
            converted = _to_rgb(image)
        except AssertionError as error:  # Pillow raises nothing more specific
            raise ValueError("its file was closed before its pixels were read; call image.load() first") from error
        return image.copy() if converted is image else converted


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turn any error in the block into a one-line error with the image's name."""
    try:
        yield
    except (MemoryError, PermissionError):
        raise
    except UnidentifiedImageError as error:  # its message names a Python object if the file is opened
        expected = ", ".join(FORMATS)
        raise ValueError(
            f"{name}: not readable as an image: cannot identify image file, expected one of {expected}; replace it"
        ) from error
    except Exception as error:  # a damaged file can raise nearly anything inside Pillow
        reason = " ".join(str(error).replace(f" {name!r}", "").split())
        raise ValueError(f"{name}: not readable as an image: {reason or type(error).__name__}; replace it") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return an image upright and as RGB: itself if it is both, otherwise a new one."""
    width, height = image.size
    if not width * height:
        raise ValueError(f"{width}x{height} pixels, expected at least one")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels, expected at most {MAX_PIXELS:,} in all")
    image.load()
    # ImageOps.exif_transpose would also write the EXIF data again, which fails if any tag is malformed.
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode in DEEP_GREY:
        return Image.fromarray(_scale_to_bytes(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels, expected 8 or 16 bits; convert the image")
    if image.mode in ALPHA or "transparency" in image.info:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _scale_to_bytes(grey: np.ndarray) -> np.ndarray:
    """Scale 16-bit grey, which Pillow stores in 16 or 32 bits, to uint8, rounding to nearest."""
    if grey.size and not 0 <= grey.min() <= grey.max() <= 65535:
        raise ValueError(f"grey values from {grey.min()} to {grey.max()}, expected 16 bits; convert the image")
    values = grey.astype(np.uint32)
    values *= 255
    values += 32767
    values //= 65535
    return values.astype(np.uint8)


def clip(box: Box, width: int, height: int) -> Box:
    """Fit an annotated box into its image.

    Some annotations extend a pixel or two beyond the edge: a box is clipped if it extends at most
    `BOX_TOLERANCE` pixels beyond the image on every side.

    Raises:
        ValueError: the box extends further, or is empty.
    """
    left, top, right, bottom = box
    excess = max(-left, -top, right - width, bottom - height)
    fitted = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if excess > BOX_TOLERANCE or fitted[0] >= fitted[2] or fitted[1] >= fitted[3]:
        raise ValueError(
            f"found a box from ({left}, {top}) to ({right}, {bottom}) in an image of {width}x{height} pixels, "
            f"expected it inside, or at most {BOX_TOLERANCE} pixels over the edge; "
            "annotations and images do not belong together"
        )
    return fitted


def crop_and_resize(image: Image.Image, box: Box | None, image_size: int, resize: Resize) -> np.ndarray:
    """Crop the box and resize it to a square, as torchvision's transforms do with a PIL image.

    Args:
        image: RGB.
        box: left, top, right, bottom in pixels, right and bottom exclusive; None for the whole image.
        image_size: side S in pixels.
        resize: "squash" (Resize((S, S)), which does not keep the aspect ratio) or "crop" (Resize(S), the short side
            to S, then CenterCrop(S)); bilinear, with antialiasing. No intermediate image exceeds `MAX_PIXELS`.

    Returns:
        (S, S, 3) uint8.

    Raises:
        ValueError: the box does not fit the image, see `clip`, or `resize` is unknown.
    """
    if box is not None:
        image = image.crop(clip(box, *image.size))
    if resize == "squash":
        return np.asarray(image.resize((image_size, image_size), Image.Resampling.BILINEAR))
    if resize != "crop":
        raise ValueError(f"resize: found {resize!r}, expected squash or crop")
    short = min(image.size)
    width, height = (int(image_size * side / short) for side in image.size)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    if width * height > MAX_PIXELS:
        # A narrow strip: only the middle, which the crop keeps, is resized.
        across, down = image.width / width, image.height / height
        middle = (left * across, top * down, (left + image_size) * across, (top + image_size) * down)
        return np.asarray(image.resize((image_size, image_size), Image.Resampling.BILINEAR, middle))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + image_size, top + image_size)))
