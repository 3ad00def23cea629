"""Security headers: on every answer of every route, on what goes wrong, and on what the application never sees."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from samvad.http.app import routes
from samvad.http.connections import BoundedHttp
from tests.auth.test_access_matrix import OF_ASHA, ROUTES, request
from tests.auth.test_leases import Stream
from tests.auth.world import ALL, ASHA, Socket, bearing, world
from tests.cli.processes import WAIT_S, Server
from tests.http.support import serving

EVERYWHERE = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
DATA = {**EVERYWHERE, "content-security-policy": "default-src 'none'; frame-ancestors 'none'"}
PAGES = {"docs": None, "talk": "microphone"}  # and the device that it uses
NO_CORS = "access-control-"


def directives(policy: str) -> dict[str, str]:
    """A policy, taken apart; fails where a directive stands there twice, which browsers ignore."""
    found = [part.strip().partition(" ")[::2] for part in policy.split(";")]
    assert len(dict(found)) == len(found), policy
    return dict(found)


def check(name: str, status: int, headers: dict[str, str]) -> None:
    """Fail unless these are the headers of an answer of this route."""
    where = (name, status, headers)
    page = name in PAGES and status == 200
    for header, value in (EVERYWHERE if page else DATA).items():
        assert headers.get(header) == value, where
    assert not [header for header in headers if header.startswith(NO_CORS)], where
    assert "server" not in headers and "x-powered-by" not in headers, where
    if not page:
        assert "html" not in headers.get("content-type", ""), where
        return
    policy = directives(headers["content-security-policy"])
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'", where
    assert policy["frame-ancestors"] == "'none'" and headers["x-frame-options"] == "DENY", where
    assert policy["connect-src"] == "'self'" and policy["img-src"] == "data:", where
    for source in (policy["script-src"], policy["style-src"]):
        assert source == "'self'" or re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", source), where
    assert headers["cross-origin-opener-policy"] == "same-origin", where
    allowed = dict(each.split("=") for each in headers["permissions-policy"].split(", "))
    assert {device for device, who in allowed.items() if who == "(self)"} == {PAGES[name]} - {None}, where
    assert {"camera", "microphone", "geolocation"} <= allowed.keys()
    assert set(allowed.values()) <= {"()", "(self)"}, where


@pytest.mark.anyio
async def test_every_answer_of_every_route() -> None:
    """Those that are let in, refused, unknown or wrong: with every method, whatever the status."""
    seen: set[tuple[str, int]] = set()
    async with world() as here:
        key = here.key(*ALL, "admin")
        await here.auth.refresh()
        for route in ROUTES:
            for token in (key, here.token(ASHA), "x", None):
                for method in (route.method, "HEAD", "OPTIONS", "TRACE"):
                    answer = await request(here, route, OF_ASHA, token, method)
                    check(route.name, answer.status, answer.headers)
                    seen.add((route.name, answer.status))
        for path in ("/", "/nope", "/docs/", "/talk/nope.js", "/talk/..%2Fapp.py", "/api/session/%ff/state"):
            answer = await here.api.get(path, headers=bearing(key))
            assert answer.status in (400, 404)
            check("none", answer.status, answer.headers)
        stream = Stream(here, here.token(ASHA))
        start = await stream.sent.get()
        check("liveEvents", start["status"], _named(start["headers"]))
        assert _named(start["headers"])["x-request-id"]
        stream.gone.set()
        await stream.task
        refused = Socket(here, None)
        start = await refused.next()
        check("live", start["status"], _named(start["headers"]))
        assert start["status"] == 401
    assert {name for name, _ in seen} == {route.name for route in routes()} - {"liveEvents"}
    assert {200, 401, 405} <= {status for _, status in seen}


def _named(headers: Any) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


def exchanged(address: tuple[str, int], sent: bytes) -> tuple[dict[str, str], bytes]:
    """The headers (the first line under no name) and the body that answer these bytes."""
    with socket.create_connection(address, timeout=WAIT_S) as connection:
        connection.sendall(sent)
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return {"": first, **dict(line.split(": ", 1) for line in lines)}, body


def test_what_the_application_never_sees(tmp_path: Path) -> None:
    """Bytes that are no HTTP are answered by the server, like everything else; see also tests/cli/test_serve.py."""
    with Server(tmp_path, "--store", "memory://") as server:
        headers, body = exchanged(server.address, b"\x16\x03\x01\x02\x00\r\n\r\n")
    assert headers[""] == "HTTP/1.1 400 Bad Request" and b'"code":"invalid_request"' in body
    check("none", 400, headers)


def test_what_a_full_server_answers() -> None:
    """One connection too many: a problem document with Retry-After."""
    with serving(http=BoundedHttp, limit_concurrency=1, server_header=False) as port:
        headers, body = exchanged(("127.0.0.1", port), b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert headers[""].startswith("HTTP/1.1 503 ") and b'"code":"overloaded"' in body
    assert int(headers["retry-after"]) > 0
    check("none", 503, headers)
