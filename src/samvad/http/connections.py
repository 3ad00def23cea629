"""uvicorn's connections, with the bounds that it leaves open.

Its httptools parser bounds neither the size of a request's head nor the time that a client takes for it, and nobody
minds a client that takes no answer.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from samvad import limits
from samvad.errors import InvalidRequest, Overloaded, SamvadError, TooLarge
from samvad.http.problems import problem_reply
from samvad.http.whole_answers import EXTENSIONS, WholeAnswers

HEAD_BYTES_MAX: Final = 64 * 1024  # request line and headers; checked as pieces of up to 256 KiB arrive
REQUEST_BYTES_MAX: Final = (
    limits.PDF_BODY_BYTES_MAX + limits.BODY_BYTES_MAX
)  # the whole request, framing included
HEAD_S_MAX: Final = 20.0  # from the connection or the first byte of a request to the end of its head
REQUEST_S_MAX: Final = 120.0  # from the first byte of a request to the last of its body
UNREAD_S_MAX: Final = 60.0  # in which a client takes something of an answer, and once all was sent, so much:
TAKEN_BYTES_MIN: Final = 64 * 1024


class _HeadTooLarge(TooLarge):
    """The head of the request is too large."""

    status = 431
    title = "Request header fields too large"


async def _busy(scope: Any, receive: Any, send: Any) -> None:
    """Answers where there are too many connections already."""
    reply = problem_reply(Overloaded("Too many connections; try again soon."), "")
    headers = [*reply.described(), *reply.security, *reply.headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


class _Ended(list[tuple[bytes, bytes]]):
    """The fields of a head that is complete: trailers are not added (RFC 9110, section 6.5.1).

    uvicorn would add them to the fields that the application is looking at, and hold as many as a body has bytes for.
    """

    def append(self, field: tuple[bytes, bytes]) -> None:
        """Leave it out."""


_NO_FIELDS: Final = _Ended()


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP connection, with a bound on the bytes and the time of a request."""

    started_s: float = 0.0  # when the request began, or before any the connection; 0.0 while idle between two
    _bytes = 0
    _in_head = True
    _unread: tuple[int, float, object] = (0, 0.0, None)  # see `drop_if_unread`

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The time for the first request begins."""
        self.started_s = self.loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived, as far as it may."""
        # Judged after parsing: a small head and a part of its body may arrive in one piece.
        self._bytes += len(data)
        super().data_received(data)
        if self._bytes > HEAD_BYTES_MAX and (self._in_head or self._bytes > REQUEST_BYTES_MAX):
            self._refuse()

    def on_message_begin(self) -> None:
        """A request begins, and its time."""
        self._bytes = 0
        self._in_head = True
        self.started_s = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is there: it goes to the application, or is told that there are too many."""
        self._in_head = False
        most, self.limit_concurrency = (
            self.config.limit_concurrency,
            None,
        )  # uvicorn would say it in plain text
        crowded = most is not None and max(len(self.connections), len(self.tasks)) >= most
        self.app = _busy if crowded else self.config.loaded_app
        super().on_headers_complete()
        # The application has its list. uvicorn looks into it once more where another protocol is asked for: nothing
        # that follows such a head is parsed.
        if not self.parser.should_upgrade():
            self.headers = _NO_FIELDS

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.__class__ = WholeAnswers  # uvicorn makes it, and has no word for another
        cycle.scope["extensions"] = EXTENSIONS
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        """The request is there; until the next one begins, no time runs."""
        self._bytes = 0
        self.started_s = 0.0
        self._in_head = True
        super().on_message_complete()

    def close_if_late(self, now_s: float) -> None:
        """Close the connection if its client takes too long for a request."""
        if not self.started_s:
            if self.timeout_keep_alive_task is None and self._answered:
                self.started_s = (
                    now_s  # an idle client sent something that is no request: uvicorn's timer is off
                )
        elif now_s - self.started_s > (HEAD_S_MAX if self._in_head else REQUEST_S_MAX):
            self.transport.close()

    def drop_if_unread(self, now_s: float) -> None:
        """Drop the connection if its client does not take its answers, which wait in memory.

        Closing it would wait for the client, too.
        """
        left = self.transport.get_write_buffer_size()
        before, since_s, cycle = self._unread
        sending = not self._answered
        if not left or not before or cycle is not self.cycle or (sending and left != before):
            self._unread = (left, now_s, self.cycle)
        elif now_s - since_s > UNREAD_S_MAX:
            if sending or before - left < TAKEN_BYTES_MIN:
                self.transport.abort()
            self._unread = (left, now_s, self.cycle)

    @property
    def _answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self) -> None:
        if self.transport.is_closing():
            return
        if self._in_head and self._answered:
            self._say(_HeadTooLarge())
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser cannot read; but into another answer that is under way nothing is written."""
        alone = not self._in_head and not self.pipeline  # it stands in the body of the one request there is
        if self._answered or (alone and not self.cycle.response_started):
            self._say(InvalidRequest("The request is not valid HTTP."))
        self.transport.close()

    def _say(self, error: SamvadError) -> None:
        """Answer without the application, to which nothing of this request has come."""
        reply = problem_reply(error, "")
        lines = [b"%b: %b\r\n" % each for each in (*reply.described(), *reply.security)]
        head = b"HTTP/1.1 %d %b\r\n" % (error.status, HTTPStatus(error.status).phrase.encode())
        self.transport.write(b"".join((head, *lines, b"connection: close\r\n\r\n", reply.body)))


class LiveSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket connection, with two things that ASGI has no word for.

    The application can drop it at once: a client that reads nothing never takes a close frame, and what waits for it
    would stay in memory. And it can hand over a frame at once where the network takes it, which costs a fifth of a
    `websocket.send`: that goes through a coroutine, text that is decoded and encoded again, and frames in general.
    """

    def handle_connect(self, event: Any) -> None:
        """Hand both things to the application, once the handshake is known to be good."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["samvad.abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]
            self.scope["samvad.write"] = self.write_frame  # type: ignore[typeddict-unknown-key]

    def write_frame(self, data: bytes, binary: bool) -> bool:
        """Write a frame of its own (RFC 6455, section 5.2: final, no mask); False where it has to wait."""
        size = len(data)
        if (
            not self.writable.is_set()
            or size >= 1 << 16
            or self.disconnected
            or not self.handshake_complete
            or self.close_sent
            or self.conn.state is not State.OPEN
            or self.conn.extensions
        ):
            return False
        opcode = 0x82 if binary else 0x81
        head = bytes((opcode, size)) if size < 126 else bytes((opcode, 126, size >> 8, size & 255))
        self.transport.write(head + data)
        return True

    async def send(self, message: Any) -> None:
        """Take what the application says; a handshake that it has refused is complete, and no error of its own."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True

    def keepalive_timeout(self) -> None:
        """A client that answers no ping would answer no close either."""
        super().keepalive_timeout()
        self.transport.abort()
