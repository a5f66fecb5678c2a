"""The search page as a person meets it, in headless Chromium, and as a stranger on the same machine might misuse it."""

import base64
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from browser import BROWSERS
from PIL import Image
from retrieval_project import make, note_store

from lrec.data import store
from lrec.io import files
from lrec.retrieve import __main__ as tool
from lrec.retrieve import serve

# Not imported: that takes seconds, in each process that collects tests.
if find_spec("gradio") is None:
    pytest.skip("an optional dependency: pip install -r requirements-extra.txt", allow_module_level=True)

HOSTILE = "<img src=x onerror='window.hurt=1'> {{name}} ${window.hurt=1}"
PATIENCE = 300
ADDRESSES = Path("/proc/net/if_inet6")
IPV6 = ADDRESSES.is_file() and f"{1:032x} " in ADDRESSES.read_text()  # ::1 is the address of a device


class Served:
    """A running page: its address, its process, and the folder that it may write temporary files to."""

    def __init__(self, root: Path, project: Path, temporary: Path) -> None:
        temporary.mkdir()
        self.temporary = temporary
        # What a careless environment may say of gradio does not open anything.
        variables = {
            "PYTHONPATH": str(root),
            "TMPDIR": str(temporary),
            "GRADIO_SHARE": "True",
            "GRADIO_ALLOWED_PATHS": "/",
        }
        with (temporary.parent / "errors.txt").open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lrec", "serve", "--port", "0"],
                cwd=project,
                env=os.environ | variables,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        line = self.process.stdout.readline()
        found = re.fullmatch(r"tiny/resnet18: http://127\.0\.0\.1:(\d+) \(Ctrl-C ends it\)\n", line)
        assert found, line + self.errors()
        self.port = int(found[1])
        self.address = f"http://127.0.0.1:{self.port}/"

    def errors(self) -> str:
        return (self.temporary.parent / "errors.txt").read_text()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, dict]:
        """Send a request as it is; return status, body and headers of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        found = answer.status, answer.read(), dict(answer.getheaders())
        connection.close()
        return found

    def left(self) -> list[Path]:
        """Return the files that lie in the temporary folder."""
        return [path for path in self.temporary.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project one of whose classes, and one of whose paths, is hostile."""
    folder = tmp_path_factory.mktemp("project")
    make(root, folder)
    table = folder / "data/processed/tiny/index.csv"
    index = store.read_index(table)
    index["class"] = index["class"].replace("a_<b>&c", HOSTILE)
    index.loc[22, "path"] = f"{HOSTILE}.png"
    files.write_table(table, index)
    note_store(folder, "tiny")
    return folder


@pytest.fixture(scope="module")
def served(root: Path, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = Served(root, project, tmp_path_factory.mktemp("server") / "temporary")
    yield running
    # A page that is still open does not keep the server from ending.
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
    connection.request("GET", "/gradio_api/heartbeat/open")
    answer = connection.getresponse()
    assert answer.status == 200
    running.process.send_signal(signal.SIGTERM)
    running.process.communicate(timeout=PATIENCE)
    answer.close()
    connection.close()
    assert running.process.returncode == 0


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install -r requirements-dev.txt")
    if not (path := next(filter(None, map(shutil.which, BROWSERS)), None)):
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


class Visit:
    """The page, open in a window, with what went wrong in it and what it asked of other addresses."""

    def __init__(self, browser, served: Served, query: str = "", width: int = 1280, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE)
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url, served))
        self.page.goto(served.address + (f"?query={query}" if query else ""))
        self.page.wait_for_selector("#lrec-sample .lrec-tile")
        self.page.wait_for_selector("#lrec-results .lrec-tile, #lrec-results p")

    def _asked(self, url: str, served: Served) -> None:
        if not url.startswith((served.address, "data:", "blob:")):
            self.wrong.append(url)

    def upload(self, path: Path) -> None:
        self.page.set_input_files(".lrec-drop input", path)

    def first(self) -> int:
        return int(self.page.locator("#lrec-results .lrec-tile").first.get_attribute("data-row"))

    def wait(self, text: str) -> None:
        self.page.locator("#lrec-results").get_by_text(text, exact=False).first.wait_for()


@pytest.fixture
def visit(chromium, served: Served) -> Iterator[Visit]:
    opened = Visit(chromium, served)
    yield opened
    assert not opened.wrong
    assert opened.page.evaluate("window.hurt") is None
    opened.context.close()
    assert served.left() == []
    assert served.errors() == ""


def dropped(visit: Visit, event: str, names: list[str], content: bytes) -> None:
    """Let go of files over the page, or paste them."""
    code = """([event, names, content]) => {
      const data = new DataTransfer();
      for (const name of names)
        data.items.add(new File([Uint8Array.from(atob(content), c => c.charCodeAt(0))], name, {type: "image/png"}));
      const options = {bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data};
      const made = event === "paste" ? new ClipboardEvent(event, options) : new DragEvent(event, options);
      document.body.dispatchEvent(made);
    }"""
    visit.page.evaluate(code, [event, names, base64.b64encode(content).decode()])


@pytest.mark.browser
def test_a_file_is_dropped_pasted_and_chosen(visit: Visit, project: Path):
    visit.wait("Drop a photograph, or choose an image")
    for row, event in ((20, "drop"), (21, "paste")):
        dropped(visit, event, [f"{event}ed.png"], (project / f"raw/pictures/{row}.png").read_bytes())
        visit.wait(f"{event}ed.png")
        assert visit.first() == row - 16
    visit.upload(project / "raw/pictures/22.png")
    visit.wait("22.png")
    assert visit.first() == 6
    assert visit.page.locator("#lrec-results .lrec-unknown").count() == 8
    names = [f"{number}.png" for number in range(10)]
    dropped(visit, "drop", names, (project / "raw/pictures/23.png").read_bytes())
    visit.wait("Searched with the first of 10 files.")
    assert visit.first() == 7


@pytest.mark.browser
def test_from_image_to_image(visit: Visit):
    """Choose one, click a result, another number, another split, other images, a name."""
    page = visit.page
    page.locator("#lrec-sample .lrec-tile").first.click()
    page.wait_for_selector("#lrec-results .lrec-right")
    first = page.locator("#lrec-results .lrec-tile").first
    name = first.get_attribute("title")
    first.click()
    visit.wait(name)
    assert page.locator("#lrec-results .lrec-tile").count() == 8
    assert name not in [tile.get_attribute("title") for tile in page.locator("#lrec-results .lrec-tile").all()]
    page.get_by_label("number input for Results").fill("3")
    page.get_by_label("number input for Results").press("Enter")
    page.wait_for_function("document.querySelectorAll('#lrec-results .lrec-tile').length === 3")
    shown = "[...document.querySelectorAll('#lrec-sample .lrec-tile')].map(tile => tile.dataset.row).join()"
    before = page.evaluate(shown)
    page.get_by_text("Show others").click()
    page.wait_for_function(f"before => {shown} !== before", arg=before)
    page.get_by_label("train").check()
    page.wait_for_selector("#lrec-results .lrec-tile[data-split=train]")
    page.wait_for_selector("#lrec-sample .lrec-tile[data-split=train]")
    assert page.locator("#lrec-results .lrec-query").get_by_text(name).count() == 1
    page.get_by_label("Or an image of the set").fill("30.png")
    page.get_by_label("Or an image of the set").press("Enter")
    visit.wait("30.png")
    page.get_by_label("Or an image of the set").fill("/etc/passwd")
    page.get_by_label("Or an image of the set").press("Enter")
    visit.wait("/etc/passwd: query not found, expected a path of the data set's index")


@pytest.mark.browser
def test_a_broken_upload_gets_one_line(visit: Visit, tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    visit.upload(tmp_path / "broken.png")
    visit.wait("broken.png: not readable as an image")
    assert visit.page.locator("#lrec-results p").count() == 1
    assert visit.page.locator("#lrec-results .lrec-tile").count() == 0


@pytest.mark.browser
def test_hostile_names_are_shown_as_text(visit: Visit, project: Path, tmp_path: Path):
    shutil.copy(project / "raw/pictures/22.png", tmp_path / f"{HOSTILE}.png")
    visit.upload(tmp_path / f"{HOSTILE}.png")
    visit.page.wait_for_selector("#lrec-results .lrec-tile")
    assert visit.page.locator("#lrec-results .lrec-query b").inner_text() == f"{HOSTILE}.png"
    first = visit.page.locator("#lrec-results .lrec-tile").first
    assert first.get_attribute("title") == f"{HOSTILE}.png"
    assert first.inner_text().strip().endswith(HOSTILE)
    first.click()
    visit.wait("class <img src=x")


@pytest.mark.browser
def test_a_photograph_of_60_megapixels(visit: Visit, tmp_path: Path):
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 256, (75, 80, 3), np.uint8))
    small.resize((8000, 7500)).save(tmp_path / "large.jpg")
    visit.upload(tmp_path / "large.jpg")
    visit.wait("large.jpg")
    assert visit.page.locator("#lrec-results .lrec-tile").count() == 8


@pytest.mark.browser
@pytest.mark.slow  # tests/retrieve/test_at_once.py has the turns that threads take
def test_ten_people_at_once(chromium, served: Served, project: Path):
    visits = [Visit(chromium, served) for _ in range(10)]
    for row, one in enumerate(visits, start=20):
        one.upload(project / f"raw/pictures/{row}.png")
    for row, one in enumerate(visits, start=20):
        one.wait(f"{row}.png")
        assert one.first() == row - 16
        assert not one.wrong
        one.context.close()
    assert served.left() == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_and_desk_in_light_and_dark(chromium, served: Served, width: int, scheme: str):
    one = Visit(chromium, served, "20.png", width, scheme)
    one.page.wait_for_selector("#lrec-results .lrec-tile")
    assert one.page.evaluate("document.documentElement.scrollWidth") == width
    dark = one.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(part => part < 60)")
    assert dark == (scheme == "dark")
    columns = one.page.evaluate("getComputedStyle(document.querySelector('#lrec-results ul')).gridTemplateColumns")
    assert len(columns.split()) == (3 if width == 390 else 4)
    missing = "[...document.images].filter(image => !image.naturalWidth).length"
    assert one.page.evaluate(missing) == 0
    assert not one.wrong
    one.context.close()


PLACES = [
    "gradio_api/file=/etc/passwd",
    "gradio_api/file=params.yaml",
    "gradio_api/file/params.yaml",
    "file=params.yaml",
    "gradio_api/file=raw/pictures/0.png",
    "static/../../../../params.yaml",
    "assets/..%2f..%2f..%2fparams.yaml",
    "static/%2e%2e/%2e%2e/%2e%2e/webui.py",
    "gradio_api/proxy=http://127.0.0.1:1/",
    "gradio_api/upload",
    "gradio_api/component_server",
    "gradio_api/stream/x/0/0/playlist-file",
    "gradio_api/info",
    "gradio_api/runs",
    "gradio_api/app_id",
    "monitoring",
    "docs",
    "openapi.json",
    "custom_component/x/client/component/../../../params.yaml",
]


@pytest.mark.parametrize("place", PLACES)
def test_nothing_else_can_be_read(served: Served, place: str):
    for method in ("GET", "POST"):
        status, body, _ = served.ask(method, f"/{place}")
        assert status in (403, 404, 405, 411)
        assert b"recall_at" not in body
        assert b"root:" not in body


def test_a_file_is_refused_by_any_event(served: Served, project: Path):
    """What a client may send in place of what the page sends: paths, addresses, other types, no data."""
    secret = project / "secret.png"
    shutil.copy(project / "raw/pictures/20.png", secret)
    count = len(json.loads(served.ask("GET", "/config")[1])["dependencies"])
    assert count > 5
    file = {"path": str(secret), "url": "http://127.0.0.1:1/x.png", "meta": {"_type": "gradio.FileData"}}
    for number in range(count):
        for event in (file, {"name": str(secret), "content": "?"}, {"row": "0", "split": "../x"}, [], None):
            for value in (file, str(secret)):
                asked = {"fn_index": number, "data": [value] * 3, "event_data": event, "session_hash": f"s{number}"}
                message = json.dumps(asked).encode()
                assert served.ask("POST", "/gradio_api/queue/join?", message, content_type="application/json")[0] < 500
        found = served.ask("GET", f"/gradio_api/queue/data?session_hash=s{number}")[1]
        assert found.count(b"process_completed") == 10
        assert base64.b64encode(secret.read_bytes())[:60] not in found
    assert served.left() == []


def test_what_is_too_large_or_from_another_site(served: Served):
    place = "/gradio_api/queue/join"
    assert served.ask("POST", place, b"", content_length="999999999")[0] == 413
    chunked = {"content_length": "2", "transfer_encoding": "chunked", "content_type": "application/json"}
    for method in ("POST", "GET"):  # which may be of any size, whatever length is said
        assert served.ask(method, place, b"2\r\n{}\r\n0\r\n\r\n", **chunked)[0] == 411
    assert served.ask("GET", "/", host="elsewhere.example")[0] == 400
    status, _, headers = served.ask("GET", "/")
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    with ThreadPoolExecutor(10) as pool:
        assert set(pool.map(lambda _: served.ask("GET", "/config")[0], range(30))) == {200}


@pytest.mark.parametrize(
    ("host", "known", "answered"),
    [
        ("127.0.0.1", "localhost:7", False),
        ("localhost", "127.0.0.1:7", False),
        ("127.0.0.2", "127.0.0.2:7", False),
        pytest.param("::1", "[::1]:7", False, marks=pytest.mark.skipif(not IPV6, reason="no IPv6 here")),
        ("0.0.0.0", "192.0.2.1:7", True),
    ],
)
def test_hosts_of_a_page_for_this_machine(
    project: Path, monkeypatch: pytest.MonkeyPatch, host: str, known: str, answered: bool
):
    """The name of another site that leads here (DNS rebinding) is refused at any loopback address."""
    from starlette.applications import Starlette
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.testclient import TestClient

    def application(_: object, hosts: list[str]) -> None:
        guarded = TestClient(TrustedHostMiddleware(Starlette(), hosts))
        names = (known, "elsewhere.example")
        seen.extend(guarded.get("/", headers={"host": name}).status_code for name in names)
        raise ValueError("seen")

    seen: list[int] = []
    monkeypatch.chdir(project)
    monkeypatch.setattr(serve, "application", application)
    with pytest.raises(ValueError, match="^seen$"):
        serve.run("tiny/resnet18", None, "cpu", host, 0)
    assert seen == [404, 404 if answered else 400]


def test_only_this_machine_is_served(served: Served):
    listening = Path("/proc/net/tcp").read_text()
    places = [line.split()[1] for line in listening.splitlines()[1:] if line.split()[3] == "0A"]
    assert [place for place in places if place.endswith(f":{served.port:04X}")] == [f"0100007F:{served.port:04X}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "127.0.0.1:70000: "),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid:7860: "),
        (["--database", "nope/resnet18"], "nope/resnet18: found no such database"),
        (["--split", "gallery"], "split: found 'gallery'"),
        (["--query", "a.png"], "--query: has no effect with --serve"),
        (["--json"], "--json: has no effect with --serve"),
    ],
)
def test_errors_are_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], message: str
):
    monkeypatch.chdir(project)
    monkeypatch.setattr("lrec.retrieve.serve.application", lambda *_: None)
    assert tool.main(["--serve", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_a_port_in_use(project: Path, served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(project)
    monkeypatch.setattr("lrec.retrieve.serve.application", lambda *_: None)
    assert tool.main(["--serve", "--port", str(served.port)]) == 1
    assert f"127.0.0.1:{served.port}: Address already in use; choose another --port" in capsys.readouterr().err
    assert tool.main(["--port", "1"]) == 1
    assert "--port: has no effect without --serve" in capsys.readouterr().err
