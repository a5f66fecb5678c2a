"""Decoding, cropping and resizing of images."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_sets import draw_marked
from torchvision import transforms

from lrec.datasets import decoding


@pytest.fixture
def photo() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_png_keeps_its_pixels(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.png")
    decoded = decoding.decode(tmp_path / "a.png")
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(photo))


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".gif", ".webp", ".tif", ".ppm"])
def test_every_format_opens(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (40, 30), (200, 40, 90)).save(tmp_path / f"a{suffix}")
    decoded = decoding.decode(tmp_path / f"a{suffix}")
    assert (decoded.mode, decoded.size) == ("RGB", (40, 30))
    np.testing.assert_allclose(np.asarray(decoded).mean((0, 1)), (200, 40, 90), atol=4)


# Each orientation undone by hand: what the camera stored becomes the upright decoding.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path: Path, photo: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.save(tmp_path / "a.png", exif=exif)
    decoded = np.asarray(decoding.decode(tmp_path / "a.png"))
    np.testing.assert_array_equal(decoded, UPRIGHT[orientation](np.asarray(photo)))


def test_cmyk_is_converted(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = np.asarray(decoding.decode(tmp_path / "a.jpg")).reshape(-1, 3).mean(0)
    assert red > 240
    assert green < 20
    assert blue < 20


def test_palette_is_converted(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(decoding.decode(tmp_path / "a.png")), [[[10, 20, 30], [200, 100, 50]]])


def test_transparent_palette_entry_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(np.asarray(decoding.decode(tmp_path / "a.png")), [[[255, 255, 255], [200, 100, 50]]])


def test_alpha_is_composited_over_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (200, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 51))  # one fifth black
    image.save(tmp_path / "a.png")
    expected = [[[255, 255, 255], [200, 0, 0], [204, 204, 204]]]
    np.testing.assert_array_equal(np.asarray(decoding.decode(tmp_path / "a.png")), expected)


def test_grey_with_alpha(tmp_path: Path) -> None:
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((1, 0), (90, 255))
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(decoding.decode(tmp_path / "a.png"))[0, :, 0], [255, 90])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    decoded = np.asarray(decoding.decode(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 0, 1, 1, 128, 255])
    assert (decoded == decoded[..., :1]).all()


def test_one_bit_image(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(decoding.decode(tmp_path / "a.png"))[0, :, 1], [255, 0])


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decoding.decode(tmp_path / "a.gif").getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".tif"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated_file_is_refused(tmp_path: Path, photo: Image.Image, suffix: str, share: float) -> None:
    file = tmp_path / f"a{suffix}"
    photo.save(file)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=rf"a\{suffix}: not readable as an image"):
        decoding.decode(file)


def test_what_is_not_an_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"a\.jpg: not readable as an image: cannot identify"):
        decoding.decode(tmp_path / "a.jpg")


def test_postscript_is_never_opened(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="cannot identify"):
        decoding.decode(tmp_path / "a.jpg")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg: image not found"):
        decoding.decode(tmp_path / "gone.jpg")


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.new("F", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="floating-point pixels"):
        decoding.decode(tmp_path / "a.tif")


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
        **{f"{n}{suffix}": (photo, _oriented(photo, n)) for n in UPRIGHT for suffix in (".jpg", ".png", ".tif")},
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


def _claimed_png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and whose data is nearly empty."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width", [8001, 9000, 60000])
def test_decompression_bomb_is_refused(tmp_path: Path, width: int) -> None:
    (tmp_path / "a.png").write_bytes(_claimed_png(width, 10000))
    with pytest.raises(ValueError, match=r"a\.png: not readable as an image: .*(80,000,000|decompression bomb)"):
        decoding.decode(tmp_path / "a.png")


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
