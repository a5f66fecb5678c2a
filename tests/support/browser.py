"""Opens pages in headless Chromium; finds what fails to load, and what does not fit into the width."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Runs after the page has loaded; writes its findings into the title, which --dump-dom prints.
PROBE = """<script>
window.found = [];
window.addEventListener("error", e => found.push("error: " + (e.message || e.target.src || e.target.href)), true);
window.addEventListener("load", () => {
  for (const i of document.images) if (!i.complete || !i.naturalWidth) found.push("missing image: " + i.alt);
  const wide = document.documentElement.scrollWidth, room = document.documentElement.clientWidth;
  if (wide > room) found.push(`overflow: ${wide} in ${room}`);
  for (const e of document.querySelectorAll("SELECTOR")) if (e.scrollWidth > e.clientWidth)
    found.push(`cut off: ${e.scrollWidth} in ${e.clientWidth}: ${e.innerText.slice(0, 80)}`);
  document.title = JSON.stringify({images: document.images.length, room, found});
});
</script>"""


class Tags(HTMLParser):
    """All tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def open_page(text: str, folder: Path, width: int, whole: str = "nothing") -> dict:
    """Open a page in headless Chromium and return what the probe found; see `open_pages`."""
    return open_pages([text], folder, width, whole)[0]


def open_pages(texts: Sequence[str], folder: Path, width: int, whole: str = "nothing") -> list[dict]:
    """Open pages in headless Chromium and return what the probe found; skip the test if there is no browser.

    The pages are shown in frames, because a headless window is never narrower than about 500 pixels.

    Args:
        texts: the HTML of the pages, each beginning with its doctype.
        folder: a folder for temporary files.
        width: width of the frames in pixels.
        whole: CSS selector of elements that must fit without horizontal scrolling.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    doctype, frames = "<!doctype html>", ""
    probe = PROBE.replace("SELECTOR", whole)
    for number, text in enumerate(texts):
        (folder / f"{number}.html").write_text(doctype + probe + text.removeprefix(doctype), encoding="utf-8")
        relay = f"document.body.setAttribute('data-found-{number}', this.contentDocument.title)"
        style = f"border:0;width:{width}px;height:900px"
        frames += f'<iframe src="{number}.html" style="{style}" onload="{relay}"></iframe>'
    (folder / "frames.html").write_text(f"{doctype}<body>{frames}</body>", encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    options += [f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", "--hide-scrollbars"]
    options += ["--allow-file-access-from-files", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run(
        [browser, *options, (folder / "frames.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(folder)},
    )
    body = next((attributes for tag, attributes in Tags(done.stdout).tags if tag == "body"), {})
    found = [body.get(f"data-found-{number}") for number in range(len(texts))]
    assert all(found), f"{browser}: status {done.returncode}\n{done.stderr[-2000:]}"
    return [json.loads(each) for each in found]
