"""The keeping half of a conversation: what is said goes into the history, in order, and the client learns its place."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from samvad import limits, tracing
from samvad.clock import uuid7
from samvad.live import frames, phrases
from samvad.live.context import Background
from samvad.live.keeper import Keeper
from samvad.live.language import AUTO
from samvad.live.line import Line
from samvad.live.parts import Parts
from samvad.live.providers import base
from samvad.live.recovery import keep_turn, open_turn
from samvad.live.storing import answer_messages, user_message
from samvad.live.topic import intent_of, topic_of
from samvad.live.transcript import Heard
from samvad.live.turn import Turn
from samvad.records import UserKey
from samvad.sessions.acting import is_kept
from samvad.sessions.service import SessionPersistenceService
from samvad.types import Appended

if TYPE_CHECKING:
    from samvad.live.turn_spans import TurnSpans

_log = logging.getLogger(__name__)


class Keeping:
    """One conversation: who talks, on which line, in which turn; and what is kept of it."""

    def __init__(
        self,
        parts: Parts,
        service: SessionPersistenceService,
        key: UserKey,
        session_id: str,
        provider: base.Provider,
        known: Background,
        *,
        language: str,
        system_instruction: str = "",
        client_activity: bool = False,
    ) -> None:
        self.parts = parts
        self.service = service
        self.key = key
        self.session_id = session_id
        self.provider = provider
        self.topic = known.topic
        self.intent: str | None = None
        self.language_choice = language
        self.language = service.core.rules.language if language == AUTO else language
        self.line: Line | None = None
        self.turn: Turn | None = None
        self.began_s = self.touched_s = self.now_s()
        self.closed = False
        self.last_said = ""
        self.by_voice = False  # the user spoke last, and did not write
        self._speaking = False  # as the client has noticed
        self.spans: TurnSpans | None = None  # of the last turn: what is kept belongs to it
        self.keeper = Keeper(service, key.user_id)
        self.keeper.on_failing = self._warn_not_kept
        # What was said last, by id, where its content is not kept: for as long as this conversation lives.
        self.unkept: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._state = known.state
        self._system_instruction = system_instruction
        self._client_activity = client_activity
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- small things ------------------------------------------------------------------------------------

    @staticmethod
    def now_s() -> float:
        """The event loop's clock, in seconds."""
        return asyncio.get_running_loop().time()

    def send(self, frame: frames.ServerFrame) -> None:
        """Send a frame to the client, if one is there."""
        if self.line is not None:
            self.line.send(frame)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do this beside everything else; what goes wrong is logged."""
        _ = self.task(work)

    def task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """As `spawn`; the task may be cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_done)
        return task

    def _spawned_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a task of a conversation failed", exc_info=task.exception())

    def new_turn(self) -> Turn:
        """A turn that begins now."""
        now_ms = self.service.core.clock.now_ms()
        self.turn = Turn(uuid7(now_ms), self.now_s, on_delivered=self.heard_on)
        if tracing.tracer is not None:
            from samvad.live.turn_spans import TurnSpans

            self.spans = self.turn.spans = TurnSpans(self)
        return self.turn

    def _warn_not_kept(self) -> None:
        self.send(frames.Warn(code="not_kept", message=phrases.phrases(self.language).not_kept))

    def heard_on(self, turn: Turn) -> None:
        """A piece of an answer that is all here was delivered: it may be over now."""
        raise NotImplementedError

    # --- keeping -------------------------------------------------------------------------------------------

    def keep(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Do a write after all that waits."""
        _ = self.kept(work)

    def kept(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> asyncio.Future[Any]:
        """As `keep`; the result, once it is there."""
        if not self.parts.options.persist:
            done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        return self.keeper.later(work if self.spans is None else self.spans.bound(work))

    def append(self, messages: list[dict[str, Any]]) -> asyncio.Future[list[Appended] | None]:
        """Append messages to the history, after all that waits."""
        if not is_kept(self.service.core, self.key):
            self.unkept.update((message["id"], message) for message in messages)
            while len(self.unkept) > limits.LIVE_CONTEXT_MESSAGES:
                self.unkept.popitem(last=False)
        return self.kept(lambda: self.service.append_said(self.key.user_id, messages))

    def keep_user_message(self, turn: Turn, **more: Any) -> None:
        """What the user said goes into the history now; the client is told its place when it is there."""
        if turn.user_kept or not turn.user_text.strip():
            return
        turn.user_kept = True
        line = self.line
        if line is not None:
            line.claim(turn.user_message_id)
        kept = self.append([user_message(turn, self.session_id, **more)])
        kept.add_done_callback(lambda done: self._user_message_kept(turn, line, done.result()))
        if not more:  # not what was said aside
            self._note_topic(turn)

    def _user_message_kept(self, turn: Turn, line: Line | None, kept: list[Appended] | None) -> None:
        if kept:
            turn.message_ids.insert(0, kept[0].message_id)
            turn.seq = max(turn.seq or 0, kept[0].seq)
            if line is not None and line is self.line:
                line.send(
                    frames.TranscriptFrame(
                        role="user",
                        text=turn.user_text,
                        final=True,
                        turn_id=turn.id,
                        message_id=kept[0].message_id,
                        seq=kept[0].seq,
                    )
                )
        if line is not None:
            line.told(turn.user_message_id)

    def store(self, turn: Turn, heard: Heard, *, interrupted: bool) -> None:
        """The turn is over: its messages go into the history, and then the client is told so."""
        if turn.notice:
            self.last_said = heard.text[-200:] or self.last_said
            self.send(frames.TurnComplete(turn_id=turn.id, message_ids=[], interrupted=interrupted))
            return
        self.keep_user_message(turn)
        if "topic" in turn.metadata or "intent" in turn.metadata:
            self._note_topic(turn)
        messages = answer_messages(turn, heard, self.session_id, interrupted=interrupted)
        line = self.line
        ids = [message["id"] for message in messages]
        if line is not None:
            line.claim(*ids)
        if heard.text:
            self.last_said = heard.text[-200:]
        kept = self.append(messages) if messages else self.kept(_nothing)
        kept.add_done_callback(lambda done: self._turn_kept(turn, line, ids, done.result(), interrupted))
        if turn.checkpointed:
            turn.checkpointed = False
            self.keep(lambda: keep_turn(self.service, self.key.user_id, self.session_id, None))
            self.parts.open_turns.discard(self.key, self.session_id)

    def _turn_kept(
        self, turn: Turn, line: Line | None, ids: list[str], kept: list[Appended] | None, interrupted: bool
    ) -> None:
        if kept:
            turn.message_ids += [each.message_id for each in kept]
            turn.seq = max(turn.seq or 0, kept[-1].seq)
        if line is not None:
            if line is self.line:
                line.send(
                    frames.TurnComplete(
                        turn_id=turn.id,
                        message_ids=turn.message_ids,
                        seq=turn.seq,
                        interrupted=interrupted,
                        usage=turn.usage,
                        metadata=turn.metadata or None,
                    )
                )
            line.told(*ids)

    def _note_topic(self, turn: Turn) -> None:
        """The topic and the last intent go into the user's state as turns go by."""
        if not turn.user_text:
            return
        topic = turn.metadata.get("topic") or topic_of(turn.user_text) or self.topic
        intent = turn.metadata.get("intent") or intent_of(turn.user_text)
        if topic is None or (topic, intent) == (self.topic, self.intent):
            return
        self.topic, self.intent = topic, intent
        patch = {
            "conversationContext": {"topic": topic, "lastIntent": intent},
            "activeSessionId": self.session_id,
        }
        self.keep(lambda: self.service.save_user_state(self.key.user_id, patch))

    # --- against being killed ------------------------------------------------------------------------------

    def _checkpoint_in(self, turn: Turn, after_s: float) -> None:
        turn.timer = asyncio.get_running_loop().call_later(after_s, self._checkpoint, turn)

    def _checkpoint(self, turn: Turn) -> None:
        if turn.phase == "over" or not self.parts.options.persist or not is_kept(self.service.core, self.key):
            return
        if self.keeper.idle:  # else the store is slow: it gets the next one
            first, turn.checkpointed = not turn.checkpointed, True
            now_ms = self.service.core.clock.now_ms()
            kept = open_turn(turn, now_ms=now_ms, topic=self.topic, language=self.language)
            self.keep(lambda: self._keep_checkpoint(turn, kept, first))
        self._checkpoint_in(turn, self.parts.options.checkpoint_s)

    async def _keep_checkpoint(self, turn: Turn, kept: Any, first: bool) -> None:
        if first:
            await self.parts.open_turns.add(self.key, self.session_id)
            if turn.phase == "over":
                self.parts.open_turns.discard(self.key, self.session_id)
        if turn.phase != "over":
            await keep_turn(self.service, self.key.user_id, self.session_id, kept)


async def _nothing() -> None:
    return None
