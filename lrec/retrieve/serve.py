"""The search page as a server, with gradio, an optional dependency: `lrec serve`.

Uploads arrive as part of a message and stay in memory. Only those routes of gradio's server are open that the page
needs: it writes no upload to disk, serves no files and fetches no other addresses.
"""

import base64
import binascii
import contextlib
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrec.datasets import decoding
from lrec.io.text import escaped
from lrec.retrieve import page
from lrec.retrieve.page import Asked, Searcher

HERE = Path(__file__).parent
HOST, PORT = "127.0.0.1", 7860
LARGEST = 100_000_000  # bytes of an upload
SHOWN, RESULTS = 18, 8  # images to choose from, and initial number of results
_ANSWERED = ("/assets/", "/static/", "/gradio_api/queue/", "/gradio_api/heartbeat/", "/gradio_api/startup-events")
_PAGES = ("/", "/config", "/theme.css", "/manifest.json", "/favicon.ico", "/robots.txt")
_LOCAL = ("127.0.0.1", "localhost", "[::1]")
# Browsers load nothing from elsewhere, and no other site can frame the page.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'none'; base-uri 'self'"
)

_DROP = """
<label class="lrec-drop"><input type="file" accept="${accept}">
<b>Drop or paste a photograph</b><span>or choose one from this device</span></label>
"""


def _gradio() -> Any:
    """Import gradio with its telemetry and downloads switched off."""
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    try:
        import gradio
    except ImportError as error:
        raise ValueError(f"gradio: not installed ({error}); pip install -r requirements-extra.txt") from error
    return gradio


def blocks(searcher: Searcher) -> Any:
    """Return the page as gradio's Blocks."""
    gr = _gradio()

    def shown(asked: Asked | None, split: str, number: float, note: str = "") -> str:
        if asked is None:
            return '<p class="lrec-note">Drop a photograph, or choose an image of the set below.</p>'
        try:
            return note + page.results(searcher, asked, split, int(number))
        except Exception as error:  # a bug is raised again
            return page.line(error)

    def search(find: Any, split: str, number: float, note: str = "") -> tuple[Asked | None, str]:
        try:
            asked = find()
        except Exception as error:  # a bug is raised again
            return None, page.line(error)
        return asked, shown(asked, split, number, note)

    def on_upload(split: str, number: float, event: gr.EventData) -> tuple[Asked | None, str]:
        sent = event._data
        several = isinstance(sent, dict) and isinstance(sent.get("of"), int) and sent["of"] > 1
        note = f'<p class="lrec-note">Searched with the first of {sent["of"]} files.</p>' if several else ""
        return search(lambda: searcher.by_upload(*_received(sent)), split, number, note)

    def on_select(split: str, number: float, event: gr.EventData) -> tuple[Asked | None, str]:
        return search(lambda: searcher.by_row(*_chosen(event._data)), split, number)

    def on_name(name: str, split: str, number: float) -> tuple[Asked | None, str]:
        return search(lambda: searcher.by_name(name, split), split, number)

    def on_load(number: float, request: gr.Request) -> tuple[Asked | None, str]:
        named = request.query_params.get("query", "")
        return on_name(named, searcher.split, number) if named else (None, shown(None, searcher.split, number))

    def on_more(split: str, seed: int) -> tuple[int, str]:
        return seed + 1, page.sample(searcher, split, SHOWN, seed + 1)

    script = (HERE / "page.js").read_text(encoding="utf-8")
    database, finder = searcher.open(searcher.split)
    size, named = len(database), f"its path{', or row:N' if finder.packed else ''}"
    with gr.Blocks(title=f"{searcher.name}: search", analytics_enabled=False, fill_width=True) as made:
        asked, seed = gr.State(None), gr.State(0)
        gr.HTML(f'<h1 class="lrec-title">Search in {page.text(searcher.name)}</h1>')
        with gr.Row():
            with gr.Column(scale=1, min_width=290):
                drop = gr.HTML(
                    html_template=_DROP, js_on_load=script, accept=",".join(decoding.SUFFIXES), largest=LARGEST
                )
                name = gr.Textbox(label="Or an image of the set", placeholder=named, max_lines=1, submit_btn=True)
                number = gr.Slider(1, min(page.MOST, max(size, 2)), min(RESULTS, size), step=1, label="Results")
                split = gr.Radio(searcher.splits, value=searcher.split, label="Split", visible=len(searcher.splits) > 1)
            with gr.Column(scale=3, min_width=290):
                results = gr.HTML(js_on_load=script, elem_id="lrec-results")
        with gr.Row(equal_height=True):
            gr.HTML('<h2 class="lrec-title">Images of the set</h2>')
            more = gr.Button("Show others", size="sm", scale=0, min_width=130)
        sample = gr.HTML(page.sample(searcher, searcher.split, SHOWN, 0), js_on_load=script, elem_id="lrec-sample")
        # One at a time: the network uses all cores, and a large photograph needs much memory.
        how = {
            "api_visibility": "private",
            "concurrency_limit": 1,
            "concurrency_id": "search",
            "show_progress": "minimal",
        }
        found = {"outputs": [asked, results], **how}
        drop.upload(on_upload, [split, number], **found)
        for tiles in (results, sample):
            tiles.select(on_select, [split, number], **found)
        name.submit(on_name, [name, split, number], **found)
        made.load(on_load, [number], **found)
        number.change(shown, [asked, split, number], results, trigger_mode="always_last", **how)
        split.change(shown, [asked, split, number], results, **how)
        split.change(on_more, [split, seed], [seed, sample], **how)
        more.click(on_more, [split, seed], [seed, sample], **how)
    return made


def _received(sent: Any) -> tuple[str, bytes]:
    """Return name and content of an upload."""
    if not isinstance(sent, dict) or not isinstance(sent.get("name"), str) or not isinstance(sent.get("content"), str):
        raise ValueError("upload: found no name and content")
    name = sent["name"][:200]
    if isinstance(size := sent.get("size"), int) and size > LARGEST:
        raise ValueError(f"{name}: {size:,} bytes, expected at most {LARGEST:,}; make it smaller")
    try:
        return name, base64.b64decode(sent["content"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"{name}: found content that is not base64") from error


def _chosen(sent: Any) -> tuple[str, int]:
    """Return split and row of an image that was clicked."""
    if not isinstance(sent, dict) or not isinstance(sent.get("split"), str) or not isinstance(sent.get("row"), int):
        raise ValueError("choice: found no split and row")
    return sent["split"], sent["row"]


class _Guard:
    """Passes on the requests that the page needs, limits their size, and refuses all others."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":  # the page opens no websocket
            await (
                self._app(scope, receive, send) if scope["type"] == "lifespan" else send({"type": "websocket.close"})
            )
            return
        path, headers = scope["path"], dict(scope["headers"])
        sent = headers.get(b"content-length", b"")
        known = path in _PAGES or path.startswith(_ANSWERED)
        large = sent.isdigit() and int(sent) > LARGEST * 3 // 2
        # A transfer encoding overrides the length, and browsers send none.
        unknown = b"transfer-encoding" in headers or scope["method"] == "POST" and not sent.isdigit()
        if not known or large or unknown:
            status = 404 if not known else 413 if large else 411
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
            await send(message)

        await self._app(scope, receive, answer)


def application(searcher: Searcher, hosts: list[str]) -> Any:
    """Return the server's ASGI application.

    Args:
        searcher: the databases to search.
        hosts: accepted host names of requests, or ["*"]; a list protects against DNS rebinding.
    """
    gr = _gradio()
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    app.add_middleware(_Guard)
    plain = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    made = blocks(searcher)
    gr.mount_gradio_app(
        app, made, "/", footer_links=[], run_history=False, ssr_mode=False, mcp_server=False, pwa=False,
        show_error=False, theme=plain, css=(HERE / "page.css").read_text(encoding="utf-8"),
    )  # fmt: skip
    made.has_launched = True  # otherwise gradio would copy files named in a message into its cache
    return app


def run(name: str, split: str | None, device: str, host: str, port: int, images: Sequence[str] | None = None) -> None:
    """Serve the page until it is interrupted.

    Args:
        name: name of the database, as for `Database.load`.
        split: the split to search first.
        device: for embedding and search.
        host: address to listen on.
        port: port to listen on; 0 for any free one.
        images: as for `Searcher`.

    Raises:
        ValueError: the address cannot be used, gradio is not installed, or as for `Database.load`.
    """
    searcher = Searcher(name, split, device, images)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueError(f"{host}:{port}: {reason}; choose another --port, 0 for any that is free") from error
        address = f"[{host}]" if ":" in host else host
        local = ipaddress.ip_address(listening.getsockname()[0]).is_loopback  # under whatever name
        app = application(searcher, [*_LOCAL, address] if local else ["*"])
        import uvicorn

        listening.listen()  # before the address is printed, so that a request waits rather than fails
        print(f"{escaped(name)}: http://{address}:{listening.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with contextlib.suppress(KeyboardInterrupt):
            # An open page keeps a connection; shutdown does not wait for it.
            uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)).run([listening])
