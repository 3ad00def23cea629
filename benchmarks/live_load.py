"""What a server of live conversations is loaded with: a chat endpoint that keeps time, and WebSockets that look at it.

Both run in one process, so that a chunk's age is told by one clock: its text is the moment at which it was sent. Both
are plain protocols of asyncio, as light as can be: what is measured is the server between them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from typing import Any
from urllib.parse import urlsplit

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LATE_S = 0.02
"""An endpoint that sends later than this after its time is itself too slow: it is told in the report."""


def _piece(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "clockwork"}
    return b"data: %b\n\n" % json.dumps({**head, "choices": [choice]}).encode()


BEFORE, AFTER = _piece({"content": "@"}).split(b"@")
END = _piece({}, "stop") + b"data: [DONE]\n\n"


class Endpoint(asyncio.Protocol):
    """One connection of the chat endpoint: each request is answered with chunks at a steady pace."""

    def __init__(self, clock: Clockwork) -> None:
        self._clock = clock
        self._read = b""
        self._transport: Any = None
        self._left = 0
        self._due_s = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, body = self._read.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(
            int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        if len(body) < length:
            return
        self._read = b""
        self._transport.write(HEAD)
        self._left = self._clock.chunks
        self._due_s = self._clock.loop.time() + self._clock.pause_s
        self._clock.loop.call_at(self._due_s, self._next)

    def _next(self) -> None:
        clock = self._clock
        if self._transport.is_closing():
            return
        clock.late += clock.loop.time() - self._due_s > LATE_S
        # As many digits as a token has letters.
        data = b"%b%.6f %b" % (BEFORE, time.perf_counter(), AFTER)
        self._left -= 1
        if self._left:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            self._due_s += clock.pause_s
            clock.loop.call_at(self._due_s, self._next)
        else:
            data += END
            self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))


class Clockwork:
    """The endpoint: `chunks` of them to an answer, one every `pause_s` seconds, the first after as long."""

    def __init__(self, chunks: int, pause_s: float) -> None:
        self.chunks, self.pause_s = chunks, pause_s
        self.loop = asyncio.get_running_loop()
        self.late = 0
        self.url = ""

    async def start(self) -> None:
        """Listen."""
        server = await self.loop.create_server(lambda: Endpoint(self), "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


class Socket(asyncio.Protocol):
    """A WebSocket that sends frames and notes how old each chunk is (RFC 6455; no fragments, as none are sent)."""

    def __init__(self) -> None:
        self.ages_s: list[float] = []
        self.first_s = 0.0  # when the first chunk of the last turn came
        self._read = bytearray()
        self._open = False
        self._transport: Any = None
        self._waited: asyncio.Future[None] | None = None
        self._for = ""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._waited is not None and not self._waited.done():
            self._waited.set_exception(ConnectionError("the server has closed the connection"))

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        read = self._read
        read += data
        if not self._open:
            end = read.find(b"\r\n\r\n")
            if end < 0:
                return
            if not read.startswith(b"HTTP/1.1 101"):
                raise ConnectionError(read[:end].decode())
            del read[: end + 4]
            self._open = True
            self._done("open")
        at = 0
        while len(read) - at >= 2:
            size, start = read[at + 1] & 127, at + 2
            if size == 126:
                if len(read) - at < 4:
                    break
                size, start = int.from_bytes(read[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                if len(read) - at < 10:
                    break
                size, start = int.from_bytes(read[at + 2 : at + 10], "big"), at + 10
            if len(read) < start + size:
                break
            if read[at] & 15 == 9:  # a ping wants a pong
                self._frame(10, bytes(read[start : start + size]))
            else:
                self._take(bytes(read[start : start + size]), now_s)
            at = start + size
        del read[:at]

    def _take(self, data: bytes, now_s: float) -> None:
        frame = json.loads(data)
        if frame["type"] == "text_chunk":
            if not self.first_s:
                self.first_s = now_s
            # A slow server may put several into one; the oldest tells how long it took.
            self.ages_s += [now_s - float(sent_s) for sent_s in frame["text"].split()]
        elif frame["type"] == "error":
            raise ConnectionError(data.decode())
        else:
            self._done(frame["type"])

    def _done(self, what: str) -> None:
        if what == self._for and self._waited is not None and not self._waited.done():
            self._waited.set_result(None)

    async def until(self, what: str) -> None:
        """Wait for a frame of this type."""
        self._waited, self._for = asyncio.get_running_loop().create_future(), what
        await self._waited

    def _frame(self, opcode: int, data: bytes) -> None:
        size = bytes([128 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
        self._transport.write(bytes([128 | opcode]) + size + b"\0\0\0\0" + data)  # a mask of zeros is a mask

    async def ask(self, wait_for: str, **frame: Any) -> None:
        """Send a frame and wait for one of that type."""
        self.first_s = 0.0
        self._frame(1, json.dumps(frame).encode())
        await self.until(wait_for)

    async def start(self, name: str) -> None:
        """Shake hands and start a session."""
        key = base64.b64encode(os.urandom(16))
        self._transport.write(
            b"GET /api/live HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: %b\r\n\r\n" % key
        )
        await self.until("open")
        await self.ask("session_ready", type="start_session", userId=name, sessionId=f"s-{name}")

    def close(self) -> None:
        """Hang up."""
        self._transport.abort()


async def dial(url: str, name: str) -> Socket:
    """A conversation with the server at `url`."""
    where = urlsplit(url)
    _, socket = await asyncio.get_running_loop().create_connection(Socket, where.hostname, where.port)
    await socket.start(name)
    return socket


async def crowd(url: str, count: int) -> list[float]:
    """So many conversations, begun within a second, a turn each; the ages of all chunks in seconds."""
    sockets = [await dial(url, f"u{number}") for number in range(count)]

    async def one(number: int, socket: Socket) -> None:
        await asyncio.sleep(number / count)  # people do not all begin in the same instant
        await socket.ask("turn_complete", type="user_text", text="Tell me.")

    await asyncio.gather(*[one(number, socket) for number, socket in enumerate(sockets)])
    for socket in sockets:
        socket.close()
    return [age_s for socket in sockets for age_s in socket.ages_s]


async def firsts(urls: list[str], turns: int) -> list[list[float]]:
    """Seconds from the user's frame to the first chunk, of each server, asked in turns."""
    sockets = [await dial(url, "u") for url in urls]
    took: list[list[float]] = [[] for _ in urls]
    for _ in range(turns):
        for socket, each in zip(sockets, took, strict=True):
            began_s = time.perf_counter()
            await socket.ask("turn_complete", type="user_text", text="Tell me.")
            each.append(socket.first_s - began_s)
    for socket in sockets:
        socket.close()
    return took
