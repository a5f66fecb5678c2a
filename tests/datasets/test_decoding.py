"""Decoding of image files: every format and kind of pixels, and what is refused."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lrec.datasets import decoding


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


# Tags that Pillow reads but cannot write again.
MALFORMED = {
    "resolution as text": struct.pack("<HHI4s", 0x011A, 2, 4, b"72"),
    "negative width": struct.pack("<HHIi", 0x0100, 9, 1, -1),
    "negative short": struct.pack("<HHIhh", 0x0128, 8, 1, -1, 0),
}


@pytest.mark.parametrize("tag", MALFORMED)
def test_orientation_is_applied_beside_a_malformed_tag(tmp_path: Path, tag: str) -> None:
    tags = sorted([struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0), MALFORMED[tag]])
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert decoding.decode(tmp_path / "a.jpg").size == (30, 40)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert decoding.convert(opened).size == (30, 40)


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
