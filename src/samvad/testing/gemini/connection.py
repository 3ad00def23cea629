"""One connection to the fake server: what the client says is understood, and answered by the script."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from websockets.exceptions import ConnectionClosed

from samvad.testing.gemini import wire
from samvad.testing.gemini.script import Heard, Step, UserTurn
from samvad.testing.speech import is_loud, words_in

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from samvad.testing.gemini.server import FakeGeminiLive

BYTES_PER_MS: Final = 32  # of PCM16 at 16 kHz
QUIET_MS: Final = 100  # of silence after speech, and the user's turn is over


class Results:
    """The results of tool calls that the client has sent, by the call's id."""

    def __init__(self) -> None:
        self.by_id: dict[str, Any] = {}
        self._changed = asyncio.Condition()

    async def add(self, id: str, response: Any) -> None:
        """One more."""
        async with self._changed:
            self.by_id[id] = response
            self._changed.notify_all()

    async def wait_for(self, id: str) -> Any:
        """The result of that call, when it is there."""
        async with self._changed:
            await self._changed.wait_for(lambda: id in self.by_id)
        return self.by_id[id]


class Connection:
    """One connection and its conversation. All lists may be read by tests at any time."""

    def __init__(self, server: FakeGeminiLive, socket: ServerConnection, path: str) -> None:
        self._server = server
        self._socket = socket
        self.path = path
        self.opened_at_s = time.monotonic()
        self.setup: wire.Json = {}
        self.resumed_with: str | None = None
        self.conversation = ""
        self.memory: list[tuple[str, str]] = []  # what the model knows: (role, text)
        self.frames: list[wire.Json] = []  # all that came, in order, without the setup
        self.turns: list[UserTurn] = []
        self.results = Results()
        self.heard_something = asyncio.Condition()
        self.closed: int | None = None  # the code, once it is over
        self.audio_bytes = 0
        self.interruptions = 0
        self._said: list[str] = []
        self._notes: list[str] = []
        self._speech = bytearray()
        self._quiet_ms = 0.0
        self._speaking = False
        self._awaiting_history = False
        self._calls: set[str] = set()
        self._reply: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- what a test may do --------------------------------------------------------------------------------

    async def send(self, frame: Mapping[str, Any]) -> None:
        """Send any frame; where the connection is gone, nothing happens."""
        with contextlib.suppress(ConnectionClosed):
            await self._socket.send(json.dumps(frame, ensure_ascii=False))

    async def go_away(self, time_left_s: float) -> None:
        """Say that the connection will end, and end it then, as a real one does: with code 1008."""
        await self.send({"goAway": {"timeLeft": f"{time_left_s:g}s"}})

        async def end() -> None:
            await asyncio.sleep(time_left_s)
            await self.close(1008, "the connection was to be left")

        self._spawn(end())

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close with that code."""
        await self._socket.close(code, reason)

    def abort(self) -> None:
        """Break it off with no word: the client sees 1006."""
        self._socket.transport.abort()

    async def gone(self) -> None:
        """Wait until the client has gone."""
        await self._socket.wait_closed()

    def interrupt_soon(self) -> None:
        """Interrupt the reply under way, as after speech that the server has heard."""
        self._spawn(self.interrupt())

    async def interrupt(self) -> None:
        """The reply under way ends: `interrupted`, then `turnComplete`, and never `generationComplete`."""
        if not self.is_replying:
            return
        await self._stop_reply()
        self.interruptions += 1
        self._keep_what_was_said()
        if self._calls:
            await self.send({"toolCallCancellation": {"ids": sorted(self._calls)}})
            self._calls.clear()
        await self.send(wire.server_content(interrupted=True))
        await self.send(wire.server_content(turnComplete=True))
        await self.offer_handle()

    @property
    def is_open(self) -> bool:
        """Whether it is."""
        return self.closed is None

    @property
    def is_replying(self) -> bool:
        """Whether a reply is under way."""
        return self._reply is not None and not self._reply.done()

    @property
    def answers_in_text(self) -> bool:
        """Whether the client asked for written answers."""
        return "TEXT" in (wire.field(self.setup, "generation_config", "response_modalities") or [])

    @property
    def client_says_when(self) -> bool:
        """Whether the client says when the user speaks."""
        return bool(
            wire.field(self.setup, "realtime_input_config", "automatic_activity_detection", "disabled")
        )

    # --- what steps use ------------------------------------------------------------------------------------

    def said(self, piece: str) -> None:
        """The model generated this: it is in its memory, whether it is heard or not."""
        self._said.append(piece)

    async def call_tool(self, id: str, name: str, arguments: Mapping[str, Any]) -> None:
        """Send a call and remember that its result is owed."""
        self._calls.add(id)
        call = {"id": id, "name": name, "args": dict(arguments)}
        await self.send({"toolCall": {"functionCalls": [call]}})

    async def offer_handle(self) -> None:
        """Say by what handle the conversation goes on from here."""
        if wire.has(self.setup, "session_resumption") and self._server.handles != "never":
            handle = self._server.keep(self.conversation, self.memory)
            await self.send({"sessionResumptionUpdate": {"newHandle": handle, "resumable": True}})

    async def refuse_handle(self) -> None:
        """Say that the conversation cannot go on from just here."""
        if wire.has(self.setup, "session_resumption"):
            await self.send({"sessionResumptionUpdate": {"newHandle": "", "resumable": False}})

    # --- the client's side ---------------------------------------------------------------------------------

    async def converse(self) -> None:
        """Set up, then take what comes until the connection is over."""
        try:
            if await self._server.set_up(self, json.loads(await self._socket.recv())):
                self._awaiting_history = bool(
                    wire.field(self.setup, "history_config", "initial_history_in_client_content")
                )
                await self.send({"setupComplete": {"sessionId": self.conversation}})
                async for raw in self._socket:
                    frame = json.loads(raw)
                    self.frames.append(frame)
                    await self._take(frame)
                    async with self.heard_something:
                        self.heard_something.notify_all()
        except ConnectionClosed:
            pass
        finally:
            self.closed = self._socket.close_code or 1006
            await self._stop_reply()
            self._keep_what_was_said()
            for task in self._tasks:
                task.cancel()

    async def _take(self, frame: wire.Json) -> None:
        if content := wire.field(frame, "client_content"):
            await self._take_content(content)
        if (given := wire.field(frame, "realtime_input")) is not None:
            await self._take_realtime(given)
        for response in wire.field(frame, "tool_response", "function_responses") or []:
            self._calls.discard(wire.field(response, "id"))
            await self.results.add(wire.field(response, "id"), wire.field(response, "response"))

    async def _take_content(self, content: wire.Json) -> None:
        await self.interrupt()  # whatever it holds
        turns = wire.field(content, "turns") or []
        complete = wire.field(content, "turn_complete") is not False
        if self._awaiting_history or not complete:
            for turn in turns:
                role = "model" if wire.field(turn, "role") == "model" else "user"
                text = " ".join(wire.texts(turn))
                self.memory.append((role, text))
                if role == "user":
                    self._notes.append(text)
            self._awaiting_history = self._awaiting_history and not complete
            return
        texts = wire.texts(turns[-1]) if turns else []
        for turn in turns[:-1]:
            self.memory.append(("user", " ".join(wire.texts(turn))))
        await self._user_said(texts[-1] if texts else "", spoken=False, notes=texts[:-1])

    async def _take_realtime(self, given: wire.Json) -> None:
        if text := wire.field(given, "text"):
            await self.interrupt()
            await self._user_said(text, spoken=False)
        if wire.has(given, "activity_start"):
            await self.interrupt()
            self._speaking = True
            self._speech.clear()
        for blob in [wire.field(given, "audio"), *(wire.field(given, "media_chunks") or [])]:
            if blob:
                await self._take_audio(wire.audio(blob))
        if wire.has(given, "activity_end") or wire.has(given, "audio_stream_end"):
            await self._end_of_speech()

    async def _take_audio(self, audio: bytes) -> None:
        self.audio_bytes += len(audio)
        if self.client_says_when:
            if self._speaking:
                self._speech += audio
            return
        if is_loud(audio):
            await self.interrupt()
            self._speaking = True
            self._quiet_ms = 0
            self._speech += audio
        elif self._speaking:
            self._speech += audio
            self._quiet_ms += len(audio) / BYTES_PER_MS
            if self._quiet_ms >= QUIET_MS:
                await self._end_of_speech()

    async def _end_of_speech(self) -> None:
        if not self._speaking:
            return
        self._speaking = False
        self._quiet_ms = 0
        audio = bytes(self._speech)
        self._speech.clear()
        await self._user_said(" ".join(words_in(audio)), spoken=True)

    async def _user_said(self, text: str, *, spoken: bool, notes: Sequence[str] = ()) -> None:
        turn = UserTurn(text, spoken, (*self._notes, *notes))
        self._notes.clear()
        self.turns.append(turn)
        await self._stop_reply()
        self._reply = asyncio.create_task(self._play(turn, self._server.steps_for(self, turn)))

    # --- the model's side ----------------------------------------------------------------------------------

    async def _play(self, turn: UserTurn, steps: Sequence[Step]) -> None:
        said = next((step.text for step in steps if isinstance(step, Heard)), turn.text)
        self.memory += [("user", note) for note in turn.notes if ("user", note) not in self.memory]
        self.memory.append(("user", said))
        await self.refuse_handle()
        if turn.spoken and not any(isinstance(step, Heard) for step in steps):
            steps = [Heard(said), *steps]
        for step in steps:
            await step.play(self)
        self._keep_what_was_said()
        if not self.is_open:
            return
        await self.send(wire.server_content(generationComplete=True))
        if self._server.handles == "before":
            await self.offer_handle()
        await self.send(wire.server_content(turnComplete=True))
        if self._server.handles == "after":
            await self.offer_handle()

    def _keep_what_was_said(self) -> None:
        if self._said:
            self.memory.append(("model", "".join(self._said)))
            self._said.clear()

    async def _stop_reply(self) -> None:
        task, self._reply = self._reply, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


Answerer = Callable[[UserTurn], Sequence[Step] | str]
