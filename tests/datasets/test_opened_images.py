"""Images that a program has opened or made itself: converted as their files are, or refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lrec.datasets import decoding


def _oriented(image: Image.Image, orientation: int) -> dict:
    exif = image.getexif()
    exif[0x0112] = orientation
    return {"exif": exif}


def _files(folder: Path, photo: Image.Image) -> dict[str, Path]:
    """Images of every kind, whose pixels are not what convert("RGB") makes of them."""
    grey = np.linspace(0, 65535, 37 * 53).reshape(37, 53).astype(np.uint16)
    alpha = np.dstack([np.asarray(photo), np.linspace(0, 255, 37 * 53).reshape(37, 53).astype(np.uint8)])
    frames = [photo.rotate(angle) for angle in (0, 90)]
    made: dict[str, tuple[Image.Image, dict]] = {
        "deep.png": (Image.fromarray(grey), {}),
        "deep.tif": (Image.fromarray(grey), {}),
        "alpha.png": (Image.fromarray(alpha), {}),
        "alpha turned.webp": (Image.fromarray(alpha), {"lossless": True} | _oriented(photo, 6)),
        "grey alpha.png": (Image.fromarray(alpha).convert("LA"), {}),
        "palette.png": (photo.quantize(8), {"transparency": 0}),
        "key.png": (photo, {"transparency": photo.getpixel((0, 0))}),
        "cmyk.jpg": (photo.convert("CMYK"), {}),
        "animated.gif": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "pages.tif": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "two views.mpo": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "bit.png": (photo.convert("1"), {}),
        **{f"{n}{suffix}": (photo, _oriented(photo, n)) for n in range(1, 9) for suffix in (".jpg", ".png", ".tif")},
    }
    for name, (image, options) in made.items():
        image.save(folder / name, **options)
    return {name: folder / name for name in made}


def test_an_opened_image_is_converted_by_the_rule_of_its_file(tmp_path: Path, photo: Image.Image) -> None:
    for name, file in _files(tmp_path, photo).items():
        expected = np.asarray(decoding.decode(file))
        opened, loaded = Image.open(file), Image.open(file)
        loaded.load()
        for image in (opened, loaded, opened):  # as it comes, with its pixels read, and once more
            np.testing.assert_array_equal(np.asarray(decoding.convert(image)), expected, err_msg=name)
        with Image.open(file) as again:
            assert (opened.mode, opened.size) == (loaded.mode, loaded.size), name
            np.testing.assert_array_equal(np.asarray(opened), np.asarray(again), err_msg=name)
        opened.close()
        loaded.close()


def test_an_image_made_in_memory_keeps_its_pixels(photo: Image.Image) -> None:
    np.testing.assert_array_equal(np.asarray(decoding.convert(photo)), np.asarray(photo))
    assert decoding.convert(photo) is not photo


def test_a_later_frame_is_not_taken_for_the_first(tmp_path: Path, photo: Image.Image) -> None:
    file = _files(tmp_path, photo)["animated.gif"]
    with Image.open(file) as image:
        image.seek(1)
        with pytest.raises(ValueError, match=r"animated\.gif: not .*: frame 1 is selected, expected the first, 0"):
            decoding.convert(image)
        assert decoding.convert(image.copy()).size == photo.size
        image.seek(0)
        np.testing.assert_array_equal(np.asarray(decoding.convert(image)), np.asarray(decoding.decode(file)))


def test_opened_images_that_are_refused(tmp_path: Path, photo: Image.Image) -> None:
    with pytest.raises(ValueError, match="^opened image: not readable as an image: floating-point pixels"):
        decoding.convert(Image.new("F", (4, 4)))
    with pytest.raises(ValueError, match="^opened image: .*expected at most 80,000,000 in all"):
        decoding.convert(Image.new("1", (9000, 9000)))
    photo.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    with Image.open(tmp_path / "cut.png") as image:
        with pytest.raises(ValueError, match=r"cut\.png: not readable as an image: "):
            decoding.convert(image)
    photo.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as closed:
        pass
    with pytest.raises(ValueError, match=r"a\.png: not readable as an image: .*closed"):
        decoding.convert(closed)
