"""Every command in the README, the documents and the comments of params.yaml is run.

A command must belong to one of the ways below, or this test names it. The tools run here in one small project, the
benchmarks in test_benchmarks.py, DVC and git, page by page, in clones (slow; a part of them also in
tests/pipeline/test_pipeline.py). Only sizes, folders and names that differ from run to run are replaced.
"""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import checkout
import numpy as np
import pytest
import retrieval_project
import torch
import yaml
from dvc.cli import parse_args
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps, to_hydra_overrides
from PIL import Image
from synthetic_sets import save_mat
from torchvision import models
from written_commands import Command, everywhere

from lrec import export, params, paths
from lrec.compute import device
from lrec.io import files, hashing
from lrec.model import saved
from lrec.model.ensemble import Ensemble
from lrec.retrieve import Database

NOT_RUN = {
    "python3 -m venv": "needs a network; .ci/run makes an environment in the same way",
    ". .venv/bin/activate": "the same",
    "pip install": "needs a network",
    "npm pack": "needs a network",
    "cosmic-ray": "an hour and a half, with a package that no test needs",
    "cr-": "the same",
    "python -c while True": "keeps a core busy without end",
}
# What the shell itself, or a filter behind a pipe, does.
SHELL = "cat cd cut grep ls mkdir sed sort tar uniq unzip".split()
# Without what it needs, a command is a name in a sentence: it shows its help.
NAMES = ["dvc", "dvc metrics", "dvc plots", "dvc get", "dvc exp apply", "lrec", "python -m lrec.export"]
REPLACED = {
    "python -m lrec.export --kind": "python -m lrec.export glyphs/resnet18 --kind logits --format torchscript",
    "-S embed.kind=softmax": "-S embed.kind=features",  # an entry that the page adds
    "-S train.loss=poly1": "-S train.loss=proxy_anchor",  # the same
    "-S machine.processes=gpu": "-S machine.processes=2",
    "-S embed.dimensions=128": "-S embed.dimensions=8",  # of the few images of small sets
    "-S embed.dimensions=512": "-S embed.dimensions=8",
    "--nproc_per_node 4": "--nproc_per_node 2",
    "--nnodes 2 --nproc_per_node 8": "--nnodes 1 --nproc_per_node 2",
    "first.machine:29500": "localhost:0",
    "python -m lrec.export car_cropped/mobilenet_v2 --format average": "python -m lrec.export photos/mobilenet_v2 "
    "--format average",  # a model that is there
    "exported/car_cropped/mobilenet_v2/average/average.safetensors": "mobilenet_v2-49c8b62c.pth",
}
COMMANDS = list(dict.fromkeys(everywhere()))


def way(words: list[str]) -> str | None:
    """Say how the words of a command are run; None if nothing here runs them."""
    text = " ".join(words)
    if any(text.startswith(beginning) for beginning in NOT_RUN):
        return "not run"
    if words[0] == "-S":
        return "override"
    if words[0] in ("dvc", "git", "torchrun", *SHELL) or words[:3] in (["python", "-m", "stages.report"],):
        return "session"
    if words[:2] == ["python", "-c"]:
        return "session"
    if words[0] == "pytest":
        return "pytest"
    if "--serve" in words or words[:2] == ["lrec", "serve"]:
        return "server"  # tests/retrieve/test_serve.py starts it
    if words[0] == "lrec":
        return "tool"
    if words[:2] == ["python", "-m"]:
        return {"benchmarks": "benchmark", "lrec": "tool"}.get(words[2].partition(".")[0])
    return None


def of(*ways: str) -> list[Command]:
    return [command for command in COMMANDS if {way(words) for words in command.parts()} & set(ways)]


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


@pytest.mark.parametrize("text", dict.fromkeys(command.text for command in of("tool")))
def test_tools(project: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    if "--format onnx" in text or "--quantize" in text:
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
    rows = database.search("photo.jpg", 3)[1][0]
    database.save(tmp_path / "shipped")
    export.export("photos", "mobilenet_v2", "onnx", tmp_path / "onnx")
    shutil.copy("photo.jpg", tmp_path / "shipped")
    shutil.copy(tmp_path / "onnx/model.onnx", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path / "shipped")
    capsys.readouterr()
    exec(program.replace("(128, 128)", "(32, 32)"), {})
    found = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert found == database.index["path"].iloc[rows].tolist()


# Tests


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


# Sessions with DVC and git


def small_sets(root: Path, folder: Path) -> None:
    """Write params.yaml with the pages' variants, each cut down to seconds, and their raw data."""
    settings = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    photos = re.search(r"```yaml\n(  photos:.*?)```", (root / "docs/own-photos.md").read_text("utf-8"), re.DOTALL)
    settings["variants"] |= yaml.safe_load(photos[1])
    settings["variants"]["glyphs"] |= {"layout": "folder", "folder": "letters"}
    settings |= {"allow_partial": True}
    settings["train"]["weights"] = "none"
    settings["embed"]["dimensions"] = 4  # where a command names no number; small sets have too few images for 512
    small = {"ensemble_size": 2, "image_size": 32, "epochs": 1, "recall_at": [1, 2, 4, 8]}
    for name, size in (("glyphs", 9), ("photos", 2), ("car_cropped", 2)):
        settings["variants"][name] |= small | {"meta_class_size": size}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    generator = np.random.default_rng(0)

    def picture(path: Path, colour: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = generator.integers(-60, 60, (40, 40, 3))
        Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(path)

    for name, train, test in (("letters", 14, 4), ("photos", 3, 2)):
        for number in range(train + test):
            colour = generator.integers(0, 256, 3)
            for image in range(4):
                picture(
                    folder / f"data/raw/{name}/{'test' if number >= train else 'train'}/{number}/{image}.png", colour
                )
    rows = [(f"car_ims/{c}_{image}.jpg", 3, 3, 30, 30, c) for c in (1, 2, 3, 99, 100) for image in range(8)]
    for name, *_, class_id in rows:
        picture(folder / "data/raw/car" / name, np.full(3, 2 * class_id))
    names = [f"car {number}" for number in range(1, 197)]
    save_mat(folder / "data/raw/car/cars_annos.mat", rows, names=names)


@pytest.fixture(scope="module")
def ran(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with small sets and what the pages take from elsewhere, after `dvc repro`."""
    folder = tmp_path_factory.mktemp("ran") / "lrec"
    checkout.clone(root, folder)
    small_sets(root, folder)
    weights = models.mobilenet_v2(weights=None).state_dict()
    torch.save(weights, folder / "mobilenet_v2-49c8b62c.pth")
    for name, command in (("CUB_200_2011.tgz", "gztar"), ("Stanford_Online_Products.zip", "zip")):
        shutil.make_archive(str(folder / name.partition(".")[0]), command, folder / "data/raw", "photos")
        shutil.move(folder / name.replace(".tgz", ".tar.gz"), folder / name)
    for name in ("*.pth", "CUB_200_2011.tgz", "Stanford_Online_Products.zip"):
        with (folder / ".git/info/exclude").open("a") as ignored:
            ignored.write(f"{name}\n")
    checkout.commit(folder, "Small sets")
    checkout.call(folder, "dvc", "repro", LREC_DATA=str(folder / "data/raw"))
    checkout.commit(folder, "Their results")
    return folder


SESSIONS = list(dict.fromkeys(command.page for command in of("session")))


@pytest.mark.slow
@pytest.mark.parametrize("page", SESSIONS)
def test_sessions(root: Path, ran: Path, tmp_path: Path, page: str):
    folder = tmp_path / "lrec"
    shutil.copytree(ran, folder, symlinks=True)
    if page == "docs/training.md":  # as it says: set datasets and backbones, make what training needs
        settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        settings |= {"datasets": ["car_cropped"], "backbones": ["resnet50"]}
        (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    vega = tmp_path / "vega/page.html"
    vega.parent.mkdir()
    vega.write_text("<!doctype html>\n{plot_divs}\n")
    replaced = REPLACED | {"/opt/vega": str(vega.parent), "/tmp/": f"{tmp_path}/"}
    if device.choose("auto") != "cpu":
        del replaced["-S machine.processes=gpu"]
    where, queued = folder, ""
    for command in [command for command in of("session") if command.page == page]:
        text = f"{command.text} --help" if command.text in NAMES else command.text
        if any(way(words) == "not run" for words in command.parts()):
            text = " && ".join(shlex.join(words) for words in command.parts() if way(words) == "session")
        for shown, own in replaced.items():
            text = f"{text} ".replace(shown, own).strip()
        text = text.replace("dizzy-gust", queued)
        script = f'set -eo pipefail; cd "{where}"; {text}\npwd > "{tmp_path}/where"'
        variables = {"PYTHONPATH": str(root), "LREC_DATA": str(folder / "data/raw")}
        out = checkout.call(folder, "bash", "-c", script, **variables)
        queued = (re.findall(r"Queued experiment '(.+?)'", out) or [queued])[-1]
        where = Path((tmp_path / "where").read_text().strip())
    assert where
