"""Tables, and their two renderers: Markdown for files, HTML for the page.

All text of a table is plain text. Names of files and data sets may contain any characters, so each renderer replaces
or escapes those that would end a cell, open a tag or a comment, or control a terminal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup
from tabulate import tabulate

from lrec.io.text import boxed

MISSING = "–"  # for figures that were not measured or not published
_UNSAFE = str.maketrans("|<>", "¦‹›")
_LONG = 50  # characters; longer cells of the page are wrapped


@dataclass(frozen=True)
class Table:
    """A table with its heading and the text around it.

    Attributes:
        title: the heading; "" for a table that belongs to the previous one.
        header: names of the columns.
        rows: rows with one cell per column.
        intro: a line before the table, or "".
        notes: lines after the table.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    intro: str = ""
    notes: Sequence[str] = ()

    def filled(self) -> "Table":
        """Return the table without the columns that are empty in every row.

        >>> Table("", ["a", "b", "c"], [["1", "", ""], ["", MISSING, "2"]]).filled().header
        ['a', 'c']
        """
        kept = [n for n in range(len(self.header)) if any(row[n] not in ("", MISSING) for row in self.rows)]
        rows = [[row[n] for n in kept] for row in self.rows]
        return replace(self, header=[self.header[n] for n in kept], rows=rows)


def markdown(tables: Sequence[Table]) -> str:
    r"""Render tables as Markdown.

    >>> print(markdown([Table("a<b", ["x", "y"], [["1|2", "3"]], "Before.", ["After."])]), end="")
    ### a‹b
    <BLANKLINE>
    Before.
    <BLANKLINE>
    | x   | y   |
    |-----|-----|
    | 1¦2 | 3   |
    <BLANKLINE>
    After.
    """
    parts = []
    for table in tables:
        parts += [f"### {_plain(table.title)}"] if table.title else []
        parts += [_plain(table.intro)] if table.intro else []
        rows = [[_plain(cell) for cell in row] for row in table.rows]
        header = [_plain(cell) for cell in table.header]
        parts.append(tabulate(rows, header, tablefmt="github", disable_numparse=True))
        parts += [_plain(note) for note in table.notes]
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    return boxed(text).translate(_UNSAFE)


def html(table: Table) -> Markup:
    """Render a table as HTML, with the CSS classes of page.html.

    >>> str(html(Table("", ["x"], [["a<b"]])))  # doctest: +ELLIPSIS
    '...<tr><th>x</th></tr>...<tr><td>a&lt;b</td></tr>...'
    """
    header = Markup("").join(_tagged("th", cell) for cell in table.header)
    rows = [
        Markup("").join(_tagged("td", cell, "text" if len(cell) > _LONG else "") for cell in row) for row in table.rows
    ]
    lines = [
        *([_tagged("h3", table.title)] if table.title else []),
        *([_tagged("p", table.intro, "faint")] if table.intro else []),
        Markup('<div class="wide" tabindex="0"><table>'),
        Markup("<thead><tr>{}</tr></thead>").format(header),
        Markup("<tbody>"),
        *(Markup("<tr>{}</tr>").format(row) for row in rows),
        Markup("</tbody></table></div>"),
        *(_tagged("p", note, "faint") for note in table.notes),
    ]
    return Markup("\n").join(lines)


def _tagged(tag: str, text: str, style: str = "") -> Markup:
    opened = Markup('<{} class="{}">').format(tag, style) if style else Markup("<{}>").format(tag)
    return opened + boxed(text) + Markup("</{}>").format(tag)
