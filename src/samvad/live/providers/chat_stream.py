"""The stream of a chat endpoint: server-sent events, each a chunk of OpenAI's protocol.

OpenAI's client makes the request, tries again, names the errors, and hands over the bytes as they come. Its own models
of the chunks take four times as long to make as everything else that happens to a chunk here, so they are left out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from samvad import limits


class Function(msgspec.Struct):
    """A piece of a call's name and of its arguments (JSON text)."""

    name: str | None = None
    arguments: str | None = None


class CallPiece(msgspec.Struct):
    """A piece of a tool call."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Delta(msgspec.Struct):
    """What is new."""

    content: str | None = None
    tool_calls: list[CallPiece] | None = None


class Choice(msgspec.Struct):
    """One of the answers; there is one."""

    delta: Delta | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """https://platform.openai.com/docs/api-reference/chat/streaming; whatever else it has is left aside."""

    choices: list[Choice] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


decode_chunk = msgspec.json.Decoder(Chunk).decode
DONE = b"[DONE]"


class EventData:
    """The `data` of server-sent events, out of bytes that come in any pieces.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation; an event that the end
    of the stream cuts off does not count. ValueError for one of more than `LIVE_PROVIDER_EVENT_BYTES_MAX` bytes.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """More bytes; the events that are whole now."""
        if self._rest:
            data = self._rest + data
        held_back = b""
        if b"\r" in data:
            if data.endswith(b"\r"):  # the line feed that belongs to it may follow
                data, held_back = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *events, rest = data.split(b"\n\n")
        self._rest = rest + held_back
        if len(self._rest) > limits.LIVE_PROVIDER_EVENT_BYTES_MAX:
            raise ValueError("an event of the stream is too long")
        return [found for event in events if (found := _data_of(event)) is not None]


def _data_of(event: bytes) -> bytes | None:
    if event.startswith(b"data:") and b"\n" not in event:  # as nearly all are
        return event[5:].strip()
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines).strip() if lines else None
