"""Renders Markdown as HTML in a style with GitHub's sizes."""

from pathlib import Path

import matplotlib
from markdown_it import MarkdownIt

COLUMN = 948  # pixels of GitHub's text column
# DejaVu ships with matplotlib, so lines have the same width on every machine; it is wider than GitHub's fonts.
STYLE = """
@font-face { font-family: text; src: url(FONTS/DejaVuSans.ttf) }
@font-face { font-family: text; font-weight: bold; src: url(FONTS/DejaVuSans-Bold.ttf) }
@font-face { font-family: fixed; src: url(FONTS/DejaVuSansMono.ttf) }
body { margin: 0; font: 16px/1.5 text; color: #1f2328; overflow-wrap: break-word }
h1, h2 { border-bottom: 1px solid #d1d9e0; padding-bottom: .3em }
h1, h2, h3, h4 { line-height: 1.25; margin: 24px 0 16px }
p, ul, ol, table, pre { margin: 0 0 16px }
ul, ol { padding-left: 2em }
img { max-width: 100%; box-sizing: content-box }
code { font: 13.6px fixed; padding: .2em .4em; background: #818b981f; border-radius: 6px; white-space: break-spaces }
pre { font: 13.6px/1.45 fixed; padding: 16px; background: #f6f8fa; overflow: auto; border-radius: 6px }
pre code { padding: 0; background: none; white-space: pre }
table { display: block; width: max-content; max-width: 100%; overflow: auto; border-collapse: collapse }
th, td { padding: 6px 13px; border: 1px solid #d1d9e0 }
tr:nth-child(2n) { background: #f6f8fa }
"""


def page(path: Path) -> str:
    """Return the HTML of a Markdown file; links are relative to the file's folder."""
    style = STYLE.replace("FONTS", (Path(matplotlib.get_data_path()) / "fonts/ttf").as_uri())
    body = MarkdownIt("commonmark").enable("table").render(path.read_text(encoding="utf-8"))
    head = f"<meta charset=utf-8><base href='{path.parent.as_uri()}/'><title>{path.name}</title><style>{style}</style>"
    return f"<!doctype html>{head}<body>{body}</body>"
