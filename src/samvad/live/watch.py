"""The clock of a connection: warnings and ends for who is silent or stays too long, and fresh resume tokens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from samvad.live import frames, phrases
from samvad.live.conversation import Conversation
from samvad.live.line import Line

if TYPE_CHECKING:
    from samvad.live.service import LiveService


class Watch:
    """Wakes when the next thing is due, never more often."""

    def __init__(self, live: LiveService, conversation: Conversation, line: Line) -> None:
        self._live = live
        self._talk = conversation
        self._line = line
        self._loop = asyncio.get_running_loop()
        self._warned_silence_s = -1.0  # of which silence (when it began) was warned
        self._warned_duration = False
        self._token_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._wait()

    def stop(self) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        self._timer = self._loop.call_at(self._next_s(), self._look)

    def _silent_since_s(self) -> float:
        """When the silence began; while the assistant speaks, there is none."""
        turn = self._talk.turn
        speaking = turn is not None and turn.active and not turn.notice
        return self._loop.time() if speaking else self._talk.touched_s

    def _next_s(self) -> float:
        options = self._live.options
        silent_s = self._silent_since_s()
        warned = self._warned_silence_s == silent_s
        silence_s = silent_s + options.idle_s - (0.0 if warned else self._notice_s(options.idle_s))
        end_s = self._talk.began_s + options.duration_s
        duration_s = end_s - (0.0 if self._warned_duration else self._notice_s(options.duration_s))
        return max(
            min(silence_s, duration_s, self._token_s + options.token_ttl_s / 3), self._loop.time() + 0.01
        )

    def _notice_s(self, limit_s: float) -> float:
        """How long before the end the warning comes."""
        return min(self._live.options.warning_s, limit_s / 2)

    def _look(self) -> None:
        options, now_s = self._live.options, self._loop.time()
        silent_s = self._silent_since_s()
        words = phrases.phrases(self._talk.language)
        if now_s >= silent_s + options.idle_s:
            self._line.end("inactive")
            return
        end_s = self._talk.began_s + options.duration_s
        if now_s >= end_s:
            self._line.end("too_long")
            return
        notice_s = self._notice_s(options.idle_s)
        if now_s >= silent_s + options.idle_s - notice_s and self._warned_silence_s != silent_s:
            self._warned_silence_s = silent_s
            self._warn("inactive", words.inactive, silent_s + options.idle_s - now_s)
        if now_s >= end_s - self._notice_s(options.duration_s) and not self._warned_duration:
            self._warned_duration = True
            self._warn("too_long", words.duration, end_s - now_s)
        if now_s >= self._token_s + options.token_ttl_s / 3:
            self._token_s = now_s
            key = self._talk.key
            token = self._live.tokens.make(key.tenant, key.user_id, self._talk.session_id)
            self._line.send(frames.ResumeToken(resume_token=token, expires_in_s=round(options.token_ttl_s)))
        self._wait()

    def _warn(self, code: str, phrase: str, in_s: float) -> None:
        seconds = max(round(in_s), 1)
        text = phrases.with_seconds(phrase, seconds)
        self._line.send(frames.Warn(code=code, message=text, in_s=seconds))
        self._talk.spawn(self._talk.announce(text))
