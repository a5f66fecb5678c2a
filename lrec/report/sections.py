"""The benchmark tables read back from Markdown, so that page and README never disagree."""

from dataclasses import dataclass, field


@dataclass
class Section:
    """A heading with its paragraphs and one table.

    Attributes:
        title: the heading.
        before: paragraphs before the table.
        header: names of the columns.
        rows: cells as text.
        after: paragraphs after the table.
    """

    title: str
    before: list[str] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


def parse(markdown: str) -> list[Section]:
    r"""Return the sections of what `lrec.report.tables` renders.

    >>> found = parse("### a\n\nNote.\n\n| x | y |\n|---|---|\n| 1 | 2 |\n\nEnd.")[0]
    >>> found.title, found.before, found.header, found.rows, found.after
    ('a', ['Note.'], ['x', 'y'], [['1', '2']], ['End.'])
    """
    found: list[Section] = []
    for line in markdown.splitlines():
        if line.startswith("### "):
            found.append(Section(line.removeprefix("### ").strip()))
        elif not line.strip() or not found:
            continue
        elif not line.startswith("|"):
            (found[-1].after if found[-1].header else found[-1].before).append(line.strip())
        elif set(line) - set("|-: "):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if found[-1].header:
                found[-1].rows.append(cells)
            else:
                found[-1].header = cells
    return found
