"""What the pages name is there: links, files, modules, parameters, and CI's command."""

import importlib
import re
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from pages import PAGES

from lrec import params

LONGEST_README = 260  # lines


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest, root: Path) -> tuple[Path, str]:
    path = root / request.param
    return path, path.read_text(encoding="utf-8")


def test_links_lead_somewhere(page: tuple[Path, str]):
    path, text = page
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            linked = path.parent / file if file else path
            assert linked.exists(), f"{path.name}: {target}"
            if anchor:
                titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_modules_that_are_run_exist(page: tuple[Path, str], root: Path):
    for name in re.findall(r"python -m ((?:lrec|stages|benchmarks)[\w.]*)", page[1]):
        place = root / name.strip(".").replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), name


def test_files_that_are_named_exist(page: tuple[Path, str], root: Path):
    folders = "lrec|stages|tests|benchmarks|docs|metrics"
    for name in re.findall(rf"(?<![\w/.<])((?:{folders})/[\w./*-]*[\w*])(?![\w<])", page[1]):
        assert list(root.glob(name)), f"{page[0].name}: {name}"


def test_what_is_named_in_the_library_is_there(page: tuple[Path, str]):
    for name in re.findall(r"(?<![\w/.])(lrec\.[\w.]*\w)", page[1]):
        parts, value = name.split(".")[1:], importlib.import_module("lrec")
        for number, part in enumerate(parts, start=1):
            if not hasattr(value, part):
                assert importlib.util.find_spec(".".join(["lrec", *parts[:number]])), f"{page[0].name}: {name}"
                importlib.import_module(".".join(["lrec", *parts[:number]]))
            value = getattr(value, part)


def settings(root: Path) -> dict:
    return yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))


def exists(key: str, value: object) -> bool:
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def test_parameters_that_are_set_exist(page: tuple[Path, str], root: Path):
    for key in re.findall(r"-S '?([a-z][\w.]*)=", page[1]):
        assert exists(key, settings(root)), f"{page[0].name}: {key}"


def test_parameters_that_are_named_exist(page: tuple[Path, str], root: Path):
    sections = "preprocess|meta_classes|train|embed|evaluate|machine"
    for key in re.findall(rf"`((?:{sections})\.[a-z_]+)(?![\w(/])", page[1]):
        assert exists(key, settings(root)), f"{page[0].name}: {key}"


def test_the_readme_is_read_to_its_end(root: Path):
    lines = len((root / "README.md").read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_README


def test_ci_runs_the_readmes_command(root: Path):
    readme = (root / "README.md").read_text(encoding="utf-8")
    first, second = re.findall(r"^(?:python3 -m venv|pip install -r requirements-dev).*$", readme, re.MULTILINE)[:2]
    assert first.split("  ")[0].endswith("&& pip install -r requirements.txt && dvc repro")
    assert second.split("  ")[0] == "pip install -r requirements-dev.txt && pytest"
    assert "'^pip install -r requirements-dev.txt && pytest' README.md" in (root / ".ci/run").read_text()


@pytest.mark.parametrize("value", ["/a/{backbone}.pth", "/a/resnet18 (1).pth", "~/resnet18.pth"])
def test_a_path_in_quotes_is_an_override(root: Path, tmp_path: Path, value: str):
    """As the README gives it."""
    (shown,) = re.findall(r"-S '(train\.weights=[^`]*)'`", (root / "README.md").read_text(encoding="utf-8"))
    shutil.copy(root / "params.yaml", tmp_path)
    apply_overrides(tmp_path / "params.yaml", [shown.replace("/a/{backbone}.pth", value)])
    assert params.load(tmp_path / "params.yaml").train.weights == value
