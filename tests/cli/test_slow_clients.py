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
from samvad.http import connections, server
from samvad.runtime import open_samvad
from tests.support import wait_until_async

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
    monkeypatch.setattr(connections, "HEAD_S_MAX", 0.1)
    monkeypatch.setattr(connections, "REQUEST_S_MAX", 0.1)
    monkeypatch.setattr(server, "_TICK_S", 0.02)


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


async def sized(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """As `echo`; of as many bytes as the path says, at once or, under /piece, in pieces."""
    if scope["type"] == "lifespan":
        await echo(scope, receive, send)
        return
    *_, kind, size = scope["path"].split("/")
    body, step = b"x" * int(size), 100_000 if kind == "pieces" else int(size)
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", size.encode())]}
    )
    for at in range(0, len(body), step):
        more = at + step < len(body)
        await send({"type": "http.response.body", "body": body[at : at + step], "more_body": more})


def with_small_buffer(address: tuple[str, int]) -> socket.socket:
    """A connection that takes little before it is read from."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(address)
    return client


kinds = pytest.mark.parametrize("kind", ["whole", "pieces"])


@kinds
async def test_who_takes_no_answer_is_let_go(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for them would stay in memory; a close alone would wait for them as well."""
    monkeypatch.setattr(connections, "UNREAD_S_MAX", 0.1)
    seen: set[connections.BoundedHttp] = set()
    look = connections.BoundedHttp.drop_if_unread

    def seen_and_looked_at(connection: connections.BoundedHttp, now_s: float) -> None:
        seen.add(connection)
        look(connection, now_s)

    async def is_dropped() -> bool:
        return bool(seen) and not any(each in each.connections for each in seen)

    monkeypatch.setattr(connections.BoundedHttp, "drop_if_unread", seen_and_looked_at)
    async with running(sized) as address:
        with with_small_buffer(address) as client:
            client.sendall(f"GET /{kind}/9000000 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            await wait_until_async(is_dropped, "the connection is dropped")


@kinds
async def test_who_takes_it_slowly_gets_all_of_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes, as long as something is taken: of what was sent to the end 64 KiB in each minute."""
    seen: set[connections.BoundedHttp] = set()
    look = connections.BoundedHttp.drop_if_unread
    monkeypatch.setattr(connections.BoundedHttp, "drop_if_unread", lambda self, now_s: seen.add(self))
    async with running(sized) as address:
        with with_small_buffer(address) as client:
            client.setblocking(False)
            loop, found, now_s = asyncio.get_running_loop(), 0, 1_000.0
            client.send(f"GET /{kind}/9000000 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())

            async def is_looked_at() -> bool:
                return bool(seen)

            await wait_until_async(is_looked_at, "the connection is looked at")
            (connection,) = seen
            before, least = 0, connections.TAKEN_BYTES_MIN if kind == "whole" else 1
            while piece := await loop.sock_recv(client, 1 << 20):
                found += len(piece)
                left = connection.transport.get_write_buffer_size()
                if not before or abs(before - left) >= least:
                    look(connection, now_s)
                    now_s, before = now_s + connections.UNREAD_S_MAX + 1, left
    assert found > 9_000_000


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"], ids=["alone", "second"])
async def test_a_body_that_is_none_is_told(first: bytes) -> None:
    """Its request has no answer yet: this is it."""
    async with running() as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(first)
        if first:
            assert b"200 OK" in await reader.readuntil(b"ok")
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nno size\r\n")
        async with asyncio.timeout(20):
            assert (await reader.read()).startswith(b"HTTP/1.1 400 Bad Request")
        writer.close()


@pytest.mark.parametrize(
    "upgrade", [b"", b"connection: upgrade\r\nupgrade: h2c\r\n"], ids=["plain", "upgrade"]
)
async def test_what_follows_a_body_is_no_header(upgrade: bytes) -> None:
    """Fields behind a body (trailers) are neither taken for the request's own nor held: whoever may send a body could
    add to what was judged before, and fill the memory with a few MiB.
    """
    seen: list[list[tuple[bytes, bytes]]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await echo(scope, receive, send)
        if scope["type"] == "http":
            seen.append(list(scope["headers"]))

    async with running(app) as address:
        reader, writer = await asyncio.open_connection(*address)
        head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n" + upgrade + b"\r\n"
        writer.write(head + b"2\r\nhi\r\n0\r\n" + b"idempotency-key: x\r\n" + b"a:\r\n" * 20_000 + b"\r\n")
        async with asyncio.timeout(20):
            assert b"200 OK" in await reader.readuntil(b"ok")
        writer.close()
    assert [name for name, _ in seen[0]] == [
        line.partition(b":")[0] for line in head.split(b"\r\n")[1:] if line
    ]


async def test_the_log_is_not_filled_by_what_is_no_request(caplog: pytest.LogCaptureFixture) -> None:
    """Of the same warning about a connection a line is written once in a while, however often it is caused."""
    async with running() as address:
        for _ in range(5):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"what is this\r\n\r\n")
            async with asyncio.timeout(20):
                assert (await reader.read()).startswith(b"HTTP/1.1 400 Bad Request")
            writer.close()
    assert caplog.text.count("Invalid HTTP request") == 1


async def test_nothing_is_written_into_an_answer() -> None:
    """What is no request, behind one whose answer is under way, ends the connection without a word."""
    begun = asyncio.Event()

    async def slow(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await echo(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"90")]})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass

    async with running(slow) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await begun.wait()
        writer.write(b"what is this\r\n\r\n")
        async with asyncio.timeout(20):
            assert (await reader.read()).endswith(b"\r\n\r\nbegun")
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
