"""Tables as values: two renderers, and neither lets a cell act."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrec.io.text import HIDDEN
from lrec.report.tables import MISSING, Table, html, markdown

HOSTILE = [
    "a|b",
    "<script>alert(1)</script>",
    "<!-- end of benchmarks -->",
    "a\nb\r\n| c |",
    "\x1b[31m",
    "x\u202ey",
    "&lt;",
    "\ud800",
]


class Cells(HTMLParser):
    """The tags of a page, and the text of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[list[str]] = []
        self.feed(str(text))  # str: a Markup would escape its own parts again

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append([tag, ""])

    def handle_data(self, data: str) -> None:
        self.found[-1][1] += data

    def handle_comment(self, data: str) -> None:
        self.found.append(["comment", data])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_in_its_cell(name: str):
    table = Table(name, ["a", name], [[name, "1"], ["2", name]], name, [name])
    text, page = markdown([table]), html(table)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert {row.count("|") for row in rows} == {3}
    assert not re.search("[<>]", text)
    assert not HIDDEN.search((text + str(page)).replace("\n", ""))
    found = Cells(page).found
    assert [tag for tag, _ in found] == [
        *("h3", "p", "div", "table", "thead", "tr", "th", "th", "tbody"),
        *("tr", "td", "td", "tr", "td", "td", "p"),
    ]
    shown = HIDDEN.sub("\ufffd", name)
    assert [words.rstrip("\n") for tag, words in found if tag in ("h3", "p", "td")] == [
        *(shown, shown, shown, "1", "2", shown, shown),
    ]


@given(st.lists(st.lists(st.text(max_size=12), min_size=2, max_size=2), min_size=1, max_size=4))
def test_no_text_makes_a_row_or_a_tag(rows: list[list[str]]):
    table = Table("t", ["a", "b"], rows)
    # A cell may look like a row to the eye, but not to a parser: count the bars.
    lines = markdown([table]).split("\n\n")[1].split("\n")
    assert [line.count("|") for line in lines if line] == [3] * (2 + len(rows))
    found = Cells(html(table)).found
    assert [tag for tag, _ in found].count("td") == 2 * len(rows)
    assert {tag for tag, _ in found} == {"h3", "div", "table", "thead", "tr", "th", "tbody", "td"}


def test_a_table_without_a_title_continues_the_one_before():
    assert markdown([Table("a", ["x"], [["1"]]), Table("", ["y"], [["2"]])]).count("###") == 1
    assert "<h3>" not in html(Table("", ["y"], [["2"]]))


def test_long_cells_are_wrapped_on_the_page():
    assert html(Table("", ["x"], [["w" * 51, "w" * 50]])).count('<td class="text">') == 1


def test_columns_without_any_figure_are_left_out():
    table = Table("t", ["a", "b", "c", "d"], [["1", MISSING, "", "2"], ["3", "", MISSING, ""]], "i", ["n"])
    assert table.filled() == Table("t", ["a", "d"], [["1", "2"], ["3", ""]], "i", ["n"])
