"""The figure of a search: each query and its results side by side, framed green if right and red if wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lrec.class_names import readable
from lrec.datasets.glyphs import font_file
from lrec.io import files

RIGHT, WRONG, UNKNOWN, QUERY = "#1a7f37", "#cf222e", "#8c959f", "#24292f"
BACKGROUND, EMPTY = "#ffffff", "#eaeef2"
# Pixels: side of an image, its frame, the space around it, height of the caption and of the header.
_SIDE, _FRAME, _GAP, _CAPTION, _HEAD = 160, 6, 10, 52, 34
_APART = 28  # between the query and its results
_LONGEST = 200  # characters of a name; longer ones are shortened before they are measured
_SMALL = 100  # images below this side are enlarged without blurring


@dataclass(frozen=True)
class Tile:
    """One image with its caption.

    Attributes:
        pixels: (H, W, 3) uint8, or None where there is no image.
        class_name: "" where unknown.
        similarity: None for the query itself.
        right: whether the class is the query's; None if either class is unknown.
    """

    pixels: np.ndarray | None
    class_name: str
    similarity: float | None = None
    right: bool | None = None


def draw(path: Path, rows: Sequence[Sequence[Tile]]) -> None:
    """Write a figure with one row per query: the query, then its results by rank.

    Args:
        path: the .png to write; the same rows give the same bytes.
        rows: rows of any length; the first tile of each is the query.
    """
    step = _SIDE + 2 * _FRAME + _GAP
    width = max(len(row) for row in rows) * step + _APART + _GAP
    sheet = Image.new("RGB", (width, _HEAD + len(rows) * (step + _CAPTION)), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for column in range(max(len(row) for row in rows)):
        centre = _left(column, step) + _FRAME + _SIDE // 2
        pen.text((centre, _HEAD // 2), str(column or "query"), QUERY, _font(16), anchor="mm")
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            _draw_tile(sheet, pen, tile, _left(column, step), _HEAD + number * (step + _CAPTION))
    with files.atomic(path) as stream:
        sheet.save(stream, "PNG")


def _left(column: int, step: int) -> int:
    return _GAP + column * step + (_APART if column else 0)


def _draw_tile(sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, left: int, top: int) -> None:
    side = _SIDE + 2 * _FRAME
    known = {True: RIGHT, False: WRONG, None: UNKNOWN}[tile.right]
    pen.rectangle((left, top, left + side - 1, top + side - 1), QUERY if tile.similarity is None else known)
    inner = (left + _FRAME, top + _FRAME)
    pen.rectangle((*inner, inner[0] + _SIDE - 1, inner[1] + _SIDE - 1), EMPTY)
    if tile.pixels is None:
        pen.text((left + side // 2, top + side // 2), "no image here", UNKNOWN, _font(14), anchor="mm")
    else:
        image = fitted(tile.pixels, _SIDE)
        sheet.paste(image, (inner[0] + (_SIDE - image.width) // 2, inner[1] + (_SIDE - image.height) // 2))
    # The mark repeats the colour for readers who cannot tell green from red.
    mark = {True: "✓ ", False: "✗ ", None: ""}[tile.right]
    score = "" if tile.similarity is None else f"{mark}{tile.similarity:.3f}"
    name, size = readable(tile.class_name), 14 if len(readable(tile.class_name)) > 3 else 20
    lines = [(score, 15, known), (_trimmed(name, size, side), size, QUERY)]
    middle = top + side + 14
    for text, height, colour in (line for line in lines if line[0]):
        pen.text((left + side // 2, middle), text, colour, _font(height), anchor="mm")
        middle += 22


def fitted(pixels: np.ndarray, side: int) -> Image.Image:
    """Return (H, W, 3) uint8 pixels as an image whose longer side is `side` pixels; small images are not blurred."""
    image = Image.fromarray(pixels)
    scale = side / max(image.size)
    small = max(image.size) < _SMALL
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)


def _trimmed(name: str, size: int, width: int) -> str:
    """Shorten a long name in the middle, since either end may tell classes apart."""
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST // 2]}…{name[-_LONGEST // 2 :]}"
    font, kept = _font(size), len(name)
    text = name
    while font.getlength(text) > width and kept > 2:
        kept -= 1
        text = f"{name[: kept - kept // 2]}…{name[len(name) - kept // 2 :]}"
    return text


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which ships with matplotlib and has Latin, Greek, Cyrillic and the marks."""
    return ImageFont.truetype(font_file("DejaVuSans"), size)
