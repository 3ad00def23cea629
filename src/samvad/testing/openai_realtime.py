"""A fake endpoint of OpenAI's Realtime protocol: events as the real one sends them, answers as a test wants them.

    async with FakeRealtime() as fake:
        fake.reply("Your passport and a photograph.")
        client = AsyncOpenAI(base_url=fake.base_url, api_key="x")
        ...

Without a script it answers "You said: …". It hears what `samvad.testing.speech.speech` has put into the audio where
the client says when the user speaks; its own detection goes by loudness.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from websockets.exceptions import ConnectionClosed

from samvad.testing.speech import SAMPLE_RATE_OUT, is_loud, speech

if TYPE_CHECKING:
    from websockets.asyncio.server import Server, ServerConnection

USAGE = {"total_tokens": 9, "input_tokens": 5, "output_tokens": 4}


class Speak(NamedTuple):
    """The model says a text; with `then`, it goes on only when that is set."""

    text: str
    then: asyncio.Event | None = None


class CallFunction(NamedTuple):
    """The model calls a function; `arguments` is JSON text."""

    name: str
    arguments: str
    id: str = "call-1"


class Event(NamedTuple):
    """Any event, as it is."""

    event: dict[str, Any]


class Fail(NamedTuple):
    """The response fails; the last step."""


Step = Speak | CallFunction | Event | Fail


class RealtimeConversation:
    """One connection; all lists may be read at any time."""

    def __init__(self, fake: FakeRealtime, socket: ServerConnection) -> None:
        self._fake = fake
        self._socket = socket
        self.session: dict[str, Any] = {}
        self.items: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []  # all that the client sent
        self.truncated: list[tuple[str, int]] = []
        self.closed = False
        self._task: asyncio.Task[None] | None = None
        self._number = 0
        self._loud = False
        self._beside = False  # the response under way is none of the conversation's

    async def send(self, type: str, **fields: Any) -> None:
        """Send an event."""
        self._number += 1
        with contextlib.suppress(ConnectionClosed):
            await self._socket.send(json.dumps({"type": type, "event_id": f"e-{self._number}", **fields}))

    def abort(self) -> None:
        """Break it off."""
        self._socket.transport.abort()

    def texts(self) -> list[tuple[str, str]]:
        """The conversation as the model has it: (role, text)."""
        return [
            (item["role"], part.get("text") or part.get("transcript") or "")
            for item in self.items
            for part in item.get("content", ())
        ]

    async def converse(self) -> None:
        """Take what comes until the connection is over."""
        await self.send(
            "session.created", session={"type": "realtime", "id": "s", "object": "realtime.session"}
        )
        try:
            async for raw in self._socket:
                event = json.loads(raw)
                self.events.append(event)
                await self._take(event)
        except ConnectionClosed:
            pass
        finally:
            self.closed = True
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)

    async def _take(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "session.update":
                self.session |= event["session"]
                await self.send("session.updated", session={"object": "realtime.session", **self.session})
            case "conversation.item.create":
                self.items.append({"id": f"item-{len(self.items)}", **event["item"]})
            case "conversation.item.truncate":
                self.truncated.append((event["item_id"], event["audio_end_ms"]))
            case "input_audio_buffer.append":
                await self._hear(base64.b64decode(event["audio"]))
            case "input_audio_buffer.commit":
                self._loud = False
                await self._heard("(speech)")
            case "response.create":
                if self._task is not None and not self._task.done():
                    error = {"type": "invalid_request_error", "message": "one at a time", "code": "active"}
                    await self.send("error", error=error)
                    return
                self._beside = (event.get("response") or {}).get("conversation") == "none"
                self._task = asyncio.create_task(self._respond(self._fake.steps_for(self)))
            case "response.cancel":
                await self._cancel("client_cancelled")

    async def _hear(self, audio: bytes) -> None:
        if self.session["audio"]["input"]["turn_detection"] is None:
            return
        if is_loud(audio) and not self._loud:
            self._loud = True
            await self.send("input_audio_buffer.speech_started", audio_start_ms=0, item_id="heard")
            await self._cancel("turn_detected")
        elif not is_loud(audio) and self._loud:
            self._loud = False
            await self.send("input_audio_buffer.speech_stopped", audio_end_ms=0, item_id="heard")
            await self._heard("(speech)")
            self._task = asyncio.create_task(self._respond(self._fake.steps_for(self)))

    async def _heard(self, text: str) -> None:
        text = self._fake.heard.popleft() if self._fake.heard else text
        content = [{"type": "input_audio", "transcript": text}]
        item = {"id": f"item-{len(self.items)}", "type": "message", "role": "user", "content": content}
        self.items.append(item)
        kind = "conversation.item.input_audio_transcription.completed"
        usage = {"type": "duration", "seconds": 1}
        await self.send(kind, item_id=item["id"], content_index=0, transcript=text, usage=usage)

    async def _cancel(self, reason: str) -> None:
        if self._task is None or self._task.done():
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        details = {"type": "cancelled", "reason": reason}
        await self._done("cancelled", [], status_details=details)

    async def _done(self, status: str, output: list[dict[str, Any]], **more: Any) -> None:
        response = {
            "id": "r",
            "object": "realtime.response",
            "status": status,
            "output": output,
            "usage": USAGE,
        }
        await self.send("response.done", response={**response, **more})

    async def _respond(self, steps: Sequence[Step]) -> None:
        response = {"id": "r", "object": "realtime.response", "status": "in_progress", "output": []}
        await self.send("response.created", response=response)
        output: list[dict[str, Any]] = []
        for step in steps:
            if isinstance(step, Fail):
                await self._done("failed", output)
                return
            if isinstance(step, Event):
                await self.send(**step.event)
            elif isinstance(step, CallFunction):
                call = {"call_id": step.id, "name": step.name, "arguments": step.arguments}
                output.append({"type": "function_call", "id": f"item-{len(self.items)}", **call})
            else:
                await self._speak(step)
        await self._done("completed", output)

    async def _speak(self, step: Speak) -> None:
        item_id = f"item-{len(self.items)}"
        content = [{"type": "output_audio", "transcript": step.text}]
        if not self._beside:
            self.items.append({"id": item_id, "type": "message", "role": "assistant", "content": content})
        place = {"response_id": "r", "item_id": item_id, "output_index": 0, "content_index": 0}
        await self.send("response.output_audio_transcript.delta", delta=step.text, **place)
        sound = base64.b64encode(speech(step.text, 600, SAMPLE_RATE_OUT)).decode()
        await self.send("response.output_audio.delta", delta=sound, **place)
        if step.then is not None:
            await step.then.wait()


class FakeRealtime:
    """The endpoint; an async context manager. `heard` are the words of the next utterances."""

    def __init__(self) -> None:
        self.conversations: list[RealtimeConversation] = []
        self.heard: deque[str] = deque()
        self.port = 0
        self._script: deque[Sequence[Step]] = deque()
        self._server: Server | None = None

    @property
    def base_url(self) -> str:
        """What a client's `base_url` must be."""
        return f"http://127.0.0.1:{self.port}/v1"

    def reply(self, *steps: Step | str) -> None:
        """What the next response says; a text is spoken."""
        self._script.append([Speak(step) if isinstance(step, str) else step for step in steps])

    def steps_for(self, conversation: RealtimeConversation) -> Sequence[Step]:
        """What is said now."""
        if self._script:
            return self._script.popleft()
        said = [text for role, text in conversation.texts() if role == "user"]
        return [Speak(f"You said: {said[-1] if said else ''}")]

    async def __aenter__(self) -> Self:
        from websockets.asyncio.server import serve

        self._server = await serve(self._handle, "127.0.0.1", 0, max_size=None, close_timeout=1)
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _handle(self, socket: ServerConnection) -> None:
        conversation = RealtimeConversation(self, socket)
        self.conversations.append(conversation)
        await conversation.converse()
