"""Answers that are written in one piece are those that uvicorn would have written."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from samvad import open_samvad
from samvad.http.app import create_app
from samvad.http.connections import BoundedHttp

pytestmark = pytest.mark.anyio
HOST = b"host: 127.0.0.1\r\n"


@contextlib.asynccontextmanager
async def listening(app: Any) -> AsyncIterator[int]:
    """The port of a server with our connections."""
    config = uvicorn.Config(app, http=BoundedHttp, port=0, lifespan="off", log_config=None, access_log=False)
    config.load()
    state = uvicorn.server.ServerState()
    state.default_headers = [(b"date", b"Fri, 10 Jan 2025 17:00:00 GMT")]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: BoundedHttp(config, state, {}), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[int]:
    """The port of a server of the service, in which `asha` has a state and a long message."""
    async with open_samvad("memory://") as samvad:
        await samvad.save_user_state("asha", {"language": "en"})
        for _ in range(100):
            await samvad.append_to_user_history("asha", "user", "x" * 20_000)
        async with listening(create_app(samvad)) as port:
            yield port


async def asked(port: int, sent: bytes) -> bytes:
    """All that comes back until the server closes, or for as long as our side is open: so say `close` in the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    found = await reader.read(-1)
    writer.close()
    return found


def answers(raw: bytes, methods: str) -> list[tuple[bytes, list[bytes], bytes]]:
    """Status line, header lines and body of each answer; nothing may be left over."""
    found = []
    for method in methods.split():
        head, _, raw = raw.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        length = next((int(line[16:]) for line in lines if line.startswith(b"content-length: ")), 0)
        body, raw = (b"", raw) if method == "HEAD" else (raw[:length], raw[length:])
        found.append((status, lines, body))
    assert raw == b""
    return found


def request(method: str, path: str, *headers: str) -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\n".encode()
        + HOST
        + "".join(f"{h}\r\n" for h in headers).encode()
        + b"\r\n"
    )


async def test_pipelined_answers_come_whole_and_in_order() -> None:
    """Small, large, without a body, refused, and the last one, after which the server closes."""
    profile, state = "/api/session/asha/profile", "/api/session/asha/state"
    async with served() as port:
        sent = [
            request("GET", state),
            request("GET", profile),
            request("HEAD", state),
            request("GET", state, "If-None-Match: *"),
            request("GET", "/api/session/nobody/state"),
            request("GET", state, "Connection: close"),
        ]
        raw = await asked(port, b"".join(sent))
    found = answers(raw, "GET GET HEAD GET GET GET")
    assert [status.split()[1] for status, _, _ in found] == [b"200", b"200", b"200", b"304", b"404", b"200"]
    assert json.loads(found[0][2])["state"]["language"] == "en"
    assert len(json.loads(found[1][2])["profile"]["conversationHistory"]) == 100
    assert found[2][2] == found[3][2] == b""
    assert b"connection: close" in found[5][1]
    assert not any(b"connection: close" in lines for _, lines, _ in found[:5])


async def test_they_are_what_uvicorn_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte, but for the request's id."""
    sent = request("GET", "/api/session/asha/state") + request("POST", "/nowhere", "Connection: close")
    async with served() as port:
        ours = await asked(port, sent)
        monkeypatch.setattr(
            BoundedHttp,
            "_start_asgi_task",
            uvicorn.protocols.http.httptools_impl.HttpToolsProtocol._start_asgi_task,
        )
        theirs = await asked(port, sent)

    def without_ids(raw: bytes) -> list[Any]:
        found = []
        for status, lines, body in answers(raw, "GET POST"):
            said = {k: v for k, v in json.loads(body).items() if k != "requestId"}
            found.append((status, [line for line in lines if not line.startswith(b"x-request-id")], said))
        return found

    assert without_ids(ours) == without_ids(theirs)


async def test_a_slow_reader_gets_every_byte() -> None:
    """Ten answers of 2 MB, more than a connection's buffers take."""
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(request("GET", "/api/session/asha/profile") * 9)
        writer.write(request("GET", "/api/session/asha/profile", "Connection: close"))
        raw = bytearray()
        while piece := await reader.read(64 * 1024):
            raw += piece
        writer.close()
    found = answers(bytes(raw), "GET " * 10)
    assert len({body for _, _, body in found}) == 1


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0b"])
async def test_no_value_begins_a_line_of_its_own(value: bytes) -> None:
    """A header that would be two is refused as a whole."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = ((b"content-length", b"2"), (b"x-told", value))
        await send({"type": "samvad.response", "status": 200, "headers": headers, "body": b"ok"})

    async with listening(app) as port:
        raw = await asked(port, request("GET", "/"))
    assert raw == b"", "uvicorn writes nothing of it"


async def test_the_application_may_close() -> None:
    """`Connection: close` among the headers closes, as with uvicorn."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = ((b"content-length", b"2"), (b"connection", b"close"))
        await send({"type": "samvad.response", "status": 200, "headers": headers, "body": b"ok"})

    async with listening(app) as port:
        raw = await asked(port, request("GET", "/"))
    assert raw.endswith(b"\r\n\r\nok") and raw.count(b"connection: close") == 1
