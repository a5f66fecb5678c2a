"""What one stage hands to the next, damaged: the reader says which file, what is wrong with it and what to do."""

import re
from pathlib import Path

import pytest
import tiny_pipeline as tiny
from artefact_cases import CASES, MISSING
from damage import Damage


def labels(case: tuple) -> str:
    return f"{case[0]}-{Path(case[1]).name}-{re.sub(r'[^A-Za-z0-9 ]', '', case[3])[:40]}"


@pytest.mark.parametrize(("stage", "name", "damage", "message"), CASES, ids=map(labels, CASES))
def test_damaged(
    project: Path, capsys: pytest.CaptureFixture[str], stage: str, name: str, damage: Damage, message: str
) -> None:
    path = project / name
    content = damage(path.read_bytes())
    assert content != path.read_bytes()
    tiny.replace(path, content)
    line = tiny.refused(tiny.STAGES[stage], capsys)
    assert re.search(message, line), line
    assert Path(name).parent.name in line or Path(name).name in line


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage, names in MISSING.items() for name in names])
@pytest.mark.parametrize("kind", ["absent", "folder", "dangling link"])
def test_missing(project: Path, capsys: pytest.CaptureFixture[str], stage: str, name: str, kind: str) -> None:
    path = project / name
    path.rename(path.with_name("elsewhere"))
    if kind == "folder" and name != "raw/tiny":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    line = tiny.refused(tiny.STAGES[stage], capsys)
    assert name in line or path.name in line
    assert ";" in line


def test_the_cases_can_fail(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every stage accepts the files as they are."""
    for stage, work in tiny.STAGES.items():
        with pytest.raises(AssertionError):
            tiny.refused(work, capsys)
        assert "Traceback" not in capsys.readouterr().err, stage
