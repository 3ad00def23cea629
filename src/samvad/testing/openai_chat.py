"""A fake endpoint of OpenAI's chat protocol, with every fault that real ones have.

    async with FakeOpenAIChat() as fake:
        fake.reply(Text("Your passport "), Text("and a photograph."), Finish(usage=None))
        client = AsyncOpenAI(base_url=fake.base_url, api_key="x")
        ...

Without a script it answers "You said: …", word by word.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from samvad.testing.fake_http import Asked, FakeHttp

USAGE: Final[Mapping[str, int]] = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


class Text(NamedTuple):
    """A piece of the answer."""

    text: str


class Call(NamedTuple):
    """A tool call, in two pieces; `arguments` is the JSON text."""

    name: str
    arguments: str
    id: str = "call-1"
    place: int = 0


class Chunk(NamedTuple):
    """Any chunk: one with no choices, an error, a field that nobody knows."""

    chunk: Mapping[str, Any]


class Raw(NamedTuple):
    """Bytes of the stream as they are."""

    data: bytes


class Finish(NamedTuple):
    """The end: why, and the usage if the client asked for it; None where the endpoint does not count."""

    reason: str = "stop"
    usage: Mapping[str, int] | None = USAGE


class Wait(NamedTuple):
    """Nothing until the test says so; for ever, where it never does."""

    event: asyncio.Event


class Drop(NamedTuple):
    """The connection breaks."""


class Status(NamedTuple):
    """An HTTP error instead of a stream; the first step of a reply."""

    status: int
    message: str = "refused, as the test has asked"


Step = Text | Call | Chunk | Raw | Finish | Wait | Drop | Status
Answerer = Callable[[Mapping[str, Any]], str]


class FakeOpenAIChat(FakeHttp):
    """The endpoint; an async context manager. `chunk_s` is the time between chunks."""

    def __init__(
        self, *, answer: Answerer | None = None, models: Sequence[str] = ("fake-model",), chunk_s: float = 0.0
    ) -> None:
        super().__init__()
        self.models = tuple(models)
        self.chunk_s = chunk_s
        self.requests: list[dict[str, Any]] = []  # the bodies, in order
        self.headers: list[dict[str, str]] = []
        self.streams_open = 0
        self.streams_broken_off = 0  # by the client
        self._answer = answer
        self._script: deque[Sequence[Step]] = deque()

    def reply(self, *steps: Step | str) -> None:
        """What the next request for which nothing waits yet is answered with; a text is said and finished."""
        made: list[Step] = []
        for step in steps:
            made += [Text(step), Finish()] if isinstance(step, str) else [step]
        self._script.append(made)

    async def _answer_to(
        self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        method, path, headers, body = asked
        if (method, path) == ("GET", "/v1/models"):
            data = [
                {"id": model, "object": "model", "created": 0, "owned_by": "tests"} for model in self.models
            ]
            return await _plain(writer, 200, {"object": "list", "data": data})
        if (method, path) != ("POST", "/v1/chat/completions"):
            return await _plain(writer, 404, {"error": {"message": f"there is nothing at {path}"}})
        self.requests.append(json.loads(body))
        self.headers.append(headers)
        steps = self._steps(self.requests[-1])
        if steps and isinstance(steps[0], Status):
            error = {"error": {"message": steps[0].message, "type": "fake", "code": None}}
            return await _plain(writer, steps[0].status, error)
        return await self._stream(reader, writer, steps)

    def _steps(self, request: Mapping[str, Any]) -> Sequence[Step]:
        if self._script:
            return self._script.popleft()
        said = next((each["content"] for each in reversed(request["messages"]) if each["role"] == "user"), "")
        text = self._answer(request) if self._answer else f"You said: {said}"
        words = text.split(" ")
        return [*(Text(f"{word} ") for word in words[:-1]), Text(words[-1]), Finish()]

    async def _stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, steps: Sequence[Step]
    ) -> bool:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        self.streams_open += 1
        sending = asyncio.ensure_future(self._send(writer, steps))
        leaving = asyncio.ensure_future(reader.read(1))  # a client that waits for the answer says nothing
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                self.streams_broken_off += 1
                return False
            return sending.result() and not leaving.done()
        finally:
            self.streams_open -= 1
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, writer: asyncio.StreamWriter, steps: Sequence[Step]) -> bool:
        for step in steps:
            if isinstance(step, Drop):
                writer.transport.abort()
                return False
            if isinstance(step, Wait):
                await step.event.wait()
                continue
            if isinstance(step, Raw):
                await _piece(writer, step.data)
                continue
            for chunk in self._chunks(step):
                await _piece(writer, b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n")
                if self.chunk_s:
                    await asyncio.sleep(self.chunk_s)
        await _piece(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    def _chunks(self, step: Step) -> list[Mapping[str, Any]]:
        match step:
            case Text(text=text):
                return [_chunk({"content": text})]
            case Call():
                first = {"name": step.name, "arguments": step.arguments[:3]}
                call = {"index": step.place, "id": step.id, "type": "function", "function": first}
                rest = {"index": step.place, "function": {"arguments": step.arguments[3:]}}
                return [_chunk({"tool_calls": [call]}), _chunk({"tool_calls": [rest]})]
            case Chunk(chunk=chunk):
                return [chunk]
            case Finish():
                asked = (self.requests[-1].get("stream_options") or {}).get("include_usage")
                end = [_chunk({}, step.reason)]
                if asked and step.usage is not None:
                    end.append({**_chunk({}), "choices": [], "usage": dict(step.usage)})
                return list(end)
        return []


def _chunk(delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": dict(delta), "finish_reason": finish}
    head = {"id": "chat-1", "object": "chat.completion.chunk", "created": 0, "model": "fake-model"}
    return {**head, "choices": [choice]}


async def _piece(writer: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await writer.drain()


async def _plain(writer: asyncio.StreamWriter, status: int, body: Mapping[str, Any]) -> bool:
    data = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    writer.write(head.encode() + data)
    await writer.drain()
    return True
