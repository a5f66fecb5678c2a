"""The search page without its server: queries, results, and their HTML.

Text from files and visitors is always escaped. Images are embedded in the HTML, so the server need not serve files.
"""

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from lrec import paths
from lrec.class_names import readable
from lrec.datasets import decoding
from lrec.io import errors
from lrec.io.splits import SPLITS
from lrec.io.text import boxed
from lrec.metrics import search
from lrec.retrieve import query, storage
from lrec.retrieve.database import Database

MOST = 60  # results
SIDE = 256  # pixels of the longer side of a displayed image
_SMALL = 100  # images below this side are enlarged without blurring
_UNSAFE = re.compile(r"[${}`\\]")  # special characters in gradio's templates


@dataclass(frozen=True)
class Asked:
    """A query; an upload is not stored.

    Attributes:
        name: path in the index, or name of the upload.
        class_name: "" where unknown.
        embedding: (d,) float32, or its code.
        picture: a small copy, as a data URL; "" if there is no image.
        place: its split and row in the database; None for an upload.
    """

    name: str
    class_name: str
    embedding: np.ndarray
    picture: str
    place: tuple[str, int] | None = None


class Searcher:
    """The splits of a database, each opened when it is first searched.

    Args:
        name: as for `Database.load`.
        split: the split to search first; None as for `Database.load`.
        device: for embedding and search.
        images: images to search instead of the database's, as for `Database.of_images`; None for its own.
    """

    def __init__(
        self, name: str, split: str | None = None, device: str = "cpu", images: Sequence[str] | None = None
    ) -> None:
        first = Database.load(name, split, device)
        first = first if images is None else first.of_images(images)
        self.name, self.split = name, first.facts.get("split") or ""
        self.splits = [self.split]
        if self.split:
            folder = first.place(str(paths.embeddings(*first.facts["name"].split("/"))))
            self.splits = [there for there in SPLITS if (folder / f"{there}.npy").is_file()]
        self._opened, self._device = {self.split: (first, query.Finder(first))}, device

    def open(self, split: str) -> tuple[Database, query.Finder]:
        """Return the database of a split, and a finder of its images by name.

        Raises:
            ValueError: there is no such split, or the run was embedded again since the first one was opened.
        """
        if split not in self.splits:
            raise ValueError(f"split: found {split!r:.40}, expected one of {', '.join(self.splits)}")
        if split not in self._opened:
            database = Database.load(self.name, split, self._device)
            storage.require_same(self._opened[self.split][0].facts, database.facts)
            self._opened[split] = database, query.Finder(database)
        return self._opened[split]

    def by_upload(self, name: str, content: bytes) -> Asked:
        """Return a visitor's image, decoded and embedded.

        Raises:
            ValueError: it is not readable as an image, or the database has no model; the message is one line.
        """
        database, _ = self.open(self.split)
        image = decoding.decode(io.BytesIO(content), name)
        return Asked(name, "", database.embed([image])[0], _picture(image))

    def by_row(self, split: str, row: int) -> Asked:
        """Return an image of the database of a split."""
        database, _ = self.open(split)
        if not 0 <= row < len(database):
            raise ValueError(f"row: found {row}, expected 0 to {len(database) - 1}")
        entry = database.index.iloc[row]
        return Asked(entry["path"], entry["class"], database.embedding(row), picture(database, row), (split, row))

    def by_name(self, text: str, split: str) -> Asked:
        """Return the image of the data set that a visitor has named, from any split; never a file.

        Raises:
            FileNotFoundError: there is no such image.
        """
        _, finder = self.open(split)
        found = finder.named(text.strip())
        if found is None:
            raise finder.unknown(text.strip())
        if found.row != search.NO_ROW:
            return self.by_row(split, found.row)
        for other in self.splits:
            elsewhere = self.open(other)[1].named(text.strip())
            if elsewhere is not None and elsewhere.row != search.NO_ROW:
                return self.by_row(other, elsewhere.row)
        pixels = found.pixels()
        return Asked(found.name, found.class_name, self.open(self.split)[0].embed([pixels])[0], _picture(pixels))

    def answer(self, asked: Asked, split: str, number: int) -> dict[str, Any]:
        """Return the most similar images in a split, as `query.answer` does; an image does not find itself.

        Raises:
            ValueError: the number is out of range, or there is no other image.
        """
        database, finder = self.open(split)
        if not 1 <= number <= MOST:
            raise ValueError(f"number of results: found {number}, expected 1 to {MOST}")
        own = search.NO_ROW
        if asked.place and asked.place[0] == split:
            own = asked.place[1]
        elif asked.place and asked.name and (known := finder.named(asked.name)):
            own = known.row
        number = min(number, len(database) - (own != search.NO_ROW))
        if not number:
            raise ValueError("the database holds 1 image, which cannot find itself; search another split")
        scores, rows = database.search(asked.embedding, number, own)
        return query.answer(database, query.Query(asked.name, asked.class_name, np.empty(0), own), scores[0], rows[0])

    def some(self, split: str, count: int, seed: int) -> list[int]:
        """Return rows of a split, drawn at random, in their order."""
        size = len(self.open(split)[0])
        return sorted(np.random.default_rng(seed).choice(size, min(count, size), replace=False).tolist())


def _picture(image: Image.Image | np.ndarray | None) -> str:
    """Return a small copy of an image as a data URL."""
    if image is None:
        return ""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    longer, form, out = max(image.size), "PNG", io.BytesIO()
    if longer < _SMALL:
        factor = SIDE // longer
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    elif longer > SIDE:
        size = max(1, image.width * SIDE // longer), max(1, image.height * SIDE // longer)
        image, form = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2), "JPEG"
    image.save(out, form, quality=88)
    return f"data:image/{form.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def picture(database: Database, row: int) -> str:
    """Return a small copy of a row's image as a data URL; "" if it is missing or cannot be read."""
    return _picture(database.shown(row))


def text(written: str) -> str:
    r"""Escape text for HTML: tags, placeholders of templates and hidden characters are shown literally.

    >>> text("<b>{{x}}</b>\x1b")
    '&lt;b&gt;&#123;&#123;x&#125;&#125;&lt;/b&gt;\ufffd'
    """
    return _UNSAFE.sub(lambda match: f"&#{ord(match[0])};", html.escape(boxed(written)))


def line(error: Exception) -> str:
    """Return an expected error as one line of HTML; a bug in the program is raised again."""
    if not (explained := errors.explain(error, "")):
        raise error
    return f'<p class="lrec-error" role="alert">{text(explained)}</p>'


def results(searcher: Searcher, asked: Asked, split: str, number: int) -> str:
    """Return the query image and the results of a search as HTML."""
    database, _ = searcher.open(split)
    found = searcher.answer(asked, split, number)["results"]
    note = ""
    if asked.place is None and database.facts.get("crop") == "box":
        note = '<p class="lrec-note">The set holds images cropped to boxes: crop a photograph to its object first.</p>'
    known = f", class {_class(asked.class_name)}" if asked.class_name else ""
    tiles = [_tile(database, split, r["database_row"], r["similarity"], r["right"]) for r in found]
    return (
        f'<div class="lrec-query">{_image(asked.picture)}<p><b>{text(asked.name) or "an image without a name"}</b>'
        f"{known}</p></div>{note}" + _grid(tiles)
    )


def sample(searcher: Searcher, split: str, count: int, seed: int) -> str:
    """Return a few images of a split to choose from, as HTML."""
    database, _ = searcher.open(split)
    return _grid([_tile(database, split, row) for row in searcher.some(split, count, seed)])


def _grid(tiles: list[str]) -> str:
    return f'<ul class="lrec-grid">{"".join(f"<li>{tile}</li>" for tile in tiles)}</ul>'


def _tile(database: Database, split: str, row: int, similarity: float | None = None, right: bool | None = None) -> str:
    entry = database.index.iloc[row]
    # The mark repeats the colour for readers who cannot tell green from red.
    frame, mark = {True: ("right", "✓ "), False: ("wrong", "✗ "), None: ("unknown", "")}[right]
    score = "" if similarity is None else f'<span class="lrec-score">{mark}{similarity:.3f}</span> '
    return (
        f'<button type="button" class="lrec-tile lrec-{frame}" data-row="{row}" data-split="{text(split)}" '
        f'title="{text(entry["path"])}">{_image(picture(database, row))}'
        f"<span>{score}{_class(entry['class'])}</span></button>"
    )


def _class(name: str) -> str:
    return text(readable(name)) or "class unknown"


def _image(url: str) -> str:
    return f'<img src="{url}" alt="">' if url else '<span class="lrec-gone">no image here</span>'
