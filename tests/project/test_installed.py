"""The installed package, away from the repository: what is in it, the command, the programs of docs/retrieval.md."""

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

import checkout
import pytest
from PIL import Image
from retrieval_project import make

from lrec import paths
from lrec.__main__ import COMMANDS
from lrec.retrieve import Database


def call(*command: str | Path, folder: Path) -> subprocess.CompletedProcess:
    """Run a command in a folder, as on a machine that knows nothing of the repository."""
    environment = {k: v for k, v in checkout.environment().items() if not k.startswith(("PYTHON", "LREC", "COV"))}
    return subprocess.run(list(map(str, command)), cwd=folder, text=True, capture_output=True, env=environment)


def pip(*arguments: str | Path, folder: Path) -> None:
    """Run pip without a network: the packages that the library needs are those of the tests."""
    own = ["--disable-pip-version-check", "--quiet", "--no-index", "--no-deps"]
    done = call(sys.executable, "-m", "pip", *arguments, *own, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def away(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel, made from a git address."""
    folder = tmp_path_factory.mktemp("away")
    checkout.clone(root, folder / "clone")
    checkout.commit(folder / "clone", "As it is")
    pip("wheel", "--no-build-isolation", "-w", folder, f"git+file://{folder}/clone", folder=folder)
    shutil.rmtree(folder / "clone")
    return folder


@pytest.fixture(scope="module")
def python(away: Path) -> Path:
    """Python of a fresh environment in which the wheel is installed."""
    made = away / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True)
    (wheel,) = away.glob("*.whl")
    pip("--python", made / "bin/python", "install", wheel, folder=away)
    (site,) = made.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return made / "bin/python"


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    make(root, folder)
    return folder


@pytest.fixture
def elsewhere(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What is handed on: a model, a database with its model, two photographs."""
    monkeypatch.chdir(project)
    shutil.copytree(paths.model("tiny", "resnet18"), tmp_path / "mine")
    Database.load("tiny/resnet18").save(tmp_path / "saved", with_model=True)
    for name, row in (("photo", 20), ("other", 21)):
        Image.open(f"raw/pictures/{row}.png").save(tmp_path / f"{name}.jpg", format="PNG")
    project.rename(project.with_name("gone"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    project.with_name("gone").rename(project)


def test_the_package_holds_the_library_alone(away: Path, root: Path):
    (wheel,) = away.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        found = {name for name in opened.namelist() if ".dist-info/" not in name}
        (name,) = [name for name in opened.namelist() if name.endswith("/METADATA")]
        facts = HeaderParser().parsestr(opened.read(name).decode())
    listed = checkout.call(root, "git", "ls-files", "--cached", "--others", "--exclude-standard", "lrec").splitlines()
    assert found == {name for name in listed if (root / name).is_file()}
    required = {re.split(r"[<>=; ]", line)[0] for line in facts.get_all("Requires-Dist") if "extra ==" not in line}
    optional = {re.split(r"[<>=; ]", line)[0] for line in facts.get_all("Requires-Dist") if "extra ==" in line}
    for names, file in ((required, "requirements.txt"), (optional, "requirements-extra.txt")):
        lines = (root / file).read_text().splitlines()
        assert names == {re.split(r"[<>=]", line)[0] for line in lines if line and not line.startswith("#")}


def test_the_command(python: Path, elsewhere: Path):
    command = python.with_name("lrec")
    shown = call(command, "--help", folder=elsewhere).stdout
    assert all(f"\n  {name}" in shown for name in COMMANDS)
    for name in ("check", "serve"):
        assert f"usage: lrec {name} " in call(command, name, "--help", folder=elsewhere).stdout
    done = call(command, "retrieve", "--database", "saved", "--query", "photo.jpg", "--num", "2", folder=elsewhere)
    assert "     1        1.0000  U+0416 Ж  -        20.png" in done.stdout, done.stdout + done.stderr
    done = call(command, "check", "glyphs", folder=elsewhere)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"error: params.yaml: not found in {elsewhere}" in done.stderr
    done = call(command, "export", "glyphs/resnet18", folder=elsewhere)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert call(command, "train", folder=elsewhere).returncode == 2


@pytest.mark.slow  # other tests run them from the checkout
def test_the_programs_of_the_page(python: Path, elsewhere: Path, root: Path):
    text = (root / "docs/retrieval.md").read_text(encoding="utf-8").partition("## In other programs")[2]
    encoder, database = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert all(len([line for line in program.splitlines() if line]) <= 5 for program in (encoder, database))
    done = call(python, "-W", "error", "-c", encoder, folder=elsewhere)
    assert re.fullmatch(r"cosine similarity: -?0\.\d+\n", done.stdout), done.stdout + done.stderr
    done = call(python, "-W", "error", "-c", database, folder=elsewhere)
    assert re.search(r"20\.png +U\+0416 +(1\.0|0\.99999)", done.stdout), done.stdout + done.stderr
    shutil.rmtree(elsewhere / "saved/model")
    done = call(python, "-c", database, folder=elsewhere)
    assert f"{elsewhere}/saved/model/model.safetensors: not found, the model that embeds images" in done.stderr
