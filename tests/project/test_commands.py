"""Every command in the README, the documents and the comments of params.yaml is run.

A command must belong to a way of tests/support/ways.py, or this test names it. The tools run here in one small project,
the benchmarks in test_benchmarks.py, DVC and git in test_sessions.py.
"""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import checkout
import numpy as np
import pytest
import retrieval_project
import yaml
from dvc.cli import parse_args
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps, to_hydra_overrides
from PIL import Image
from small_sets import small_sets
from ways import COMMANDS, NAMES, REPLACED, of, way
from written_commands import Command

from lrec import export, params, paths
from lrec.io import files, hashing
from lrec.model import saved
from lrec.model.ensemble import Ensemble
from lrec.retrieve import Database


def test_every_command_has_its_way():
    lost = [f"{command.page}: {command.text}" for command in COMMANDS for w in command.parts() if way(w) is None]
    assert not lost, "these are run by no test; give them a way"
    assert len(COMMANDS) > 90
    assert {command.page for command in of("session", "override")} >= {"README.md", "params.yaml", "docs/training.md"}


def test_a_command_that_no_test_knows_is_noticed():
    for text in ("python -m stages.train glyphs resnet18", "lreq retrieve", "docker run lrec", "dvc repro && make it"):
        assert None in [way(words) for words in Command("a page", text).parts()]


# Tools


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in set packed, the photographs and cars of the pages, and networks that have learnt nothing."""
    folder = tmp_path_factory.mktemp("project") / "lrec"
    folder.mkdir()
    small_sets(root, folder)
    settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    settings["variants"]["glyphs"] = yaml.safe_load((root / "params.yaml").read_text())["variants"]["glyphs"]
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    Image.new("RGB", (40, 40), "red").save(folder / "photo.jpg")
    shutil.copytree(folder / "data/raw/photos/test", folder / "pictures")
    (folder / "data/reference").mkdir()
    for run, size in ((("glyphs", "resnet18"), 32), (("photos", "mobilenet_v2"), 32)):
        checkout.call(folder, "python", "-m", "stages.preprocess", run[0], PYTHONPATH=str(root))
        embed(folder, *run, size)
    return folder


def embed(folder: Path, variant: str, backbone: str, size: int) -> None:
    """Write a model and embeddings as the stages would, but drawn at random."""
    used = {"image_size": size, "crop": "none", "normalization": {"mean": [0.5] * 3, "std": [0.25] * 3}, "epochs": 1}
    ensemble = Ensemble(backbone, 2, 4).eval()
    saved.save(ensemble, folder / paths.model(variant, backbone), used | {"weights": "a.pth 0", "seed": 0})
    digest = hashing.of_file(folder / paths.model(variant, backbone) / saved.MODEL)
    out = folder / paths.embeddings(variant, backbone)
    out.mkdir(parents=True)
    files.write_json(folder / paths.embedding_facts(variant, backbone), retrieval_project.FACTS | {"weights": digest})
    rows = (folder / paths.store(variant) / "index.csv").read_text(encoding="utf-8").splitlines()[1:]
    for split in ("train", "test"):
        count = sum(f",{split}" in row for row in rows)
        drawn = np.random.default_rng(0).normal(size=(count, ensemble.width())).astype(np.float32)
        np.save(out / f"{split}.npy", drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def writes_graph(text: str) -> bool:
    """Tell whether a command exports a whole network as a graph, slowly; tests/test_export.py exports small ones."""
    return "--quantize" in text or "--format onnx" in text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, marks=pytest.mark.slow if writes_graph(text) else ())
        for text in dict.fromkeys(command.text for command in of("tool"))
    ],
)
def test_tools(project: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    if writes_graph(text):
        pytest.importorskip("onnxscript", reason="an optional dependency: pip install -r requirements-dev.txt")
    if "export-gallery" in text:
        pytest.importorskip("lancedb", reason="an optional dependency: pip install -r requirements-extra.txt")
    monkeypatch.chdir(project)
    monkeypatch.setenv("LREC_DATA", str(project / "data/raw"))
    (words,) = Command("", REPLACED.get(text, f"{text} --help" if text in NAMES else text)).parts()
    called = words if words[0] == "lrec" else words[2:]
    monkeypatch.setattr(sys, "argv", called)
    for module in (f"{called[0]}.__main__", "lrec.export"):  # another test may have imported it
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(called[0], run_name="__main__", alter_sys=True)
    found = capsys.readouterr()
    assert not ended.value.code, found.err
    assert found.out.strip()


def test_the_program_without_lrec(project: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path):
    """It finds in the exported files what search finds."""
    pytest.importorskip("onnxscript", reason="an optional dependency: pip install -r requirements-dev.txt")
    (program,) = re.findall(r"```python\n(.*?)```", (root / "docs/own-photos.md").read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(project)
    database = Database.load("photos/mobilenet_v2")
    database.save(tmp_path / "shipped")
    photo, exif = Image.linear_gradient("L").convert("RGB"), Image.Exif()
    exif[0x0112] = 6  # a phone that was held upright
    photo.save(tmp_path / "shipped/photo.jpg", exif=exif)
    rows = database.search(tmp_path / "shipped/photo.jpg", 3)[1][0]
    pixels = database.encoder.prepare(tmp_path / "shipped/photo.jpg")
    export.export("photos", "mobilenet_v2", "onnx", tmp_path / "onnx")
    shutil.copy(tmp_path / "onnx/model.onnx", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path / "shipped")
    capsys.readouterr()
    exec(program, ran := {})
    found = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert found == database.index["path"].iloc[rows].tolist()
    np.testing.assert_allclose(ran["pixels"].transpose(0, 2, 3, 1) * 255, pixels, atol=1e-3)
    files.write_json(Path("database.json"), json.loads(Path("database.json").read_bytes()) | {"weights": "f" * 64})
    with pytest.raises(AssertionError, match="another model"):
        exec(program, {})


# Tests


@pytest.mark.slow  # collects many tests, half a minute
def test_commands_of_pytest_find_tests(root: Path):
    """Collected together where they choose among the tests of their files in the same way."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for command in of("pytest"):
        words = next(words for words in command.parts() if words[0] == "pytest")[1:]
        places = [number for number, word in enumerate(words) if word in ("-k", "-m")]
        chosen = [word for number in places for word in words[number : number + 2]]
        rest = [word for number, word in enumerate(words) if {number, number - 1}.isdisjoint(places)]
        # All tests are many; these have some of each kind.
        few = [] if any("tests/" in word for word in rest) else ["tests/report/test_page.py", "tests/embedding"]
        found = [sorted(str(path.relative_to(root)) for path in root.glob(w)) if "tests/" in w else [w] for w in rest]
        assert all(found), f"{command}: no such files"
        groups.setdefault(tuple(chosen), []).extend([name for names in found for name in names] + few)
    program = """if True:
        import json, sys, pytest
        for words in json.loads(sys.argv[1]):
            status = pytest.main([*words, "--collect-only", "-q", "-n", "0", "-p", "no:cacheprovider"])
            assert status == 0, words
    """
    wanted = [[*chosen, *dict.fromkeys(others)] for chosen, others in groups.items()]
    call = [sys.executable, "-c", program, json.dumps(wanted)]
    # How much a listing says is the caller's, and this one is read.
    environment = {key: value for key, value in checkout.environment().items() if key != "PYTEST_ADDOPTS"}
    done = subprocess.run(call, cwd=root, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for name in {name for words in wanted for name in words if name.startswith("tests/")}:
        assert re.search(rf"^{name}.*: ?[:\d]", done.stdout, re.MULTILINE), f"{name}: no test is found"
    assert ("-m", "slow") in groups


# Overrides


def test_overrides_are_read_by_dvc_and_do_something(root: Path, tmp_path: Path):
    photos = re.search(r"```yaml\n(  photos:.*?)```", (root / "docs/own-photos.md").read_text("utf-8"), re.DOTALL)
    written = (root / "params.yaml").read_text(encoding="utf-8") + (photos[1] if photos else "")
    path = tmp_path / "params.yaml"
    path.write_text(written, encoding="utf-8")
    before = params.load(path)
    for command in [command for command in COMMANDS if command.overrides()]:
        some = Command(command.page, REPLACED.get(command.text, command.text)).overrides()
        for values in to_hydra_overrides(some) and get_hydra_sweeps({str(path): some}) or []:
            path.write_text(written, encoding="utf-8")
            apply_overrides(path, values[str(path)])
            after = params.load(path)
            assert after != before, command
            recipes = [[settings.train_of(variant) for variant in after.datasets] for settings in (before, after)]
            if not command.text.startswith("-S") and any(override.startswith("train.") for override in some):
                assert recipes[0] != recipes[1], f"{command} changes no training of {after.datasets}"


def test_options_of_dvc_are_its_own():
    for command in of("session"):
        for words in command.parts():
            if words[0] == "dvc" and " ".join(words) not in NAMES:
                parse_args(words[1:])
    for name in NAMES:
        if name.startswith("dvc"):
            with pytest.raises(SystemExit, match="^0$"):
                parse_args([*name.split()[1:], "--help"])
