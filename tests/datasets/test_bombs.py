"""Image files that claim or unfold to far more than they are: refused in one line, within bounded memory."""

import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import tiny_pipeline as tiny
from image_files import PLACE, chunk, png

UPTO = "preprocess"  # the last stage that these tests need

BOMBS: dict[str, tuple[str, bytes]] = {
    "claims 60000 x 60000": (".png", png(60000, 60000, b"")),
    "claims 9000 x 9000": (".png", png(9000, 9000, b"")),
    "claims 2^31 wide": (".png", png(2**31 - 1, 1, b"")),
    "claims to be empty": (".png", png(0, 0, b"")),
    "unfolds to 300 MB": (".png", png(10000, 10000, bytes(300_010_000))),
    "text of 300 MB": (".png", png(2, 2, bytes(14), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(300_000_000))))),
    "profile of 300 MB": (".png", png(2, 2, bytes(14), chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(300_000_000))))),
    "gif of 65535 x 65535": (
        ".gif",
        b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + bytes(3)
        + b","
        + bytes(4)
        + struct.pack("<HH", 65535, 65535)
        + b"\0\x02\x02L\x01\0;",
    ),
    "bmp of 2^30 lines": (
        ".bmp",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, 2**15, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
    ),
    "ppm of 10^9 x 10^9": (".ppm", b"P6 1000000000 1000000000 255\n"),
    "tiff of 2^31 x 2^31": (
        ".tif",
        b"II*\0\x08\0\0\0\x03\0"
        + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, 2**31), (257, 2**31), (259, 1)))
        + bytes(4),
    ),
    "webp of 16383 x 16383": (".webp", b"RIFF\x1a\0\0\0WEBPVP8L\r\0\0\0\x2f\xfe\xff\xff\x0f" + bytes(8)),
}
# A process that may not have more than 1.5 GB beyond what it has loaded; it answers in JSON, a bomb each.
LIMITED = """
import contextlib, io, json, pathlib, resource, sys
from lrec.io import command
from stages import preprocess
own = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (own + 3 * 2**29,) * 2)
answers = {}
for bomb in sorted(pathlib.Path("bombs").iterdir()):
    place = pathlib.Path(sys.argv[1] + bomb.suffix)
    bomb.rename(place)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        answers[bomb.stem] = [command.guard(lambda: preprocess.main("tiny"))]
    answers[bomb.stem].append(said.getvalue())
    place.unlink()
with open("answers.json", "w") as stream:
    json.dump(answers, stream)
"""


@pytest.fixture(scope="module")
def answers(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """What the stage said of every bomb: status and standard error; nothing else was written."""
    folder = tiny.linked(made, tmp_path_factory.mktemp("bombs") / "project")
    (folder / tiny.RAW / f"{PLACE}.png").unlink()
    before = tiny.state(folder)
    (folder / "bombs").mkdir()
    for number, (suffix, content) in enumerate(BOMBS.values()):
        (folder / f"bombs/{number}{suffix}").write_bytes(content)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    call = [sys.executable, "-c", LIMITED, str(tiny.RAW / PLACE)]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((folder / "answers.json").read_text())
    assert tiny.state(folder).keys() - before.keys() == {"answers.json"}
    assert before.items() <= tiny.state(folder).items()
    return {name: found[str(number)] for number, name in enumerate(BOMBS)}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(answers: dict[str, tuple[int, str]], name: str) -> None:
    status, said = answers[name]
    assert status == 1
    lines = [line for line in said.splitlines() if line.strip() and "image/s]" not in line]
    assert len(lines) == 1, said
    assert re.match(r"error: .*/0\.\w+: not readable as an image: .*; replace it$", lines[0]), said
