"""GET /api/live: the WebSocket of live conversations, from ASGI to `samvad.live` and back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from samvad.errors import NotFound, SamvadError, TooManyRequests
from samvad.http.problems import problem_reply

if TYPE_CHECKING:
    from samvad.auth.authenticator import Authenticator, Identity
    from samvad.live.noting import Tell
    from samvad.live.service import LiveService
    from samvad.sessions.service import SessionPersistenceService

PATH: Final = b"/api/live"
SUBPROTOCOL: Final = "samvad.v1"

Limit = Callable[[int, int], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class _Socket:
    """The wire under a `Connection`."""

    def __init__(self, scope: dict[str, Any], receive: Receive, send: Send, limit: Limit | None) -> None:
        self._limit = limit
        self._told_s = float("-inf")
        self._receive = receive
        self._send = send
        self._abort: Callable[[], None] = scope.get("samvad.abort", lambda: None)
        self._write: Callable[[bytes, bool], bool] = scope.get("samvad.write", lambda data, audio: False)

    def write(self, data: bytes, audio: bool) -> bool:
        return self._write(data, audio)

    async def send_text(self, data: bytes) -> None:
        await self._send({"type": "websocket.send", "text": data.decode()})

    async def send_audio(self, data: bytes) -> None:
        await self._send({"type": "websocket.send", "bytes": data})

    async def close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    def abort(self) -> None:
        self._abort()

    async def receive(self) -> str | bytes | None:
        """The next frame that is let in; None once the client is gone."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return None
            text: str | None = message.get("text")
            frame = text if text is not None else message.get("bytes") or b""
            if self._limit is None:
                return frame
            try:
                if text is None:
                    await self._limit(0, len(frame))  # of audio, the bytes alone count
                else:
                    await self._limit(1, len(text) if text.isascii() else len(text.encode()))
            except TooManyRequests as error:
                await self._tell(error)
            else:
                return frame

    async def _tell(self, error: TooManyRequests) -> None:
        """Say that frames are dropped; once a second, however many they are."""
        from samvad.live import frames

        now_s = asyncio.get_running_loop().time()
        if now_s - self._told_s >= 1.0:
            self._told_s = now_s
            text = f"{error.message} Try again in {error.retry_after_s} s."
            frame = frames.ErrorFrame(code=error.code, message=text, retryable=True)
            await self.send_text(frames.encode(frame))


async def serve_socket(
    scope: dict[str, Any],
    receive: Receive,
    send: Send,
    live: LiveService,
    service: SessionPersistenceService,
    access: tuple[Authenticator, Identity],
    limit: Limit | None = None,
    tell: Tell | None = None,
) -> int:
    """Talk with one client, for as long as its credential holds; the status of the handshake.

    `tell` hears what an audit log wants. A client that does not offer the subprotocol is talked with all the same.
    """
    from samvad.live.connection import Connection

    await receive()  # websocket.connect
    socket = _Socket(scope, receive, send, limit)
    connection = Connection(live, service, socket, access)
    connection.notes.tell = tell
    try:
        live.admit(connection)
    except SamvadError as error:
        await refuse_socket(scope, send, error)
        return error.status
    try:
        offered = scope.get("subprotocols") or ()
        await send(
            {"type": "websocket.accept", "subprotocol": SUBPROTOCOL if SUBPROTOCOL in offered else None}
        )
        await connection.run(socket.receive)
    finally:
        live.dismiss(connection)
    return 101


async def refuse_socket(
    scope: dict[str, Any], send: Send, error: SamvadError | None = None, request_id: str = ""
) -> None:
    """Answer a handshake with a problem document, where the server can, else with 403."""
    reply = problem_reply(
        error or NotFound("There is no socket here; live conversations are at /api/live."), request_id
    )
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    headers = [(b"content-type", reply.media_type), *reply.security, *reply.headers]
    if request_id:
        headers.append((b"x-request-id", request_id.encode()))
    await send({"type": "websocket.http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": reply.body, "more_body": False})
