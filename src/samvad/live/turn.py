"""One turn: what the user said, and what of the answer was generated, delivered and heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from samvad.live.transcript import Heard, Transcript
from samvad.sessions.people import LIVE_ANSWER

if TYPE_CHECKING:
    from samvad.live.turn_spans import TurnSpans

Phase = Literal["listening", "answering", "over"]


class Turn:
    """A turn of a conversation. `now_s` is a monotonic clock in seconds.

    It is over when all of the answer was heard, or when it was interrupted: not already when all was generated.
    """

    def __init__(
        self, turn_id: str, now_s: Callable[[], float], *, on_delivered: Callable[[Turn], None]
    ) -> None:
        self.id = turn_id
        self._now_s = now_s
        self._on_delivered = on_delivered
        self.phase: Phase = "listening"
        self.user_text = ""
        self.user_spoke = False
        self.user_message_id = f"{turn_id}-user"
        self.user_kept = False  # its message was handed to the keeper
        self.user_closed = False  # nothing more of the user's words belongs to this turn
        self.said = Transcript()
        self.generated = False
        self.asked_s: float | None = None  # when the user had said all, until the first of the answer comes
        self.notice = False  # no answer, but said by the system: a warning, which is not kept
        self.local = False  # said by the turn loop itself, not by the provider
        self.usage: Mapping[str, int] | None = None
        self.metadata: dict[str, Any] = {}
        self.message_ids: list[str] = []
        self.seq: int | None = None
        self.calls: dict[str, asyncio.Task[None]] = {}
        self.call_count = 0
        self.resumes: str | None = None
        self.checkpointed = False
        self.timer: asyncio.TimerHandle | None = None
        self.spans: TurnSpans | None = None  # where traces are on
        self.delivered_chars = 0
        self.delivered_ms = 0.0
        self._plays_until_s = 0.0
        self._report: tuple[float, float] | None = None  # played milliseconds, and when that was said

    @property
    def active(self) -> bool:
        """Whether the assistant is answering, or is still being heard."""
        return self.phase == "answering"

    @property
    def assistant_message_id(self) -> str:
        """The id of its answer; the same wherever the turn is brought to its end."""
        return f"{self.id}{LIVE_ANSWER}"

    def delivered(self, chars: int, audio_ms: float) -> None:
        """All up to here was handed to the network."""
        if chars > self.delivered_chars:
            self.delivered_chars = chars
        if audio_ms > self.delivered_ms:
            # What is played next begins when it is there and all before it was played.
            self._plays_until_s = (
                max(self._plays_until_s, self._now_s()) + (audio_ms - self.delivered_ms) / 1000
            )
            self.delivered_ms = audio_ms
        if self.generated:
            self._on_delivered(self)

    def report(self, played_ms: float) -> None:
        """The client says how far it has played."""
        self._report = (played_ms, self._now_s())

    def remaining_s(self) -> float:
        """How long what was generated still takes to be heard; more than 0 also while some is not delivered."""
        if self.said.spoken:
            left_s = self._plays_until_s - self._now_s()
            return max(left_s, 0.05) if self.delivered_ms < self.said.audio_ms else max(left_s, 0.0)
        return 0.0 if self.delivered_chars >= self.said.chars else 0.05

    def elapsed_ms(self) -> float | None:
        """How much of the audio was played, by the client's last report and the clock; None without audio."""
        if not self.said.spoken:
            return None
        if self._report is not None:
            played_ms, at_s = self._report
            return played_ms + (self._now_s() - at_s) * 1000
        return self.delivered_ms - max(self._plays_until_s - self._now_s(), 0.0) * 1000

    def heard(self, played_ms: float | None = None, played_chars: int | None = None) -> Heard:
        """What of the answer was heard by now."""
        spoken = self.said.spoken
        return self.said.heard(
            played_ms=played_ms,
            played_chars=played_chars,
            elapsed_ms=self.elapsed_ms(),
            delivered_chars=None if spoken else self.delivered_chars,
            delivered_ms=self.delivered_ms if spoken else None,
        )

    def over(self, outcome: str, code: str | None = None) -> None:
        """The turn is over, so or so: complete, interrupted, failed with this code."""
        if self.spans is not None:
            self.spans.over(outcome, code)
        self.end()

    def end(self) -> None:
        """The turn is over; what it waited for is let go of."""
        self.phase = "over"
        if self.spans is not None:
            self.spans.over("dropped")
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        for task in self.calls.values():
            task.cancel()
        self.calls.clear()
