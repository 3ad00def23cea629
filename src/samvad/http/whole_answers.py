"""An answer written in one piece: an extension of ASGI, for an application whose answers are whole when it sends them.

uvicorn takes an answer as two messages, and looks through each header with two regular expressions: a seventh of what a
small request costs. `{"type": "samvad.response", "status", "headers", "body"}` is written at once. It must hold a
`content-length`, unless its status has no body. Where the connection is not as usual (it ends with this answer, the
client reads too slowly, HEAD), it goes uvicorn's way.
"""

from __future__ import annotations

from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from samvad.http.call import WHOLE_ANSWER

EXTENSIONS: Final[dict[str, dict[object, object]]] = {WHOLE_ANSWER: {}}
_COPIED_BYTES_MAX: Final = 32 * 1024  # more is written beside its head, not behind it


class WholeAnswers(RequestResponseCycle):
    """uvicorn's side of one request, which takes whole answers as well."""

    async def send(self, message: Any) -> None:
        """Send one of uvicorn's messages, or a whole answer."""
        if message["type"] != WHOLE_ANSWER:
            await super().send(message)
            return
        status, headers, body = message["status"], message["headers"], message["body"]
        head = None
        if (
            self.keep_alive
            and not self.flow.write_paused
            and not self.disconnected
            and not self.response_started
            and self.scope["method"] != "HEAD"
        ):
            head = _head(status, self.default_headers, headers)
        if head is None:
            await super().send({"type": "http.response.start", "status": status, "headers": headers})
            await super().send({"type": "http.response.body", "body": body, "more_body": False})
            return
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        if len(body) <= _COPIED_BYTES_MAX:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)
        self.message_event.set()
        self.on_response()


def _head(status: int, first: list[tuple[bytes, bytes]], headers: Any) -> bytes | None:
    """Status line and headers; None for what is not to be written without a closer look."""
    parts = [STATUS_LINE[status]]
    for name, value in first:
        parts += (name, b": ", value, b"\r\n")
    for name, value in headers:
        if name == b"connection":
            return None
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    head = b"".join(parts)
    lines = len(first) + len(headers) + 2
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
        return None  # a value that would begin a line of its own: uvicorn refuses it
    return head
