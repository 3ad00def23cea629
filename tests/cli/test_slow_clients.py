"""The server's connections: who takes too long is let go, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from samvad.errors import SetupError
from samvad.http import server
from samvad.runtime import open_samvad

pytestmark = pytest.mark.anyio


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An application that reads a body and answers; its lifespan does nothing."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] == "http.request":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def running(app: Any = echo) -> AsyncIterator[tuple[str, int]]:
    """A server in this process, stopped by a signal at the end."""
    bound = server.bind("127.0.0.1", 0)
    address = bound.getsockname()
    ready = asyncio.Event()
    with bound:
        task = asyncio.create_task(server._serve(open_samvad("memory://"), app, bound, 2.0, ready.set))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if task.done():
            task.result()
        try:
            yield address
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await task


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_S_MAX", 0.1)
    monkeypatch.setattr(server, "REQUEST_S_MAX", 0.1)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nhost: ",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf",
    ],
    ids=["nothing", "half a head", "half a body"],
)
async def test_who_never_finishes_is_let_go(sent: bytes) -> None:
    """A connection that waits for the rest of a request is closed when its time is up."""
    async with running() as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(sent)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def test_a_stray_line_does_not_hold_a_connection() -> None:
    """Something that begins no request does not switch off the keep-alive time for good."""
    async with running() as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"ok")
        writer.write(b"\r\n")
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def test_an_idle_connection_is_kept_longer_than_a_request_may_take() -> None:
    """Between two requests only the keep-alive time counts."""
    async with running() as address:
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b"ok")
            late, late_writer = await asyncio.open_connection(*address)
            assert await late.read() == b""  # by now, who was silent for too long has been let go
            late_writer.close()
        writer.close()


async def test_an_application_that_does_not_start_is_told() -> None:
    """A lifespan that fails is an error of the setup."""

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(SetupError, match="could not start"):
        async with running(broken):
            pass


def test_localhost_is_the_loopback_of_ipv4() -> None:
    """What the ready line shows can be pasted anywhere."""
    with server.bind("localhost", 0) as bound:
        assert bound.family in (socket.AF_INET, socket.AF_INET6)
        assert server.url_of(bound).startswith(("http://127.0.0.1:", "http://[::1]:"))
    with server.bind("[::1]" if socket.has_ipv6 else "127.0.0.1", 0) as bound:
        assert server.url_of(bound).startswith("http://")
