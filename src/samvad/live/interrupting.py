"""Being interrupted as a good listener would be: stop, know what was heard, and go on where that is wanted."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from samvad import limits
from samvad.clock import parse_rfc3339
from samvad.interruptions import rules
from samvad.interruptions.snippet import prompt_snippet, quotable_end
from samvad.live import frames
from samvad.live.answering import Answering
from samvad.live.listening import Verdict, judge
from samvad.live.pacing import paced
from samvad.live.transcript import Heard
from samvad.live.turn import Turn
from samvad.types import Interruption

_TEXT_CHARS_MAX: Final = limits.INTERRUPTION_TEXT_BYTES_MAX // 4
_MORE: Final = "…"
_GO_ON: Final = "Please go on where you were interrupted."
_SENTENCE_ENDS: Final = tuple('.!?।॥؟。！？:)]}"”»')


class Interrupting(Answering):
    """The half of a conversation that listens while the assistant speaks."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.manager = self.parts.samvad.interruptions
        self.over_words = ""  # what the user says while the assistant goes on speaking
        self._reciting: asyncio.Task[Any] | None = None
        self._unexplained: Interruption | None = None  # the last one, until the user's words tell why
        self._alarm: asyncio.TimerHandle | None = None
        self._told: str | None = None  # the interruption that the model was told of

    # --- stopping ----------------------------------------------------------------------------------------

    def judge(self, text: str) -> Verdict:
        """What an utterance over the assistant means."""
        asked = self.last_said_now().rstrip().endswith(("?", "？", "؟"))
        return judge(text, language=self.language, after_question=asked)

    def last_said_now(self) -> str:
        """The end of what the assistant has said last."""
        turn = self.turn
        return turn.said.text[-200:] if turn is not None and turn.said.chars else self.last_said

    async def cut(
        self,
        turn: Turn,
        kind: str = "BARGE_IN",
        *,
        played_ms: float | None = None,
        played_chars: int | None = None,
        utterance: str | None = None,
    ) -> Interruption | None:
        """Stop the answer under way; the interruption, if anything was cut off."""
        generating = not turn.generated and not turn.local and turn.phase == "answering"
        heard, interruption = self.stop(
            turn, kind, played_ms=played_ms, played_chars=played_chars, utterance=utterance
        )
        await self._tell_provider(turn, heard, generating)
        return interruption

    async def _tell_provider(self, turn: Turn, heard: Heard, generating: bool) -> None:
        session = self.provider_session
        if session is not None and not turn.local:
            if generating:
                self.expect_end()
            await session.interrupt(heard_text=heard.text, played_ms=heard.played_ms)

    def stop(
        self,
        turn: Turn,
        kind: str,
        *,
        played_ms: float | None = None,
        played_chars: int | None = None,
        utterance: str | None = None,
    ) -> tuple[Heard, Interruption | None]:
        """The answer stops here: told to the client, kept as it was heard, and remembered; the provider is not told."""
        heard = turn.heard(played_ms, played_chars)
        if turn.said.chars and not turn.generated and not turn.local and turn.said.planned is None:
            # The model was stopped before it had said all: what it would have said is not known, but there is more.
            rest = f"{heard.rest} {_MORE}".strip()
            heard = heard._replace(rest=rest, progress=min(heard.progress, rules.PROGRESS_RESUMABLE_MAX))
        turn.over("interrupted")
        self.turn = None
        self.touched_s = self.now_s()
        if self._reciting is not None and turn.local:
            self._reciting.cancel()
            self._reciting = None
        interruption = self._remember(turn, heard, kind, utterance)
        self.parts.meter.turns["interrupted"] += 1
        if self.line is not None:
            self.line.outbox.drop_answer(turn)
        if turn.said.chars or turn.said.spoken:
            self.send(
                frames.InterruptedFrame(
                    turn_id=turn.id,
                    heard_text=heard.text,
                    unheard_text=heard.rest,
                    can_resume=interruption is not None and interruption.can_resume,
                    interruption_id=None if interruption is None else interruption.id,
                )
            )
        if interruption is not None:
            turn.metadata["interruption"] = {"id": interruption.id, "type": interruption.type}
        self.store(turn, heard, interrupted=True)
        return heard, interruption

    def _remember(self, turn: Turn, heard: Heard, kind: str, utterance: str | None) -> Interruption | None:
        full_text = turn.said.full_text[: _TEXT_CHARS_MAX - 2]
        if not full_text.strip() or turn.notice:
            return None
        if heard.rest.endswith(_MORE):
            full_text = f"{full_text.rstrip()} {_MORE}"
        self.parts.meter.interrupted(kind)
        interruption = self.manager.push(
            self.session_id,
            self.key.user_id,
            type=kind,
            full_text=full_text,
            heard_text=heard.text[:_TEXT_CHARS_MAX],
            turn_id=turn.id,
            progress=heard.progress,
            played_ms=heard.played_ms,
            generated_ms=min(turn.said.audio_ms, rules.SPEECH_MS_MAX) if turn.said.spoken else None,
            user_utterance=None if utterance is None else utterance[:_TEXT_CHARS_MAX],
            language=self.language,
            topic=self.topic,
            heard_source=heard.source,
            tenant=self.key.tenant,
        )
        self._record(interruption)
        return interruption

    def _record(self, interruption: Interruption) -> None:
        """Keep it in the store as well, where that is asked for."""
        if self.parts.samvad.options.record_interruptions:
            body = msgspec.json.encode(interruption)
            at_ms = parse_rfc3339(interruption.at)
            self.keep(lambda: self.service.record_interruption(self.session_id, interruption.id, at_ms, body))

    def overtaken(self, turn: Turn) -> None:
        """The next answer begins while this one is still heard: the user has spoken."""
        if turn.said.spoken:
            heard, interruption = self.stop(turn, "BARGE_IN")
            self._unexplained = interruption
            self.spawn(self._tell_provider(turn, heard, generating=False))
        else:
            self.complete(turn)

    def provider_interrupted(self) -> None:
        """The provider heard the user and has stopped; its end of the turn follows."""
        turn = self.turn
        if turn is None or not turn.active or turn.local:
            return
        if not turn.generated:
            self.expect_end()
        heard, interruption = self.stop(turn, "BARGE_IN")
        session = self.provider_session
        if session is not None and self.provider.capabilities.truncates:
            self.spawn(session.interrupt(heard_text=heard.text, played_ms=heard.played_ms))
        self.wait_for_words(interruption)

    # --- why, or whether at all --------------------------------------------------------------------------

    def wait_for_words(self, interruption: Interruption | None) -> None:
        """The assistant stopped because somebody made a sound: if no words come, it was nothing, and it goes on."""
        self._unexplained = interruption
        self._disarm()
        if interruption is not None:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(self.parts.options.false_alarm_s, self._alarm_due)

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _alarm_due(self) -> None:
        self._alarm = None
        interruption, self._unexplained = self._unexplained, None
        turn = self.turn
        if interruption is None or self.closed or (turn is not None and turn.phase == "answering"):
            return
        words = "" if turn is None else turn.user_text
        if words.strip() and self.judge(words).interrupts:
            return
        self.parts.meter.false_alarms += 1
        self.manager.mark_false_alarm(self.session_id, interruption.id, tenant=self.key.tenant)
        if turn is not None:  # "haan": it is kept, and answered by going on
            turn.end()
            self.turn = None
            self.keep_user_message(turn, utterance="BACKCHANNEL")
        self.spawn(self.go_on(interruption, self.new_turn(), with_phrase=False))

    def explain(self, text: str, verdict: Verdict | None = None) -> None:
        """The user's words tell what the last interruption was."""
        interruption, self._unexplained = self._unexplained, None
        self._disarm()
        if interruption is None:
            return
        verdict = verdict or self.judge(text)
        kind = verdict.type if verdict.interrupts else interruption.type
        known = self.manager.reclassify(
            self.session_id,
            interruption.id,
            type=kind,
            user_utterance=text[:_TEXT_CHARS_MAX],
            tenant=self.key.tenant,
        )
        if known is not None:
            self._record(known)

    def user_words(self, text: str, final: bool) -> None:
        """Words of the user's speech: of this turn, of the next one, or over the assistant."""
        self.touched_s = self.now_s()
        turn = self.turn
        if turn is not None and turn.active and (turn.user_closed or turn.generated or turn.local):
            self._words_over(turn, text, final)
            return
        if turn is None or turn.phase == "over":
            if not text.strip():
                return
            turn = self.new_turn()
        turn.user_text += text
        turn.user_spoke = True
        if text or final:
            self.send(frames.TranscriptFrame(role="user", text=text, final=False, turn_id=turn.id))
        if final:
            turn.user_closed = True
            turn.asked_s = self.now_s()
        if self._unexplained is not None and turn.user_text.strip():
            verdict = self.judge(turn.user_text)
            if verdict.interrupts:
                self.explain(turn.user_text, verdict)

    def _words_over(self, turn: Turn, text: str, final: bool) -> None:
        self.over_words += text
        words = self.over_words.strip()
        verdict = self.judge(words) if words else None
        if verdict is not None and verdict.interrupts:
            self.over_words = ""
            heard, _ = self.stop(turn, verdict.type, utterance=words)
            self._unexplained = None
            self.spawn(self._tell_provider(turn, heard, generating=not turn.generated and not turn.local))
            following = self.new_turn()
            following.user_text, following.user_spoke = words, True
            following.user_closed = final
            self.send(frames.TranscriptFrame(role="user", text=words, final=False, turn_id=following.id))
        elif final:
            self.over_words = ""
            if words:
                self.keep_aside(words, spoken=True)

    def keep_aside(
        self, words: str, message_id: str | None = None, *, spoken: bool = False, kind: str = "BACKCHANNEL"
    ) -> None:
        """What is said while the assistant speaks on ("haan"): it is kept, and answered by nothing."""
        under_way = self.turn
        aside = self.new_turn()
        self.turn = under_way
        aside.user_text, aside.user_spoke = words, spoken
        if message_id is not None:
            aside.user_message_id = message_id
        aside.end()
        self.keep_user_message(aside, utterance=kind)

    def answer_begins(self, turn: Turn) -> None:
        """The answer to what was spoken begins: that the user spoke was no false alarm."""
        if turn.user_text.strip():
            self.explain(turn.user_text)
        else:
            self._disarm()
            self._unexplained = None
        if turn.user_spoke and self.provider_session is not None:
            self._told = getattr(self._pending(), "id", self._told)

    # --- going on ----------------------------------------------------------------------------------------

    def _pending(self) -> Interruption | None:
        for interruption in self.manager.list(self.session_id, tenant=self.key.tenant):
            if interruption.status == "pending" and interruption.type not in rules.NOT_INTERRUPTING:
                return interruption
        return None

    def resumable(self) -> Interruption | None:
        """The newest interruption that can be resumed; it stays as it is."""
        for interruption in self.manager.list(self.session_id, tenant=self.key.tenant):
            if interruption.status == "pending" and interruption.can_resume:
                return interruption
        return None

    def note(self) -> str | None:
        """What the model is to be told of the last interruption with the user's next turn, once."""
        pending = self._pending()
        if pending is None or pending.id == self._told:
            return None
        self._told = pending.id
        return self.manager.prompt_snippet(self.session_id, tenant=self.key.tenant)

    def take_up(self) -> Interruption | None:
        """The newest interruption that can be resumed, now `resumed`."""
        interruption = self.manager.resume(self.session_id, tenant=self.key.tenant)
        if interruption is not None:
            self._record(interruption)
        return interruption

    async def go_on(self, interruption: Interruption, turn: Turn, *, with_phrase: bool = True) -> None:
        """Say what was not heard, as a new turn: word for word where all of it is known, else by the model."""
        turn.phase = "answering"
        turn.resumes = interruption.turn_id or interruption.id
        phrase = self.manager.resume_phrase(
            self.language, interruption.topic, session_id=self.session_id, tenant=self.key.tenant
        )
        rest = interruption.unheard_text
        whole = rest.endswith(_SENTENCE_ENDS)
        if rest and whole and not self.provider.capabilities.audio_out:
            turn.local = True
            self._reciting = self.task(self._recite(turn, f"{phrase} {rest}" if with_phrase else rest))
            return
        if not await self.ready():
            self._cut_short(turn, "provider_unavailable")
            return
        session = self.provider_session
        if session is not None:
            await session.send_text(_GO_ON, note=prompt_snippet(interruption))

    async def _recite(self, turn: Turn, text: str) -> None:
        turn.said.planned = text
        self._checkpoint_in(turn, self.parts.options.checkpoint_s)
        async for piece in paced(text):
            if turn.phase == "over":
                return
            self.take_text(turn, piece)
        session = self.provider_session
        if session is not None:
            said = quotable_end(text, 300)
            await session.set_note(f"You then went on by yourself, up to «{said}».")
        self._reciting = None
        self.generated(turn)

    def restore_interruption(self) -> None:
        """After a restart: the last answer of this session may have been interrupted, and nobody has gone on yet."""
        if self.manager.peek(self.session_id, tenant=self.key.tenant) is not None:
            return
        record = self.service.core.lanes.peek(self.key)
        resumed: set[str] = set()
        for message in reversed(() if record is None else record.window[-limits.LIVE_CONTEXT_MESSAGES :]):
            if message.role != "assistant" or self.session_id.encode() not in message.body:
                continue
            fields = msgspec.json.decode(message.body)
            metadata = fields.get("metadata")
            if not isinstance(metadata, dict) or fields.get("sessionId") != self.session_id:
                continue
            if metadata.get("resumes"):
                resumed.add(str(metadata["resumes"]))
            rest, turn_id = fields.get("unheardText"), metadata.get("turnId")
            if not isinstance(rest, str) or not isinstance(turn_id, str) or turn_id in resumed:
                continue
            kept = metadata.get("interruption")
            kind = kept.get("type") if isinstance(kept, dict) else None
            heard = fields["content"]
            self.manager.push(
                self.session_id,
                self.key.user_id,
                type=kind if kind in rules.INTERRUPTION_TYPES else "BARGE_IN",
                full_text=f"{heard} {rest}"[:_TEXT_CHARS_MAX],
                heard_text=heard[:_TEXT_CHARS_MAX],
                turn_id=turn_id,
                language=self.language,
                topic=self.topic,
                tenant=self.key.tenant,
            )
            return
