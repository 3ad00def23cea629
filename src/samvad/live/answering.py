"""The answering half of a conversation: from the provider's events to frames and to messages of the history."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from samvad.clock import rfc3339
from samvad.errors import SamvadError
from samvad.live import frames
from samvad.live.context import earlier_turns
from samvad.live.keeping import Keeping
from samvad.live.language import AUTO
from samvad.live.providers import base
from samvad.live.turn import Turn
from samvad.sessions.people import LIVE_RESUMPTION

_log = logging.getLogger(__name__)
_STALE_S_MAX: Final = 5.0  # a provider that was interrupted says so in this time, or is taken to have said it
_HANDLE_AGE_MS_MAX: Final = 2 * 3600 * 1000
AUDIO_BYTES_PER_MS: Final = 48  # PCM16 mono, 24 kHz


class Answering(Keeping):
    """A conversation's provider, and what becomes of its answers."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._session: base.ProviderSession | None = None
        self._opening: asyncio.Lock = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None
        self._stale = 0  # answers that were interrupted and whose end the provider has not told yet
        self._stale_since_s = 0.0
        self._handle: base.Resumable | None = None
        self._handlers: dict[type, Callable[[Any], None]] = {
            base.Delta: self._on_delta,
            base.Audio: self._on_audio,
            base.Transcript: self._on_transcript,
            base.TurnDone: self._on_turn_done,
            base.Ahead: self._on_ahead,
            base.Interrupted: lambda event: self.provider_interrupted(),
            base.ToolCall: self._on_tool_call,
            base.ToolCancelled: self._on_tool_cancelled,
            base.Resumable: self._on_resumable,
            base.Failed: self._on_failed,
            base.Reconnected: self._on_reconnected,
        }

    # --- the provider --------------------------------------------------------------------------------------

    async def ready(self) -> bool:
        """Open the provider's session if there is none; False where that cannot be, and the client is told."""
        async with self._opening:
            if self._session is not None:
                return True
            if self.closed:
                return False
            try:
                async with asyncio.timeout(self.parts.options.provider_open_s):
                    self._session = await self.provider.open(self._context())
            except SamvadError as error:
                self._refused(error.code, error.message, error.retryable)
                return False
            except TimeoutError:
                self._refused("provider_unavailable", "Who answers did not answer in time; try again.", True)
                return False
            except Exception as error:  # the top of the task: a provider may be anybody's code
                fault = type(error).__name__  # its text may quote what was said
                _log.error(
                    "a provider failed to open", extra={"provider": self.provider.name, "fault": fault}
                )
                self._refused("provider_failed", "Who answers could not be reached.", True)
                return False
            self.parts.opened(self.provider.name)
            self._stale = 0
            self._listener = asyncio.create_task(self._listen(self._session))
            return True

    def _refused(self, code: str, message: str, retryable: bool) -> None:
        self.parts.meter.fault(code)
        self.send(frames.ErrorFrame(code=code, message=message, retryable=retryable))

    def _context(self) -> base.Context:
        handle, model = self._kept_handle()
        return base.Context(
            user_id=self.key.user_id,
            session_id=self.session_id,
            tenant=self.key.tenant,
            language=None if self.language_choice == AUTO else self.language,
            system_instruction=self._system_instruction,
            history=self._history,
            state=self._state,
            tools=self.parts.tools.specs if self.provider.capabilities.tools else (),
            resume_handle=handle,
            resume_model=model,
            client_activity=self._client_activity,
        )

    def _history(self) -> tuple[base.Turn, ...]:
        record = self.service.core.lanes.peek(self.key)
        without = None if self.turn is None else self.turn.user_message_id
        return earlier_turns(record, without=without, unkept=self.unkept)

    def _kept_handle(self) -> tuple[str | None, str | None]:
        """The handle by which the provider's session goes on, also after a restart of this server."""
        if self._handle is not None:
            return self._handle.handle, self._handle.model
        record = self.service.core.lanes.peek(self.key)
        session = None if record is None else record.sessions.get(self.session_id)
        kept = None if session is None else msgspec.json.decode(session.body).get(LIVE_RESUMPTION)
        if not isinstance(kept, dict) or kept.get("provider") != self.provider.name:
            return None, None
        age_ms = self.service.core.clock.now_ms() - kept.get("issuedAtMs", 0)
        return (kept.get("handle"), kept.get("model")) if age_ms < _HANDLE_AGE_MS_MAX else (None, None)

    async def _listen(self, session: base.ProviderSession) -> None:
        try:
            async for event in session.events():
                if self._session is not session:
                    return
                handler = self._handlers.get(type(event))
                if handler is not None:
                    handler(event)
        except Exception as error:  # the top of the task: a provider may be anybody's code
            fault = type(error).__name__  # its text may quote what was said
            _log.error("a provider's session failed", extra={"provider": self.provider.name, "fault": fault})
            self._on_failed(
                base.Failed("provider_failed", "Who answers has failed.", retryable=True, fatal=True)
            )
        if self._session is session:
            self._lose_provider()

    def _lose_provider(self) -> None:
        session, self._session = self._session, None
        self._stale = 0
        if self.turn is not None and self.turn.active and not self.turn.generated and not self.turn.local:
            self._cut_short(self.turn, "provider_closed")
        if session is not None:
            self.spawn(session.close())

    def expect_end(self) -> None:
        """An answer was interrupted while it was generated: all up to its end is for nobody."""
        self._stale += 1
        self._stale_since_s = self.now_s()

    # --- the answer ----------------------------------------------------------------------------------------

    def _answer(self, *, is_piece: bool = True) -> Turn | None:
        """The turn to which an event of the answer belongs; None where nobody wants it any more."""
        if self._stale:
            if self.now_s() - self._stale_since_s < _STALE_S_MAX:
                return None
            self._stale = 0
        turn = self.turn
        if turn is not None and turn.generated:  # the next answer begins while this one is still heard
            self.overtaken(turn)
            turn = self.turn
        if turn is None or turn.phase == "over":
            turn = self.new_turn()
        if turn.phase == "listening":
            turn.phase = "answering"
            self.answer_begins(turn)
        if is_piece and turn.asked_s is not None:
            self.parts.meter.first_piece(self.now_s() - turn.asked_s)
            if turn.spans is not None:
                turn.spans.first_piece(self.now_s() - turn.asked_s)
            turn.asked_s = None
        if turn.timer is None and not turn.said.chars and not turn.said.spoken and not turn.notice:
            after_s = 0.0 if turn.user_text and not turn.user_kept else self.parts.options.checkpoint_s
            self._checkpoint_in(turn, after_s)
        return turn

    def answer_begins(self, turn: Turn) -> None:
        """The first of an answer to what was spoken has come."""

    def overtaken(self, turn: Turn) -> None:
        """The provider begins another answer while `turn` is still being heard."""
        raise NotImplementedError

    def provider_interrupted(self) -> None:
        """The provider has noticed that the user speaks over the assistant."""
        raise NotImplementedError

    def user_words(self, text: str, final: bool) -> None:
        """Words of the user's speech."""
        raise NotImplementedError

    def take_text(self, turn: Turn, text: str) -> None:
        """A piece of the written answer."""
        turn.said.add_text(text)
        if self.line is not None:
            self.line.send_piece(turn.id, text, turn, turn.said.chars)

    def _on_delta(self, event: base.Delta) -> None:
        turn = self._answer()
        if turn is not None and event.text:
            self.take_text(turn, event.text)

    def _on_audio(self, event: base.Audio) -> None:
        turn = self._answer()
        if turn is not None:
            turn.said.add_audio(len(event.data) / AUDIO_BYTES_PER_MS)
            if self.line is not None:
                self.line.send_audio(event.data, turn, turn.said.audio_ms)

    def _on_transcript(self, event: base.Transcript) -> None:
        if event.role == "user":
            self.user_words(event.text, event.final)
            return
        if not event.text:
            return
        turn = self._answer()
        if turn is not None:
            turn.said.add_text(event.text)
            self.send(
                frames.TranscriptFrame(role="assistant", text=event.text, final=event.final, turn_id=turn.id)
            )

    def _on_ahead(self, event: base.Ahead) -> None:
        turn = self._answer(is_piece=False)
        if turn is not None:
            turn.said.planned = event.text

    def _on_turn_done(self, event: base.TurnDone) -> None:
        if self._stale:
            self._stale -= 1
            return
        turn = self.turn
        if turn is None or turn.generated or turn.local or turn.phase == "over":
            return
        self.generated(turn, event.usage, event.metadata)

    def generated(
        self,
        turn: Turn,
        usage: Mapping[str, int] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """All of the answer is here; the turn is over once it was heard."""
        turn.phase = "answering"
        turn.generated = True
        turn.said.finish()
        turn.usage = usage
        if turn.spans is not None:
            turn.spans.generated(usage)
        if metadata:
            turn.metadata.update(metadata)
        self.heard_on(turn)

    def heard_on(self, turn: Turn) -> None:
        """A piece was delivered: once all was heard, the turn is over."""
        if turn is not self.turn or not turn.generated or turn.phase == "over":
            return
        left_s = turn.remaining_s() if self.line is not None else 0.0
        if left_s > 0:
            if turn.said.spoken:
                loop = asyncio.get_running_loop()
                loop.call_later(left_s + 0.01, self.heard_on, turn)
            return  # a written one: it is asked again when its last piece is delivered
        self.complete(turn)

    def complete(self, turn: Turn) -> None:
        """The whole answer was heard."""
        turn.over("complete")
        if self.turn is turn:
            self.turn = None
        if not turn.notice:
            self.touched_s = self.now_s()
            self.parts.meter.turns["complete"] += 1
        self.store(turn, turn.said.everything(), interrupted=False)

    def _cut_short(self, turn: Turn, code: str) -> None:
        """Something went wrong in mid-answer: what was said until then stays said."""
        heard = turn.said.everything() if self.line is not None else turn.heard()
        turn.over("failed", code)
        self.turn = None
        turn.metadata["error"] = code
        self.parts.meter.turns["failed"] += 1
        self.store(turn, heard, interrupted=True)

    def _on_failed(self, event: base.Failed) -> None:
        if self._stale and not event.fatal:
            self._stale -= 1
            return
        self.parts.meter.fault(event.code)
        self.send(frames.ErrorFrame(code=event.code, message=event.message, retryable=event.retryable))
        turn = self.turn
        if turn is not None and not turn.local and not turn.generated and turn.phase != "over":
            self._cut_short(turn, event.code)
        if event.fatal:
            self._lose_provider()

    def _on_reconnected(self, event: base.Reconnected) -> None:
        self.parts.meter.reconnects["resumed" if event.resumed else "begun_anew"] += 1

    def _on_resumable(self, event: base.Resumable) -> None:
        changed = self._handle is None or self._handle.handle != event.handle
        self._handle = event
        if changed:
            kept = {
                "provider": self.provider.name,
                "handle": event.handle,
                "model": event.model,
                "issuedAt": rfc3339(self.service.core.clock.now_ms()),
                "issuedAtMs": self.service.core.clock.now_ms(),
            }
            self.keep(lambda: self._keep_handle(event, kept))

    async def _keep_handle(self, event: base.Resumable, kept: dict[str, Any]) -> None:
        if self._handle is event:  # the last one counts
            record = await self.service.read_user(self.key.user_id)
            if self.session_id in record.sessions:
                await self.service.save_live_fields(
                    self.session_id, self.key.user_id, {LIVE_RESUMPTION: kept}
                )

    # --- tools ---------------------------------------------------------------------------------------------

    def _on_tool_call(self, event: base.ToolCall) -> None:
        turn = self._answer(is_piece=False)
        if turn is None:
            return
        self.send(
            frames.ToolCallFrame(turn_id=turn.id, id=event.id, name=event.name, arguments=event.arguments)
        )
        turn.calls[event.id] = self.task(self._call_tool(turn, event))

    def _on_tool_cancelled(self, event: base.ToolCancelled) -> None:
        if self.turn is not None:
            for call_id in event.ids:
                task = self.turn.calls.pop(call_id, None)
                if task is not None:
                    task.cancel()

    async def _call_tool(self, turn: Turn, event: base.ToolCall) -> None:
        from samvad.live.calling import call_tool

        await call_tool(self, turn, event)

    @property
    def provider_session(self) -> base.ProviderSession | None:
        """The provider's session, if it is open."""
        return self._session
