"""The built-in set: characters drawn with the fonts that ship inside matplotlib.

Nothing is downloaded. Each class is one character (Latin, Greek, Cyrillic, digits, symbols), drawn `COPIES` times in
each of 16 typefaces, with random position, size, rotation, colours, clutter and noise. Train and test characters are
disjoint, as in the benchmarks. The same seed gives the same pixels with the same versions of Pillow and matplotlib.
"""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lrec.datasets.dataset import Dataset, Sample
from lrec.io.splits import TEST, TRAIN

# No two look alike: A also represents the Greek and the Cyrillic A.
CHARACTERS = "ABDEFGHJKLMNPQRTUWXYZabdefghknqrty23456789&@#$%?!€£§ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπρσφχψωБДЖЗИЛЦЧШЩЭЮЯбджзлцэюя"
FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
)  # fmt: skip
COPIES = 2
SEED = 20260101
SUPERSAMPLING = 3
BACKGROUND, INK = (150, 256), (0, 110)  # ranges of each colour channel


@cache
def font_file(face: str) -> Path:
    """Return the file of one of matplotlib's typefaces, without importing matplotlib, which is slow."""
    found = importlib.util.find_spec("matplotlib")
    assert found is not None, "requirements.txt has matplotlib"
    assert found.origin is not None
    return Path(found.origin).parent / "mpl-data/fonts/ttf" / f"{face}.ttf"


def _colour(generator: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    red, green, blue = generator.integers(low, high, 3)
    return int(red), int(green), int(blue)


def draw(character: str, face: str, image_size: int, generator: np.random.Generator) -> np.ndarray:
    """Draw one image of a character.

    Args:
        character: the character.
        face: name of one of `FACES`.
        image_size: side S in pixels.
        generator: source of the randomness.

    Returns:
        (S, S, 3) uint8, RGB.
    """
    side = image_size * SUPERSAMPLING
    image = Image.new("RGB", (side, side), _colour(generator, *BACKGROUND))
    pen = ImageDraw.Draw(image)
    for _ in range(int(generator.integers(0, 3))):
        ends = [float(value) for value in generator.uniform(0, side, 4)]
        pen.line(ends, fill=_colour(generator, 0, 256), width=int(generator.integers(1, SUPERSAMPLING * 2)))
    font = ImageFont.truetype(font_file(face), size=int(side * generator.uniform(0.7, 0.95)))
    mask = Image.new("L", (side, side), 0)
    centre = tuple(side * generator.uniform(0.45, 0.55, 2))
    ImageDraw.Draw(mask).text(centre, character, fill=255, font=font, anchor="mm")
    mask = mask.rotate(float(generator.uniform(-12, 12)), Image.Resampling.BICUBIC)
    image.paste(Image.new("RGB", (side, side), _colour(generator, *INK)), mask=mask)
    pixels = np.asarray(image.resize((image_size, image_size), Image.Resampling.BOX), dtype=np.float64)
    noisy = pixels + generator.normal(0, generator.uniform(4, 14), pixels.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def read(image_size: int) -> Dataset:
    """Return the set, with images of `image_size` pixels per side; two of every three characters are for training."""

    def load(sample: Sample) -> Image.Image:
        _, class_name, face, copy = sample.path.split("/")
        number, copy_number = [_class_name(c) for c in CHARACTERS].index(class_name), int(copy)
        generator = np.random.default_rng([SEED, number, FACES.index(face), copy_number])
        return Image.fromarray(draw(CHARACTERS[number], face, image_size, generator))

    samples = [
        Sample(f"glyphs/{_class_name(character)}/{face}/{copy}", _class_name(character), split)
        for split, wanted in ((TRAIN, (0, 1)), (TEST, (2,)))
        for number, character in enumerate(CHARACTERS)
        if number % 3 in wanted
        for face in FACES
        for copy in range(COPIES)
    ]
    return Dataset(Path(), f"generated, {len(CHARACTERS)} characters in {len(FACES)} faces", samples, None, load)


def _class_name(character: str) -> str:
    """Return the code point, a name that every file system and table accepts."""
    return f"U+{ord(character):04X}"
