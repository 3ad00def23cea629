"""CORS in a real browser: pages of other origins, one that is named and one that is not."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from samvad import open_samvad
from samvad.http.app import create_app
from tests.browser.test_docs_page import FLAGS
from tests.http.support import serving
from tests.support import loudly_skip

pytestmark = pytest.mark.browser

ASK = """async (api) => {
    const state = `${api}/api/session/asha/state`;
    const sent = { "content-type": "application/json", authorization: "Bearer none", "idempotency-key": "k" };
    const told = (answer) => [answer.status, answer.headers.get("etag"), Boolean(answer.headers.get("x-request-id"))];
    const attempt = (work) => work().catch((error) => error.name);
    const socket = (address) => new Promise((done) => {
        const socket = new WebSocket(address.replace("http", "ws") + "/api/live", "samvad.v1");
        socket.onopen = () => { socket.close(); done("open"); };
        socket.onerror = () => done("refused");
    });
    return {
        write: await attempt(async () => told(await fetch(state, { method: "POST", headers: sent, body: '{"a":1}' }))),
        match: await attempt(async () => told(await fetch(
            state, { method: "PUT", headers: { "content-type": "application/json", "if-match": '"0-9"' }, body: "{}" }
        ))),
        read: await attempt(async () => (await (await fetch(state)).json()).state.a),
        missing: await attempt(async () => (await (await fetch(`${api}/api/session/none`)).json()).code),
        withCookies: await attempt(async () => told(await fetch(state, { credentials: "include" }))),
        blindly: await attempt(async () => (await fetch(state, { method: "POST", mode: "no-cors", body: "{}" })).type),
        image: await new Promise((done) => {
            const image = new Image();
            image.onload = () => done("loaded");
            image.onerror = () => done("refused");
            image.src = `${api}/docs`;
        }),
        socket: await socket(api),
    };
}"""


@contextlib.contextmanager
def a_site() -> Iterator[str]:
    """An empty page at an origin of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", "30")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>x</title>".ljust(30)[:30])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_pages_of_other_origins() -> None:
    """The one that is named writes, reads, sees errors and headers, and opens a socket; the other does none of it."""
    chromium = shutil.which("chromium")
    if chromium is None:
        loudly_skip("there is no chromium (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    samvad = open_samvad("memory://")
    with contextlib.ExitStack() as stack:
        named, other = stack.enter_context(a_site()), stack.enter_context(a_site())
        port = stack.enter_context(serving(app=create_app(samvad, origins=[named])))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        found = {}
        for site in (named, other):
            page = browser.new_page()
            page.goto(site)
            found[site] = page.evaluate(ASK, f"http://127.0.0.1:{port}")
        browser.close()
    assert found[named] == {
        "write": [200, '"0-1"', True],
        "match": [412, None, True],
        "read": 1,
        "missing": "not_found",
        "withCookies": "TypeError",
        "blindly": "TypeError",
        "image": "refused",
        "socket": "open",
    }
    assert found[other] == {
        "write": "TypeError",
        "match": "TypeError",
        "read": "TypeError",
        "missing": "TypeError",
        "withCookies": "TypeError",
        "blindly": "TypeError",
        "image": "refused",
        "socket": "refused",
    }
