"""What the README and docs/ name is there: links, modules, parameters, and the command that CI runs."""

import re
from pathlib import Path

import pytest
import yaml

PAGES = ["README.md", *(f"docs/{path.name}" for path in (Path(__file__).parents[2] / "docs").glob("*.md"))]


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


def test_parameters_that_are_set_exist(page: tuple[Path, str], root: Path):
    settings = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    for key in re.findall(r"-S '?([a-z][\w.]*)=", page[1]):
        value = settings
        for part in key.split("."):
            assert part in value, f"{page[0].name}: {key}"
            value = value[part]


def test_ci_runs_the_readmes_command(root: Path):
    readme = (root / "README.md").read_text(encoding="utf-8")
    first, second = re.findall(r"^(?:python3 -m venv|pip install -r requirements-dev).*$", readme, re.MULTILINE)[:2]
    assert first.split("  ")[0].endswith("&& pip install -r requirements.txt && dvc repro")
    assert second.split("  ")[0] == "pip install -r requirements-dev.txt && pytest"
    assert "'^pip install -r requirements-dev.txt && pytest' README.md" in (root / ".ci/run").read_text()
