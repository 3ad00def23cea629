"""A live provider that plays a script, for tests of what surrounds it: the turn loop, a client, an application.

    provider = ScriptedProvider({"hello": [Say("Good "), Say("day!")]})

For each text of the user's, the steps that stand under it are played (those under `""` for any other text). Speech
works the same way: `Hears` stands for the user's words, as recognised. A test that wants to act in mid-answer puts a
`Wait` there and calls `go` when it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

from samvad.live.providers import base


class Say(NamedTuple):
    """A piece of the written answer, `after_s` seconds after the one before."""

    text: str
    after_s: float = 0.0


class Speak(NamedTuple):
    """A piece of the spoken answer: `ms` milliseconds of audio, and its words, before or after the audio."""

    text: str
    ms: int
    words_first: bool = False


class Hears(NamedTuple):
    """The user's words, as the provider recognises them."""

    text: str
    final: bool = True


class Emit(NamedTuple):
    """Any event of the interface."""

    event: base.Event


class Wait(NamedTuple):
    """Wait until the test calls `go`."""


class Call(NamedTuple):
    """Call a tool, and wait for its result; the answer then quotes it."""

    id: str
    name: str
    arguments: Mapping[str, Any]


Step = Say | Speak | Hears | Emit | Wait | Call
Script = Mapping[str, Sequence[Step]]

ANNOUNCED = "(announced)"
ALL = base.Capabilities(audio_in=True, audio_out=True, server_activity=True, tools=True, announces=True)


class ScriptedProvider:
    """Plays `script`; every session that was opened is in `sessions`, the newest last."""

    def __init__(
        self,
        script: Script,
        *,
        capabilities: base.Capabilities | None = None,
        name: str = "scripted",
        refuse: Exception | None = None,
    ) -> None:
        self.name = name
        self.capabilities = capabilities or base.Capabilities(tools=True)
        self.script = script
        self.refuse = refuse
        self.sessions: list[ScriptedSession] = []
        self.closed = False

    @property
    def session(self) -> ScriptedSession:
        """The newest session."""
        return self.sessions[-1]

    async def open(self, context: base.Context) -> base.ProviderSession:
        """A session, unless `refuse` is to be raised."""
        if self.refuse is not None:
            raise self.refuse
        session = ScriptedSession(self, context)
        self.sessions.append(session)
        return session

    async def close(self) -> None:
        """The server stops."""
        self.closed = True


class ScriptedSession:
    """One conversation; `told` are the calls that the turn loop made, as (verb, what)."""

    def __init__(self, provider: ScriptedProvider, context: base.Context) -> None:
        self.context = context
        self.told: list[tuple[str, Any]] = []
        self.closed = False
        self.audio_bytes = 0
        self._provider = provider
        self._events: asyncio.Queue[base.Event | None] = asyncio.Queue()
        self._playing: asyncio.Task[None] | None = None
        self._go = asyncio.Event()
        self._results: dict[str, asyncio.Future[Any]] = {}
        self.waiting = asyncio.Event()

    def go(self) -> None:
        """Go on behind a `Wait`."""
        self.waiting.clear()
        self._go.set()

    def emit(self, event: base.Event) -> None:
        """Let an event happen now."""
        self._events.put_nowait(event)

    def play(self, name: str) -> None:
        """Play the steps under a name now, as if the user had spoken."""
        self._play(self._provider.script[name])

    async def events(self) -> AsyncIterator[base.Event]:
        """All that happens."""
        while (event := await self._events.get()) is not None:
            yield event

    def _play(self, steps: Sequence[Step]) -> None:
        if self._playing is not None:
            self._playing.cancel()
        self._playing = asyncio.create_task(self._run(steps))

    async def _run(self, steps: Sequence[Step]) -> None:
        ended = False
        for step in steps:
            match step:
                case Say(text, after_s):
                    await asyncio.sleep(after_s)
                    self.emit(base.Delta(text))
                case Speak(text, ms, words_first):
                    if words_first:
                        self.emit(base.Transcript("assistant", text))
                    for at in range(0, ms, 20):
                        self.emit(base.Audio(bytes(48 * min(20, ms - at))))
                    if not words_first:
                        self.emit(base.Transcript("assistant", text))
                case Hears(text, final):
                    self.emit(base.Transcript("user", text, final))
                case Emit(event):
                    ended = isinstance(event, base.TurnDone | base.Failed)
                    self.emit(event)
                case Wait():
                    self._go.clear()
                    self.waiting.set()
                    await self._go.wait()
                case Call(call_id, name, arguments):
                    result = self._results[call_id] = asyncio.get_running_loop().create_future()
                    self.emit(base.ToolCall(call_id, name, arguments))
                    self.emit(base.Delta(f"{await result}"))
        if not ended:
            self.emit(base.TurnDone())

    # --- what the turn loop calls --------------------------------------------------------------------------

    async def send_text(self, text: str, *, note: str | None = None) -> None:
        """Play what stands under the text."""
        self.told.append(("text", (text, note)))
        script = self._provider.script
        self._play(script.get(text, script.get("", ())))

    async def send_audio(self, data: bytes) -> None:
        """Count it."""
        self.audio_bytes += len(data)

    async def activity(self, speaking: bool) -> None:
        """Remember it."""
        self.told.append(("activity", speaking))

    async def interrupt(self, *, heard_text: str, played_ms: int | None) -> None:
        """Stop playing; the end of the turn follows, as the interface wants it."""
        self.told.append(("interrupt", (heard_text, played_ms)))
        if self._playing is not None and not self._playing.done():
            self._playing.cancel()
            self.emit(base.TurnDone())

    async def send_tool_result(
        self, call_id: str, name: str, result: Any, *, error: str | None = None
    ) -> None:
        """Go on behind the `Call`."""
        self.told.append(("result", (call_id, result, error)))
        waiting = self._results.pop(call_id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(error if error is not None else result)

    async def announce(self, text: str) -> bool:
        """Say it, or play what stands under `ANNOUNCED`."""
        self.told.append(("announce", text))
        self._play(self._provider.script.get(ANNOUNCED, [Speak(text, 40)]))
        return True

    async def set_note(self, note: str) -> None:
        """Remember it."""
        self.told.append(("note", note))

    async def set_language(self, language: str | None) -> None:
        """Remember it."""
        self.told.append(("language", language))

    async def close(self) -> None:
        """End it."""
        if not self.closed:
            self.closed = True
            if self._playing is not None:
                self._playing.cancel()
            self.emit_end()

    def emit_end(self) -> None:
        """The provider's side goes away."""
        self._events.put_nowait(None)
