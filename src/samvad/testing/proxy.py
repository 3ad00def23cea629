"""A TCP proxy that fails on purpose: between a store and its database, or a client and a server.

    async with FaultProxy("127.0.0.1", port) as proxy:
        store = FirestoreStore(project, emulator_host=proxy.address)
        proxy.fault = "hung"

It knows nothing of what it carries. Faults apply to the connections there are and to new ones:

- `None`: all bytes pass at once;
- `refused`: connections are reset, and new ones as soon as they come;
- `hung`: connections stay and new ones are taken, and not a byte passes, either way;
- `slow`: bytes pass after `delay_s`;
- `trickle`: answers pass one byte every `delay_s`;
- `reset`: each connection is reset in the middle of an answer, once some hundred bytes of answers have passed.

`cut_reply` and `cut_request` reset the connections in the middle of what is said next.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from typing import Final, Literal, Self

Fault = Literal["refused", "hung", "slow", "trickle", "reset"]
_CHUNK_BYTES: Final = 64 * 1024
_RESET_AFTER_BYTES_MAX: Final = (
    600  # of answers: a connection's first words are about 60 bytes, a commit's 150
)
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER with no time: closing sends RST


class _Link:
    """One connection through the proxy."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far
        self.reply_bytes_left: int | None = None  # until it is reset

    def reset(self) -> None:
        """Break it off, towards both sides."""
        for writer in (self.near, self.far):
            raw = writer.get_extra_info("socket")
            if raw is not None:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class FaultProxy:
    """A proxy before one address; an async context manager."""

    def __init__(self, host: str, port: int, *, delay_s: float = 0.05) -> None:
        self._host = host
        self._port = port
        self.delay_s = delay_s
        self.port = 0
        self._fault: Fault | None = None
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reply_bytes_left: int | None = None
        self._request_bytes_left: int | None = None
        self.connections = 0
        self.cuts = 0

    @property
    def address(self) -> str:
        """Where to connect: `host:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def fault(self) -> Fault | None:
        """What is wrong just now."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._fault = fault
        self._changed.set()
        self._changed = asyncio.Event()
        if fault == "refused":
            self._reset_all()

    def cut_reply(self, after_bytes: int = 0) -> None:
        """Reset every connection once so many more bytes have come back from the server; those pass."""
        self._reply_bytes_left = after_bytes

    def cut_request(self, after_bytes: int = 0) -> None:
        """Reset every connection once so many more bytes have gone to the server; those pass."""
        self._request_bytes_left = after_bytes

    @property
    def armed(self) -> bool:
        """Whether a cut is still to come."""
        return self._reply_bytes_left is not None or self._request_bytes_left is not None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._server is not None
        self._server.close()
        self._reset_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _reset_all(self) -> None:
        for link in list(self._links):
            link.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            await self._carry(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._fault == "refused":
            _Link(writer, writer).reset()
            return
        await self._until_not_hung()
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            _Link(writer, writer).reset()
            return
        link = _Link(writer, far_writer)
        self._links.add(link)
        ways = [
            asyncio.create_task(self._pass(reader, far_writer, link, reply=False)),
            asyncio.create_task(self._pass(far_reader, writer, link, reply=True)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._links.discard(link)
            link.near.close()
            link.far.close()

    async def _until_not_hung(self) -> None:
        while self._fault == "hung":
            await self._changed.wait()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link, *, reply: bool
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._until_not_hung()
                if self._fault == "slow":
                    await asyncio.sleep(self.delay_s)
                if self._fault == "trickle" and reply:
                    for at in range(len(data)):
                        if self._fault != "trickle":
                            writer.write(data[at:])
                            break
                        writer.write(data[at : at + 1])
                        await asyncio.sleep(self.delay_s)
                    continue
                if self._fault == "reset" and reply and self._is_reset(data, writer, link):
                    return
                if not self._is_cut(data, writer, link, reply):
                    writer.write(data)
                    await writer.drain()

    def _is_reset(self, data: bytes, writer: asyncio.StreamWriter, link: _Link) -> bool:
        """Let a part of an answer pass, and break the connection off once it has had its share."""
        if link.reply_bytes_left is None:
            link.reply_bytes_left = random.randrange(_RESET_AFTER_BYTES_MAX)
        if len(data) <= link.reply_bytes_left:
            link.reply_bytes_left -= len(data)
            return False
        writer.write(data[: link.reply_bytes_left])
        self.cuts += 1
        link.reset()
        return True

    def _is_cut(self, data: bytes, writer: asyncio.StreamWriter, link: _Link, reply: bool) -> bool:
        """Count what passes towards a cut that is to come; make it once it is there."""
        left = self._reply_bytes_left if reply else self._request_bytes_left
        if left is None:
            return False
        if len(data) <= left:
            left -= len(data)
            if reply:
                self._reply_bytes_left = left
            else:
                self._request_bytes_left = left
            return False
        writer.write(data[:left])
        self._reply_bytes_left = self._request_bytes_left = None
        self.cuts += 1
        self._reset_all()
        return True
