"""Names of classes and files that would act where they are shown: in a page, a table, a terminal, a spreadsheet."""

import csv
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_pipeline as tiny
from PIL import Image
from synthetic_sets import write

from lrec import class_names, paths
from lrec.data import store
from lrec.io import command, files, reading, text
from lrec.report import benchmarks, ledger, readme, tables
from lrec.retrieve import __main__ as retrieve
from lrec.retrieve import contact_sheet

# Visible characters only: these a data set may have. Each is a class of its own.
VISIBLE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    '=HYPERLINK("http://example.org","x")',
    "\"' onload='alert(3)",
    "../../../up",
    "{{ 7 * 7 }}{% raw %}",
    "| a | pipe | <!-- end of benchmarks -->",
    "@SUM(1+1)*cmd|' /C calc'!A0",
]
# What an index.csv of someone else's making may hold.
HIDDEN = {
    "escape sequence": "\x1b]0;owned\x07\x1b[31mred\x1b[2J",
    "reading direction": "abc\u202egpj.exe\u2066",
    "line breaks": "a\nerror: b\r\nc\u2028d",
    "C1 controls": "a\x9b31mb\x85c",
    "backspaces": "safe\x08\x08\x08\x08evil\x7f",
}


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole pipeline on a table whose classes have visible hostile names."""
    folder = tmp_path_factory.mktemp("names") / "made"
    folder.mkdir()
    tiny.make(root, folder, "preprocess")
    shutil.rmtree(folder / tiny.RAW)
    generator, lines = np.random.default_rng(0), [["path", "class", "split"]]
    for place, name in enumerate(VISIBLE):
        split = "train" if place % 2 else "test"
        for number in range(4):
            path = f"a&b<i>'\"/{place}_{number}.png"
            (folder / tiny.RAW / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (36, 36, 3), dtype=np.uint8)).save(folder / tiny.RAW / path)
            lines.append([path, name, split])
    with (folder / tiny.RAW / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for work in tiny.STAGES.values():
            assert command.guard(work, debug=True) == 0
    return folder


class Page(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_has_no_tag_of_theirs(project: Path) -> None:
    page = Page(paths.REPORT.read_text(encoding="utf-8"))
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "embed")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    sources = {value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")}
    assert all(value.startswith(("data:", "#")) for value in sources if value)
    titles = {attributes.get("title") for _, attributes in page.tags}
    assert any(title and title.startswith("a&b<i>'\"/") for title in titles)
    assert "49" not in re.findall(r"<span>(.*?)</span>", paths.REPORT.read_text(encoding="utf-8"))


def test_the_readme_keeps_its_markers(project: Path) -> None:
    text = paths.README.read_text(encoding="utf-8")
    assert text.count(readme.BEGIN) == text.count(readme.END) == 1
    assert command.guard(tiny.STAGES["check"]) == 0


def test_nothing_is_written_elsewhere(project: Path) -> None:
    assert not list(project.parent.rglob("*up*"))
    assert sorted(path.name for path in project.parent.iterdir()) == ["project"]


def test_spreadsheets_see_text(project: Path) -> None:
    """What people open; what programs read keeps the names."""
    folder = paths.results(*tiny.COMBINATION)
    cells = [cell for name in ("classes", "confusions") for line in read(folder / f"{name}.csv") for cell in line]
    assert any(cell.startswith("'=HYPERLINK") for cell in cells)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    names = {line[2] for line in read(paths.store("tiny") / store.INDEX)[1:]}
    assert names == set(VISIBLE)
    assert {line[0] for line in read(paths.meta_classes("tiny"))[1:]} == set(VISIBLE[1::2])


def read(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def test_only_text_is_changed_for_spreadsheets() -> None:
    table = pd.DataFrame({"class": ["-5", "a", "\t=1", "'x", ""], "share": [-1.5, 2, 3, 4, 5]})
    found = class_names.for_spreadsheet(table)
    assert found["class"].tolist() == ["'-5", "a", "'\t=1", "'x", ""]
    assert found["share"].tolist() == table["share"].tolist()


def test_the_search_shows_them(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["retrieve"])
    assert retrieve.main() == 0
    assert VISIBLE[0] in capsys.readouterr().out
    with Image.open("retrieval.png") as picture:
        assert picture.size[0] > 1000


def test_hidden_characters_of_an_index(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store made elsewhere: the stages go through, and neither terminal, page, figure nor table has them raw."""
    hidden = list(HIDDEN.values())
    index = store.read_index(paths.store("tiny") / store.INDEX)
    index["class"] = index["class"].replace(dict(zip(VISIBLE[::2], hidden, strict=False)))
    index["path"] = [f"{hidden[row % len(hidden)]}/{path}" for row, path in enumerate(index["path"])]
    tiny.replace(project / paths.store("tiny") / store.INDEX, b"")
    files.write_table(paths.store("tiny") / store.INDEX, index)
    assert store.read_index(paths.store("tiny") / store.INDEX)["class"].tolist() == index["class"].tolist()
    for name in ("evaluate", "report"):
        assert command.guard(tiny.STAGES[name], debug=True) == 0
    facts = paths.embedding_facts("tiny", "mobilenet_v2")
    files.write_json(facts, reading.read_json(facts, "embed") | {"data": store.digest(paths.store("tiny"))})
    monkeypatch.setattr(sys, "argv", ["retrieve", "--query", *(f"row:{row}" for row in (0, 8, 16, 24))])
    assert retrieve.main() == 0
    shown = capsys.readouterr()
    assert not text.HIDDEN.search(shown.out.replace("\n", ""))
    assert all(text.escaped(name) in shown.out for name in hidden[:4])
    page = re.sub(r'(title|alt)="[^"]*"', "", paths.REPORT.read_text(encoding="utf-8"))
    assert not text.HIDDEN.search(page.replace("\n", ""))
    with Image.open("retrieval.png") as picture:
        assert picture.size[0] > 1000


@pytest.mark.parametrize("kind", HIDDEN)
def test_hidden_characters_in_a_data_set_are_refused(
    project: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    table = project / tiny.RAW / "images.csv"
    name = HIDDEN[kind]
    lines = read(table)
    lines[1][1] = f"a{name}b"
    table.unlink()
    with table.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(lines)
    assert "raw/tiny" in tiny.refused(tiny.STAGES["preprocess"], capsys)


@pytest.mark.parametrize("place", ["class", "file"])
@pytest.mark.parametrize("name", [b"a\x1b[31m", b"a\nb", b"\xff\xfe", "a\u202eb".encode(), b"a\\b"])
def test_hidden_characters_of_folders_are_refused(
    project: Path, capsys: pytest.CaptureFixture[str], place: str, name: bytes
) -> None:
    shutil.rmtree(project / tiny.RAW)
    for path in ("train/ant/1.png", "test/bee/1.png"):
        write(project / tiny.RAW / path, "")
    parent = os.fsencode(project / tiny.RAW / "train")
    folder = os.path.join(parent, name if place == "class" else b"cat")
    os.mkdir(folder)
    with open(os.path.join(folder, b"1.png" if place == "class" else name + b".png"), "wb"):
        pass
    line = tiny.refused(tiny.STAGES["preprocess"], capsys)
    assert "found the path" in line


@pytest.mark.parametrize(
    "name", [*HIDDEN.values(), "", "x" * 100_000, "U+001B", "U+D800", "U+FFFFFF", "\ud800", "🦊" * 50]
)
def test_any_name_can_be_drawn(tmp_path: Path, name: str) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    contact_sheet.draw(
        tmp_path / "a.png", [[contact_sheet.Tile(pixels, name), contact_sheet.Tile(None, name, 0.5, False)]]
    )
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[1] < 400
    assert not text.HIDDEN.search(class_names.readable(name))


def test_the_ledgers_words_end_no_cell_and_no_comment(project: Path) -> None:
    """A file of weights has any name; it is shown in the tables."""
    known = ledger.read(paths.LEDGER)
    entry = known["tiny"]["mobilenet_v2 (M=2)"]
    entry["settings"]["weights"] = f"a|b{readme.END}<script>\n|x|.pth 0123"
    recalls, runs = benchmarks.recall_tables("tiny", known["tiny"], paths.REFERENCE)
    text = tables.markdown([runs])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    text += tables.markdown([recalls, *readme.tables(known, paths.REFERENCE)])
    assert readme.END not in text
    assert "<script>" not in text
    before = f"# a\n\n{readme.BEGIN}\n{readme.END}\n"
    assert readme.insert(readme.insert(before, text), text).count(readme.END) == 1
