"""Crops and sizes: as torchvision makes them, boxes, and images that are long and thin."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_sets import draw_marked
from torchvision import transforms

from lrec.datasets import decoding


def test_squash_equals_torchvision(photo: Image.Image) -> None:
    expected = np.asarray(transforms.Resize((24, 24))(photo))
    np.testing.assert_array_equal(decoding.crop_and_resize(photo, None, 24, "squash"), expected)


@pytest.mark.parametrize("size", [(53, 37), (37, 53), (40, 40), (101, 24), (33, 32), (25, 76)])
def test_crop_equals_torchvision(size: tuple[int, int]) -> None:
    width, height = size
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))
    expected = np.asarray(transforms.CenterCrop(24)(transforms.Resize(24)(image)))
    np.testing.assert_array_equal(decoding.crop_and_resize(image, None, 24, "crop"), expected)


def test_box_is_cut_before_the_resize(tmp_path: Path) -> None:
    draw_marked(tmp_path / "a.png")
    image = decoding.decode(tmp_path / "a.png")
    pixels = decoding.crop_and_resize(image, (5, 3, 10, 11), 32, "squash")
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    assert (pixels == (255, 0, 0)).all()
    assert not (decoding.crop_and_resize(image, (4, 3, 10, 11), 32, "squash") == (255, 0, 0)).all()


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 20, 16), (0, 0, 20, 16)),
        ((-2, -1, 22, 18), (0, 0, 20, 16)),
        ((3, 4, 21, 6), (3, 4, 20, 6)),
    ],
)
def test_box_a_little_over_the_edge_is_clipped(box: decoding.Box, expected: decoding.Box) -> None:
    assert decoding.clip(box, 20, 16) == expected


@pytest.mark.parametrize(
    "box", [(-3, 0, 5, 5), (0, -3, 5, 5), (0, 0, 23, 5), (0, 0, 5, 19), (20, 3, 22, 5), (5, 5, 5, 9)]
)
def test_box_outside_is_refused(box: decoding.Box) -> None:
    with pytest.raises(ValueError, match="in an image of 20x16 pixels, expected it inside"):
        decoding.crop_and_resize(Image.new("RGB", (20, 16)), box, 8, "squash")


def test_unknown_resize_is_refused() -> None:
    with pytest.raises(ValueError, match="found 'stretch', expected squash or crop"):
        decoding.crop_and_resize(Image.new("RGB", (20, 16)), None, 8, "stretch")


@pytest.mark.parametrize("size", [(60_000, 2), (2, 60_000), (65_000, 1), (1, 65_000)])
def test_a_strip_takes_no_more_memory_than_an_image(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its short side enlarged to 256 pixels would make the other one millions of pixels long."""
    made, real = [], Image.Image.resize

    def resize(self: Image.Image, to: tuple[int, int], *rest: object) -> Image.Image:
        made.append(to[0] * to[1])
        return real(self, to, *rest)

    monkeypatch.setattr(Image.Image, "resize", resize)
    image = Image.new("RGB", size, (10, 20, 30))
    for how in ("crop", "squash"):
        assert (decoding.crop_and_resize(image, None, 256, how) == (10, 20, 30)).all()
    assert max(made) <= decoding.MAX_PIXELS


def test_the_middle_of_a_strip_is_what_a_crop_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 900, 3), np.uint8))
    whole = decoding.crop_and_resize(image, None, 64, "crop").astype(int)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1000)
    assert np.abs(decoding.crop_and_resize(image, None, 64, "crop") - whole).max() <= 2
