"""Live conversations for tests: in process over a scripted provider, and real clients of a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection

from samvad import Samvad, open_samvad
from samvad.live.connection import Connection
from samvad.live.parts import LiveOptions
from samvad.live.providers.base import Provider
from samvad.live.service import LiveService
from samvad.live.tools import ToolRegistry

WAIT_S = 20.0
START = {"type": "start_session", "userId": "user_456", "sessionId": "session_123"}

LOANS = """# Home loans

For a home loan you need an identity card. You also need proof of income for the last six months. The interest rate is
8.5 percent a year, and it is fixed for five years. A home loan runs for up to thirty years. You may pay it back
earlier without a fee. The bank answers within ten working days, and pays out a week after you have signed.

# होम लोन

होम लोन के लिए पहचान पत्र चाहिए। पिछले छह महीनों की आय का प्रमाण भी चाहिए। ब्याज दर साढ़े आठ प्रतिशत सालाना है। लोन तीस साल तक का
हो सकता है।
"""


class Pipe:
    """The two ends of a connection in process: frames that the client sends, and those that it was sent."""

    def __init__(self) -> None:
        self.inbound: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self.frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.audio_bytes = 0
        self.closed: tuple[int, str] | None = None
        self.aborted = False
        self.readable = asyncio.Event()
        self.readable.set()

    def write(self, data: bytes, audio: bool) -> bool:
        if not self.readable.is_set():
            return False
        if audio:
            self.audio_bytes += len(data)
        else:
            self.frames.put_nowait(json.loads(data))
        return True

    async def send_text(self, data: bytes) -> None:
        await self.readable.wait()
        self.frames.put_nowait(json.loads(data))

    async def send_audio(self, data: bytes) -> None:
        await self.readable.wait()
        self.audio_bytes += len(data)

    async def close(self, code: int, reason: str) -> None:
        await self.readable.wait()
        self.closed = (code, reason)

    def abort(self) -> None:
        self.aborted = True
        self.readable.set()


class Client:
    """A client in process. `seen` are all frames so far."""

    def __init__(self, live: LiveService) -> None:
        self.pipe = Pipe()
        self.seen: list[dict[str, Any]] = []
        self.connection = Connection(live, live.samvad, self.pipe)
        live.admit(self.connection)
        self._live = live
        self.task = asyncio.create_task(self.connection.run(self.pipe.inbound.get))

    def send(self, frame: dict[str, Any] | str | bytes) -> None:
        """Send a frame."""
        self.pipe.inbound.put_nowait(json.dumps(frame) if isinstance(frame, dict) else frame)

    def say(self, text: str, **more: Any) -> None:
        """Write something."""
        self.send({"type": "user_text", "text": text, **more})

    async def next(self, kind: str) -> dict[str, Any]:
        """The next frame of a type; what comes before it is kept in `seen`."""
        while True:
            frame = await asyncio.wait_for(self.pipe.frames.get(), WAIT_S)
            self.seen.append(frame)
            if frame["type"] == kind:
                return frame

    async def start(self, **more: Any) -> dict[str, Any]:
        """Start the session; its first frame."""
        self.send({**START, **more})
        started = await self.next("session_started")
        await self.next("session_ready")
        return started

    async def leave(self) -> None:
        """The line drops."""
        self.pipe.inbound.put_nowait(None)
        await asyncio.wait_for(self.task, WAIT_S)
        self._live.dismiss(self.connection)

    def text_of(self, turn_id: str) -> str:
        """The text that was sent of a turn."""
        return "".join(
            frame["text"]
            for frame in self.seen
            if frame["type"] == "text_chunk" and frame["turnId"] == turn_id
        )


@contextlib.asynccontextmanager
async def talking(
    provider: Provider,
    *,
    url: str = "memory://",
    tools: ToolRegistry | None = None,
    directory: Path | None = None,
    samvad_options: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[LiveService, Samvad]]:
    """A service with live conversations, answered by a provider."""
    async with open_samvad(url, **(samvad_options or {})) as samvad:
        yield (
            LiveService(
                samvad,
                lambda name: provider,
                provider=provider.name,
                options=LiveOptions(**options),
                tools=tools,
                directory=directory,
            ),
            samvad,
        )


class Line:
    """A real client on a real socket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []
        self.audio_bytes = 0

    async def send(self, frame: dict[str, Any]) -> None:
        """Send a frame."""
        await self.socket.send(json.dumps(frame))

    async def next(self, kind: str | Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next frame of a type, or of which something is true."""
        while True:
            data = await asyncio.wait_for(self.socket.recv(), WAIT_S)
            if isinstance(data, bytes):
                self.audio_bytes += len(data)
                continue
            frame = json.loads(data)
            self.seen.append(frame)
            if frame["type"] == kind if isinstance(kind, str) else kind(frame):
                return frame

    async def start(self, **more: Any) -> dict[str, Any]:
        """Start the session; its first frame."""
        await self.send({**START, **more})
        started = await self.next("session_started")
        await self.next("session_ready")
        return started


@contextlib.asynccontextmanager
async def dialled(url: str, **more: Any) -> AsyncIterator[Line]:
    """A connection to the live socket of the server at `url`."""
    address = url.replace("http", "ws", 1) + "/api/live"
    async with websockets.connect(address, subprotocols=["samvad.v1"], **more) as socket:
        yield Line(socket)
