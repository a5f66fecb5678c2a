"""Image files as they are found: odd but sound ones are packed, all others stop the run in one line."""

import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline as tiny
from image_files import PIXELS, PLACE, encoded, photo, png, put
from PIL import Image

from lrec.data import store
from lrec.datasets import decoding
from lrec.io import command

GENERATOR = np.random.default_rng(0)
FRAMES = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]


def grey16() -> Image.Image:
    return Image.fromarray(GENERATOR.integers(0, 65536, (40, 50), dtype=np.uint16))


def clear_palette() -> bytes:
    image = Image.fromarray(PIXELS).quantize(16)
    return encoded(image, "PNG", transparency=bytes([0, 128] + [255] * 14))


# Legitimate: name, bytes, and the colour of the middle of the stored image where it is certain.
SOUND: dict[str, tuple[str, bytes, tuple[int, int, int] | None]] = {
    "cmyk": (".jpg", encoded(Image.new("CMYK", (30, 30), (0, 255, 255, 0)), "JPEG"), (254, 0, 0)),
    "16 bit grey": (".png", encoded(grey16(), "PNG"), None),
    "16 bit colour": (
        ".png",
        png(2, 2, b"\0" + b"\xff\xff\0\0\0\0" * 2 + b"\0" + b"\xff\xff\0\0\0\0" * 2, depth=16),
        (255, 0, 0),
    ),
    "grey": (".jpg", encoded(Image.new("L", (30, 30), 77), "JPEG"), (77, 77, 77)),
    "one bit": (".png", encoded(Image.new("1", (30, 30), 1), "PNG"), (255, 255, 255)),
    "transparent palette": (".png", clear_palette(), None),
    "transparent": (".png", encoded(Image.new("RGBA", (30, 30), (0, 0, 0, 0)), "PNG"), (255, 255, 255)),
    "animated gif": (".gif", encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), (255, 0, 0)),
    "animated webp": (
        ".webp",
        encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True),
        (255, 0, 0),
    ),
    "animated png": (".png", encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), (255, 0, 0)),
    "pages of tiff": (".tif", encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), (255, 0, 0)),
    "jpeg named png": (".png", encoded(FRAMES[2], "JPEG", quality=95), (0, 0, 254)),
    "corrupt exif": (".jpg", photo("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xab" * 60), None),
    "exif of nothing": (".jpg", photo("JPEG", exif=b"Exif\0\0"), None),
    "orientation 99": (
        ".jpg",
        photo("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0"),
        None,
    ),
    "one pixel": (".png", encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), (9, 8, 7)),
    "one pixel high": (".png", encoded(Image.new("RGB", (5000, 1), (9, 8, 7)), "PNG"), (9, 8, 7)),
    "large": (".png", encoded(Image.new("RGB", (6000, 4000), (9, 8, 7)), "PNG"), (9, 8, 7)),
    "progressive": (".jpg", photo("JPEG", progressive=True), None),
    "broken colour profile": (".jpg", photo("JPEG", icc_profile=b"\xff" * 500), None),
    "bytes after the end": (".jpg", photo("JPEG") + b"more" * 99, None),
    "upper case": (".JPG", photo("JPEG"), None),
}
BROKEN: dict[str, tuple[str, bytes]] = {
    "empty": (".jpg", b""),
    "zeros": (".jpg", bytes(4000)),
    "a page of html": (".jpg", b"<html>404 Not Found</html>"),
    "text": (".png", b"not an image"),
    "postscript": (".jpg", encoded(Image.new("RGB", (9, 9)), "EPS")),
    "pdf": (".jpg", photo("PDF")),
    "svg": (".png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "gzip": (".jpg", b"\x1f\x8b\x08" + bytes(99)),
    "zip": (".jpg", b"PK\x03\x04" + bytes(99)),
    "jpeg 2000": (".jpg", photo("JPEG2000")),
    "icon": (".png", photo("ICO")),
    "floating point": (".tif", encoded(Image.new("F", (9, 9)), "TIFF")),
    "32 bit grey": (".tif", encoded(Image.fromarray(np.full((9, 9), 10**6, np.int32)), "TIFF")),
    "wrong checksum": (".png", photo("PNG")[:-20] + b"\0\0\0\0" + photo("PNG")[-16:]),
    "no pixels": (".png", png(5, 5, b"")),
    "too few pixels": (".png", png(5, 5, bytes(17))),
    "header of jpeg": (".jpg", photo("JPEG")[:300]),
}
CUTS = [
    (kind, suffix, share)
    for kind, suffix in (
        ("JPEG", ".jpg"),
        ("PNG", ".png"),
        ("GIF", ".gif"),
        ("BMP", ".bmp"),
        ("TIFF", ".tif"),
        ("WEBP", ".webp"),
        ("PPM", ".ppm"),
    )
    for share in (0.01, 0.1, 0.3, 0.6, 0.95)
]


UPTO = "preprocess"  # the last stage that these tests need


def refused(project: Path, capsys: pytest.CaptureFixture[str]) -> str:
    return tiny.refused(tiny.STAGES["preprocess"], capsys, project)


@pytest.mark.parametrize("name", SOUND)
def test_sound(project: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    suffix, content, colour = SOUND[name]
    put(project, suffix, content)
    assert command.guard(tiny.STAGES["preprocess"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert all("image/s]" in line for line in lines if line.strip()), lines
    packed = store.open_store(project / "data/processed/tiny")
    assert len(packed.images) == 20
    if colour:
        np.testing.assert_allclose(packed.images[0, 16, 16], colour, atol=3)


@pytest.mark.parametrize("name", BROKEN)
def test_broken(project: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = put(project, *BROKEN[name])
    line = refused(project, capsys)
    assert f"{path.name}: not readable as an image: " in line
    assert line.endswith("; replace it")


@pytest.mark.parametrize(("kind", "suffix", "share"), CUTS)
def test_truncated(project: Path, capsys: pytest.CaptureFixture[str], kind: str, suffix: str, share: float) -> None:
    data = photo(kind)
    path = put(project, suffix, data[: int(len(data) * share)])
    assert f"{path.name}: not readable as an image: " in refused(project, capsys)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def socket_file(path: Path) -> None:
    # The path of a socket is short: bind in its folder.
    with socket.socket(socket.AF_UNIX) as server:
        old = os.getcwd()
        os.chdir(path.parent)
        server.bind(path.name)
        os.chdir(old)


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "folder": (lambda path: path.mkdir(), r"found '0\.png', expected images"),
    "pipe": (fifo, r"1 of 20 images are missing, the first is train/ant/0\.png"),
    "device": (device, r"0\.png"),
    "socket": (socket_file, r"1 of 20 images are missing, the first is train/ant/0\.png"),
    "dangling link": (lambda path: path.symlink_to("gone.png"), r"1 of 20 images are missing"),
    "link to itself": (lambda path: path.symlink_to("0.png"), r"0\.png"),
    "link outside": (
        lambda path: path.symlink_to("/etc/hostname"),
        r"a symbolic link to .*, expected it to stay inside",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_no_file(project: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    put_there, message = ODD[name]
    (project / tiny.RAW / f"{PLACE}.png").unlink()
    put_there(project / tiny.RAW / f"{PLACE}.png")
    found: list[str] = []
    # A pipe that is opened would wait for ever: the line must be there in time.
    thread = threading.Thread(target=lambda: found.append(refused(project, capsys)), daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert found, "no answer"
    assert re.search(message, found[0]), found[0]


def failure(path: Path) -> str | None:
    """Return what is said of a file that is refused, None if it is an image."""
    try:
        decoding.decode(path)
    except ValueError as error:
        return str(error)
    return None


def test_damaged_anywhere(project: Path) -> None:
    """Bytes changed at random: a ValueError of one line that names the file, or an image; nothing else."""
    generator, refusals = np.random.default_rng(1), 0
    path = project / "a.jpg"
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
        data = photo(kind)
        for _ in range(60):
            copy = bytearray(data)
            for _ in range(int(generator.integers(1, 5))):
                copy[generator.integers(min(len(copy), 400))] = generator.integers(256)
            path.write_bytes(copy)
            error = failure(path)
            refusals += error is not None
            assert error is None or re.fullmatch(rf"{re.escape(str(path))}: not readable as an image: .+", error)
    assert refusals > 100
