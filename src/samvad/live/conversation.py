"""A live conversation: what the client asks of it, and its life beyond any one connection."""

from __future__ import annotations

import asyncio
import logging
from contextlib import nullcontext
from typing import Final

from samvad import limits
from samvad.errors import InvalidRequest, NotFound, Overloaded, SamvadError, TooLarge
from samvad.interruptions.rules import LANGUAGE_CHARS_MAX
from samvad.live import frames
from samvad.live.interrupting import Interrupting
from samvad.live.language import AUTO, language_of
from samvad.live.line import Line
from samvad.live.listening import is_audible
from samvad.live.turn import Turn
from samvad.sessions.validation import check_id

_log = logging.getLogger(__name__)
_SETTLE_S: Final = 5.0


class Conversation(Interrupting):
    """One user's conversation in one session; it outlives the connection on which it began.

    All methods belong to one event loop. Those that a client calls raise InvalidRequest (or another SamvadError)
    for what cannot be done; nothing has happened then.
    """

    # --- connections -------------------------------------------------------------------------------------

    def attach(self, line: Line) -> None:
        """From now on, this connection hears what is said."""
        self.line = line
        self.touched_s = self.now_s()

    async def detach(self, line: Line) -> None:
        """A connection is gone. What it was hearing was interrupted there; the conversation waits for another one."""
        line.forget()
        if self.line is not line:
            return
        self.line = None
        turn = self.turn
        if turn is None:
            return
        if turn.active:
            await self.cut(turn)
        else:
            turn.end()
            self.turn = None
            self.keep_user_message(turn)

    async def close(self) -> None:
        """The conversation is over: what was said is kept, the provider is let go."""
        if self.closed:
            return
        self.closed = True
        self._disarm()
        turn = self.turn
        if turn is not None and turn.active:
            self.stop(turn, "BARGE_IN")
        elif turn is not None:
            turn.end()
            self.turn = None
            self.keep_user_message(turn)
        await self.keeper.settled(_SETTLE_S)
        await self._let_go()

    async def abandon(self) -> None:
        """The user was erased: nothing more is kept, and nothing of it goes on."""
        self.closed = True
        self._disarm()
        self.keeper.stop()
        if self.turn is not None:
            self.turn.end()
            self.turn = None
        self.parts.open_turns.discard(self.key, self.session_id)
        await self._let_go()

    async def _let_go(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        listener, self._listener = self._listener, None
        for task in [*self._tasks, *([listener] if listener is not None else [])]:
            if task is not asyncio.current_task():
                task.cancel()

    # --- what the user does ------------------------------------------------------------------------------

    async def say(
        self,
        text: str,
        message_id: str | None = None,
        *,
        played_ms: float | None = None,
        played_chars: int | None = None,
    ) -> None:
        """The user has written something."""
        _check_text(text)
        if message_id is not None:
            check_id(message_id, "id")
        if self.keeper.full:
            raise Overloaded("What was said before could not be kept yet; try again soon.")
        self.touched_s = self.now_s()
        self.by_voice = False
        if message_id is not None and self._said_before(message_id):
            return
        self._follow_script(text)
        verdict = self.judge(text)
        turn = self.turn
        if turn is not None and turn.active:
            if not verdict.interrupts:
                self.keep_aside(text, message_id, kind="RESUME" if verdict.resumes else "BACKCHANNEL")
                return
            await self.cut(turn, verdict.type, played_ms=played_ms, played_chars=played_chars, utterance=text)
            stopped = verdict.stops
        else:
            stopped = verdict.stops and self._unexplained is not None
            self.explain(text, verdict)
        turn = self.new_turn()
        turn.user_text = text
        turn.user_closed = True
        turn.phase = "answering"
        turn.asked_s = self.now_s()
        if message_id is not None:
            turn.user_message_id = message_id
        self.keep_user_message(turn)
        if stopped:
            self.complete(turn)
        elif verdict.resumes and (interruption := self.take_up()) is not None:
            await self.go_on(interruption, turn)
        else:
            await self._ask(turn)

    async def _ask(self, turn: Turn) -> None:
        if not await self.ready():
            self._cut_short(turn, "provider_unavailable")
            return
        session = self.provider_session
        if session is None or turn.phase == "over":
            return
        try:
            with nullcontext() if turn.spans is None else turn.spans.asked():
                await session.send_text(turn.user_text, note=self.note())
        except SamvadError as error:
            self._refused(error.code, error.message, error.retryable)
            self._cut_short(turn, error.code)

    def _said_before(self, message_id: str) -> bool:
        """Whether a message of this id is in the history and was answered: a client that was cut off sends it again."""
        turn = self.turn
        if turn is not None and turn.user_message_id == message_id:
            return True
        record = self.service.core.lanes.peek(self.key)
        window = () if record is None else record.window
        for place, message in enumerate(window):
            if message.id == message_id:
                answered = any(later.role == "assistant" for later in window[place + 1 :])
                if answered:
                    self.send(
                        frames.TranscriptFrame(
                            role="user", text="", final=True, message_id=message_id, seq=message.seq
                        )
                    )
                return answered
        return False

    async def hear(self, data: bytes) -> None:
        """A piece of the user's speech (PCM16 LE mono, 16 kHz)."""
        if not self.provider.capabilities.audio_in:
            raise InvalidRequest(f"The provider {self.provider.name!r} takes text only.")
        if len(data) % 2 or not data:
            raise InvalidRequest("Audio is PCM16: an even number of bytes.")
        if self.keeper.full:
            raise Overloaded("What was said before could not be kept yet; try again soon.")
        if self._speaking or is_audible(data):  # a microphone left open is no sign of life
            self.touched_s = self.now_s()
        self.by_voice = True
        if await self.ready() and self.provider_session is not None:
            await self.provider_session.send_audio(data)

    async def activity(self, speaking: bool, played_ms: float | None = None) -> None:
        """The user begins or ends to speak, as the client has noticed."""
        self._speaking = speaking
        self.touched_s = self.now_s()
        if speaking:
            turn = self.turn
            if turn is not None and turn.active:
                self._unexplained = await self.cut(turn, played_ms=played_ms)
            self._disarm()
        elif self._unexplained is not None:
            self.wait_for_words(self._unexplained)
        if await self.ready() and self.provider_session is not None:
            await self.provider_session.activity(speaking)

    async def interrupt(self, played_ms: float | None = None, played_chars: int | None = None) -> None:
        """The user wants the assistant to stop."""
        self.touched_s = self.now_s()
        turn = self.turn
        if turn is None or not turn.active:
            raise NotFound("Nothing is being said that could be interrupted.")
        self._unexplained = await self.cut(turn, played_ms=played_ms, played_chars=played_chars)

    async def resume(self) -> None:
        """The user wants the assistant to go on with what was interrupted."""
        self.touched_s = self.now_s()
        if self.turn is not None and self.turn.active:
            raise InvalidRequest("The assistant is speaking already.")
        interruption = self.take_up()
        if interruption is None:
            raise NotFound("There is no interruption that could be resumed.")
        self._disarm()
        self._unexplained = None
        await self.go_on(interruption, self.new_turn())

    def played(self, ms: float | None, finished: bool) -> None:
        """The client tells how far it has played the answer."""
        turn = self.turn
        if turn is None or not turn.active:
            return
        if ms is not None:
            turn.report(ms)
        if finished and turn.generated:
            self.complete(turn)

    async def announce(self, text: str) -> None:
        """Say a notice of the system's aloud: to one who talks by voice, in a pause, where the provider can.

        It is no answer: nothing of it is kept, and it is no sign of life.
        """
        session = self.provider_session
        spoken = False
        if (
            session is not None
            and self.by_voice
            and self.provider.capabilities.announces
            and (self.turn is None or self.turn.phase == "over")
        ):
            turn = self.new_turn()
            turn.notice = turn.user_closed = True
            turn.phase = "answering"
            spoken = await session.announce(text)
            if not spoken:
                turn.end()
                self.turn = None if self.turn is turn else self.turn
        self.parts.meter.warnings["spoken" if spoken else "written"] += 1

    async def set_language(self, language: str) -> None:
        """Another language from the next turn on."""
        self.touched_s = self.now_s()
        self.language_choice = checked_language(language)
        if self.language_choice != AUTO:
            self.language = self.language_choice
        session = self.provider_session
        if session is not None:
            await session.set_language(None if self.language_choice == AUTO else self.language)
        self.keep(
            lambda: self.service.save_session_fields(
                self.session_id, self.key.user_id, {"language": self.language_choice}
            )
        )
        self.send(frames.LanguageChanged(language=self.language_choice))

    def _follow_script(self, text: str) -> None:
        if self.language_choice != AUTO:
            return
        found = language_of(text, self.language)
        if found is not None and found != self.language:
            self.language = found
            self.send(frames.LanguageChanged(language=found))


def checked_language(language: str) -> str:
    """A language tag (or `auto`) that may be kept; InvalidRequest otherwise."""
    plain = language.strip()
    if plain.lower() == AUTO:
        return AUTO
    pieces = plain.replace("_", "-").split("-")
    if (
        len(plain) > LANGUAGE_CHARS_MAX
        or not (pieces[0].isascii() and pieces[0].isalpha() and 2 <= len(pieces[0]) <= 8)
        or not all(piece.isascii() and piece.isalnum() and len(piece) <= 8 for piece in pieces)
    ):
        raise InvalidRequest("language must be a tag such as 'hi' or 'hi-IN', or 'auto'.")
    return plain


def _check_text(text: str) -> None:
    if not text.strip():
        raise InvalidRequest("text must not be empty.")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidRequest("text is not valid Unicode.") from None
    if size > limits.CONTENT_BYTES_MAX:
        raise TooLarge(f"text may take {limits.CONTENT_BYTES_MAX} bytes of UTF-8; this one has {size}.")
