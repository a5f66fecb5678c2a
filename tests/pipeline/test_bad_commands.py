"""Command lines of the tools and the stages, and what they read, wrong in every way."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline as tiny
from damage import Damage, array, cut, key, other, rows, swap
from PIL import Image

from lrec import export
from lrec.datasets import __main__ as datasets
from lrec.embedding.codes import NAMES
from lrec.retrieve import Database
from lrec.retrieve import __main__ as retrieve
from stages import embed, evaluate, meta_classes, preprocess, train

REPOSITORY = Path(__file__).parents[2]
NAME = "tiny/mobilenet_v2"
ESCAPES = "\x1b]0;owned\x07\x1b[31m"
# Arguments, what the line says.
RETRIEVE: list[tuple[list[str], str]] = [
    (["--query", ""], "query: found an empty one"),
    (["--query", " "], "query: found an empty one"),
    (["--query", "nowhere.jpg"], "nowhere.jpg: query not found, expected a path of the data set's index"),
    (["--query", f"{ESCAPES}.jpg"], r"\x1b]0;owned\x07\x1b[31m.jpg: query not found"),
    (["--query", "a\u202eb.jpg"], r"a\u202eb.jpg: query not found"),
    (["--query", "row:"], "row:: query not found, expected row:N with N from 0 to 19"),
    (["--query", "row:-1"], "row:-1: query not found"),
    (["--query", "row:20"], "row:20: query not found"),
    (["--query", "row:1.5"], "row:1.5: query not found"),
    (["--query", "row:²"], "row:²: query not found"),
    (["--query", "row:" + "9" * 40], "query not found"),
    (["--query", "row:0", "row:99"], "row:99: query not found"),
    (["--query", "x" * 5000], "query not found|File name too long"),
    (["--query", "raw/tiny/[", "row:0"], "raw/tiny/[: query not found"),
    (["--query", "/dev/null"], "/dev/null: query not found"),
    (["--query", "params.yaml"], "params.yaml: not readable as an image"),
    (["--query", "data"], "data: found no image in this folder"),
    (["--num", "0"], "number of results: found 0, expected 1 to 7"),
    (["--num", "-3"], "number of results: found -3"),
    (["--num", "9" * 30], "number of results: found 9999"),
    (["--split", "valid"], "split: found 'valid', expected one of train, test for tiny"),
    (["--split", "../test"], "split: found '../test'"),
    (["--database", ""], "found no such database"),
    (["--database", "tiny"], "tiny: found no such database, expected one of tiny/mobilenet_v2"),
    (["--database", "tiny/resnet18"], "tiny/resnet18: found no such database"),
    (["--database", "../tiny"], "'..': not a name of a variant or backbone"),
    (["--database", "/etc/passwd"], "/etc/passwd: found no such database"),
    (["--database", "embeddings"], "embeddings: found no such database"),
    (["--database", "tiny/.."], "not a name of a variant or backbone"),
    (["--database", f"{ESCAPES}/x"], r"\x1b]0;owned\x07\x1b[31m': not a name of a variant"),
    (["--device", "meta"], "device: found 'meta'"),
    (["--device", "tpu"], "device: found 'tpu'"),
    (["--device", ""], "device: found ''"),
    (["--device", "cuda:99999999999"], "device: found 'cuda:99999999999'"),
    (["--num", "2", "--output", "params.yaml/x.png"], "params.yaml"),
    (["--num", "2", "--output", "x" * 300 + ".png"], "File name too long"),
    (["--num", "2", "--index", "ivfpq"], "(expected at least 256|faiss: not installed)"),
]
EXPORT: list[tuple[list[str], str]] = [
    (["tiny"], "tiny: not a run, expected <variant>/<backbone>"),
    ([""], "not a run"),
    (["a/b/c"], "a/b/c: not a run"),
    (["../models"], "'..': not a name of a variant or backbone"),
    (["tiny/.."], "'..': not a name of a variant or backbone"),
    (["tiny/a b"], "'a b': not a name of a variant or backbone"),
    (["tiny/\n"], r"'\n': not a name of a variant or backbone"),
    ([f"tiny/{ESCAPES}"], "not a name of a variant or backbone"),
    (["tiny/resnet18"], "models/tiny/resnet18: not found"),
    ([NAME, "--format", "exported", "--output", "params.yaml/x"], "params.yaml"),
]
CHECK: list[tuple[list[str], str]] = [
    (
        ["check", "nope"],
        "unknown variant 'nope', expected one of tiny; correct the name (here or in `datasets`), or add",
    ),
    (["check", ""], "unknown variant ''"),
    (["check", "../tiny"], "unknown variant '../tiny'"),
    (["check", f"{ESCAPES}"], r"unknown variant '\x1b]0;owned\x07\x1b[31m'"),
]
TOOLS = {"retrieve": (retrieve.main, RETRIEVE), "export": (export.main, EXPORT), "datasets": (datasets.main, CHECK)}
CALLS = [(tool, *case) for tool, (_, cases) in TOOLS.items() for case in cases]
HOSTILE_NAMES = ["..", "../other", "/tmp/other", "a/b", "a\\b", "x\n", "a\0b", "", ".", "-x", ESCAPES, "x" * 300]
# A saved database: file, what is done to it, what the line says.
SAVED: list[tuple[str, Damage, str]] = [
    ("database.json", cut(0.5), "database.json: not JSON"),
    ("database.json", other(b"[]"), "database.json: top level: found []"),
    ("database.json", key("resize"), "resize where there is a model"),
    ("database.json", key("resize", "stretch"), "resize: found 'stretch', expected 'squash' or 'crop'"),
    ("database.json", key("kind", None), "kind: found None"),
    ("database.json", key("store", 7), "store: found 7"),
    ("index.csv", cut(0), "index.csv: columns none, expected path, class, row"),
    ("index.csv", rows(lambda lines: lines[:-1]), "found 8 embeddings, expected 7"),
    ("index.csv", swap(",12\n", ",twelve\n"), "'twelve' as row, expected a whole number"),
    ("index.csv", swap(",12\n", ",99\n"), "found row 99 in the index, expected -1 to 19"),
    ("index.csv", swap("path", "file"), "columns file, class, row"),
    ("embeddings.npy", cut(0.9), "embeddings.npy: not a .npy array"),
    ("embeddings.npy", array(lambda a: a.astype(np.float64)), "2 dimensions of float64"),
    ("embeddings.npy", array(lambda a: a * np.float32("nan")), "found a value that is not finite"),
    ("embeddings.npy", array(lambda a: a[:, :3].copy()), "makes 4 dimensions, expected 3 as in the database"),
    ("embeddings.npy", array(lambda a: a.astype(object)), "embeddings.npy: not a .npy array"),
]
# Databases of codes, of 4 dimensions.
CODED: list[tuple[str, str, Damage, str]] = [
    ("binary", "database.json", key("codes"), "embeddings.npy: 2 dimensions of uint8, expected 2 of float32"),
    ("binary", "database.json", key("codes", "int8"), "2 dimensions of uint8, expected 2 of int8"),
    ("binary", "database.json", key("codes", "int4"), "codes: found 'int4', expected 'int8' or 'binary'"),
    ("int8", "codes.npy", cut(0), "codes.npy: not a .npy array"),
    ("int8", "codes.npy", array(lambda a: a * np.float32("nan")), "codes.npy: row 0: found a value that is not finite"),
    ("int8", "codes.npy", array(lambda a: -a), "expected one factor above 0; save the database again"),
    ("int8", "codes.npy", array(lambda a: np.tile(a, 4)), "expected one factor above 0; save the database again"),
    ("int8", "codes.npy", array(lambda a: a[:0]), "codes.npy: "),
    ("int8", "codes.npy", array(lambda a: a.astype(np.float64)), "1 dimensions of float64, expected 1 of float32"),
    ("int8", "embeddings.npy", array(lambda a: a.view(np.uint8)), "2 dimensions of uint8, expected 2 of int8"),
    ("int8", "embeddings.npy", array(lambda a: a[:, :3].copy()), "makes 4 dimensions, expected 3 as in the database"),
    ("int8", "embeddings.npy", cut(0.9), "embeddings.npy: not a .npy array"),
    (
        "binary",
        "codes.npy",
        array(lambda a: np.tile(a, 3)),
        "found 12 means for codes of 1 bytes, expected one per dim",
    ),
    ("binary", "codes.npy", array(lambda a: a[:0]), "codes.npy: "),
    ("binary", "embeddings.npy", array(lambda a: a | 1), "row 0: found more bits than 4 dimensions have"),
    ("binary", "embeddings.npy", array(lambda a: np.tile(a, 2)), "found 4 means for codes of 2 bytes"),
]
DATABASES = [*(("saved", *case) for case in SAVED), *CODED]


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "made"
    folder.mkdir()
    tiny.make(root, folder, "embed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Database.load(NAME).save("saved")
        for codes in NAMES:
            Database.load(NAME).save(codes, codes=codes)
    Image.new("RGB", (40, 40), "red").save(folder / "photo.png")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tiny.linked(made, tmp_path / "project")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("LREC_DATA", raising=False)
    return folder


def call(tool: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    monkeypatch.setattr(sys, "argv", [tool, *arguments])
    return TOOLS[tool][0]


@pytest.mark.parametrize(("tool", "arguments", "message"), CALLS, ids=[f"{c[0]}-{' '.join(c[1])!a:.40}" for c in CALLS])
def test_tool(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tool: str,
    arguments: list[str],
    message: str,
) -> None:
    line = tiny.refused_by(call(tool, arguments, monkeypatch), capsys)
    assert any(part in line for part in message.strip("()").split("|")), line


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    "arguments", [["--nope"], ["--num", "many"], ["--format", "tflite", NAME], ["check"], ["--output", "data"]]
)
def test_usage(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tool: str,
    arguments: list[str],
) -> None:
    """What argparse refuses: its usage, one line, status 2."""
    if (tool, arguments) == ("export", ["check"]):
        arguments = []
    before = tiny.state(project)
    with pytest.raises(SystemExit) as ended:
        call(tool, arguments, monkeypatch)()
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("usage: ")
    assert ": error: " in lines[-1]
    assert tiny.state(project) == before


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_names_stay_names(project: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Variant and backbone become folders; neither may lead anywhere else."""
    outside = tiny.state(project.parent)
    works = [lambda main=main: main(name) for main in (preprocess.main, meta_classes.main)]
    works += [lambda main=main: main("tiny", name) for main in (train.main, embed.main, evaluate.main)]
    works += [lambda main=main: main(name, "mobilenet_v2") for main in (train.main, embed.main, evaluate.main)]
    for work in works:
        line = tiny.refused(work, capsys)
        assert "unknown variant" in line or "not a name of a variant or backbone" in line, line
    assert tiny.state(project.parent) == outside
    assert not (project.parent / "other").exists()


@pytest.mark.parametrize(
    ("folder", "name", "damage", "message"), DATABASES, ids=[f"{c[0]}-{c[1]}-{c[3]!a:.40}" for c in DATABASES]
)
def test_saved_database(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    name: str,
    damage: Damage,
    message: str,
) -> None:
    content = damage((project / folder / name).read_bytes())
    tiny.replace(project / folder / name, content)
    arguments = ["--database", folder, "--query", "photo.png", "--num", "8"]
    line = tiny.refused_by(call("retrieve", arguments, monkeypatch), capsys)
    assert message in line, line


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0" + bytes(99), b"GIF89a", b"<svg/>"])
def test_query_that_is_no_picture(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (project / "mine").mkdir()
    shutil.copy(project / "photo.png", project / "mine/a.png")
    (project / "mine/b.png").write_bytes(content)
    line = tiny.refused_by(call("retrieve", ["--query", "mine/a.png", "mine/b.png"], monkeypatch), capsys)
    assert "mine/b.png: not readable as an image" in line


def test_a_folder_is_not_decoded_at_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand photos of a camera are 36 GB of pixels."""
    from lrec.datasets import decoding
    from lrec.retrieve import query

    (project / "mine").mkdir()
    for number in range(5):
        shutil.copy(project / "photo.png", project / f"mine/{number}.png")
    decoded: list[Path] = []
    whole = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda path: decoded.append(path) or whole(path))
    found = query.Finder(Database.load(NAME)).find(["mine"])
    assert len(found) == 5
    assert decoded == []
    assert found[0].pixels().shape == (40, 40, 3)


PROCESSES: dict[str, tuple[list[str], str]] = {
    "preprocess": (["stages.preprocess", "tiny"], "not readable as an image"),
    "retrieve": (
        ["lrec.retrieve", "--query", f"{ESCAPES}.png"],
        r"error: \x1b]0;owned\x07\x1b[31m.png: query not found",
    ),
    "check": (["lrec.datasets", "check", "tiny"], "error: tiny: 1 problem(s), listed above"),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_process(project: Path, name: str) -> None:
    """As a person starts it."""
    arguments, message = PROCESSES[name]
    tiny.replace(project / tiny.RAW / "train/ant/0.png", b"not a picture")
    before = tiny.state(project)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, env=environment, timeout=120
    )
    lines = [line for line in done.stderr.splitlines() if line.strip() and "image/s]" not in line]
    assert done.returncode == 1
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert "\x1b" not in done.stderr
    assert tiny.state(project) == before


def test_results_as_json_survive_any_name(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(project / "photo.png", project / f"{ESCAPES}\u202e\n.png".replace("\n", ""))
    arguments = ["--json", "--query", f"{ESCAPES}\u202e.png"]
    assert call("retrieve", arguments, monkeypatch)() == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert json.loads(out)["queries"][0]["query"] == f"{ESCAPES}\u202e.png"
