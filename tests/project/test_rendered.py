"""The pages in a browser, at the width of GitHub's text column: nothing is cut off, every image is there."""

from pathlib import Path

import pytest
from browser import open_page, open_pages
from github import COLUMN, page
from pages import PAGES

WHOLE = "pre, table"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def opened(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What was found in each page."""
    texts = [page(root / name) for name in PAGES]
    return dict(zip(PAGES, open_pages(texts, tmp_path_factory.mktemp("pages"), COLUMN, WHOLE), strict=True))


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_off(name: str, opened: dict[str, dict]):
    assert opened[name]["room"] == COLUMN
    assert not opened[name]["found"], "\n".join(opened[name]["found"])


def test_what_is_too_wide_is_noticed(tmp_path: Path):
    (tmp_path / "wide.md").write_text(
        f"# Wide\n\n| a | b |\n|---|---|\n| {'x' * 60} | {'y' * 60} |\n\n```\n{'z ' * 60}\n```\n\n"
        f"| a | b |\n|---|---|\n| {'x ' * 60} | {'y ' * 60} |\n\n![gone](gone.png)\n"
    )
    found = open_page(page(tmp_path / "wide.md"), tmp_path, COLUMN, WHOLE)["found"]
    assert [text.split(":")[0] for text in found] == ["error", "missing image", "cut off", "cut off"]
