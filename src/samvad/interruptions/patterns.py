"""How a session is interrupted over time: small running counts, which outlive the stack of three."""

from __future__ import annotations

from typing import Final

import msgspec

from samvad.interruptions.rules import NOT_INTERRUPTING, TOPIC_CHARS_MAX
from samvad.types import Interruption

TOPICS_PER_SESSION_MAX: Final = 8
EARLY_PROGRESS_MAX: Final = 0.3
HABIT_COUNT_MIN: Final = 3
HABIT_SHARE_MIN: Final = 0.5


class InterruptionPatterns(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How a session has been interrupted since its first interruption, those no longer held included.

    `total` and `by_type` count all that was recorded. `average_progress` (0.0 to 1.0, None if there is none)
    and `top_topic` leave out backchannels, noise and false alarms, which cut nothing off. `interrupts_early`
    is true where at least half of three or more interruptions came within the first 30 % of the answer.
    `suggestion` is one English sentence for whoever shapes the answers, or None.
    """

    session_id: str
    total: int = 0
    by_type: dict[str, int] = {}
    resumed: int = 0
    abandoned: int = 0
    false_alarms: int = 0
    average_progress: float | None = None
    top_topic: str | None = None
    interrupts_early: bool = False
    suggestion: str | None = None


class RunningCounts:
    """The counts behind `InterruptionPatterns`, in memory bounded by `TOPICS_PER_SESSION_MAX`."""

    __slots__ = (
        "abandoned",
        "by_type",
        "cut_off",
        "early",
        "false_alarms",
        "progress_sum",
        "resumed",
        "topics",
        "total",
    )

    def __init__(self) -> None:
        self.total = 0
        self.by_type: dict[str, int] = {}
        self.cut_off = 0
        self.progress_sum = 0.0
        self.early = 0
        self.resumed = 0
        self.abandoned = 0
        self.false_alarms = 0
        self.topics: dict[str, int] = {}

    @property
    def topic_bytes(self) -> int:
        """The memory that the names of the topics take."""
        return sum([topic.__sizeof__() for topic in self.topics])

    def add(self, interruption: Interruption) -> None:
        """Count a new interruption."""
        self.total += 1
        self.by_type[interruption.type] = self.by_type.get(interruption.type, 0) + 1
        if interruption.type in NOT_INTERRUPTING:
            return
        self.cut_off += 1
        self.progress_sum += interruption.progress
        self.early += interruption.progress < EARLY_PROGRESS_MAX
        topic = _topic_name(interruption.topic)
        if not topic:
            return
        count = self.topics.pop(topic, 0)
        if len(self.topics) >= TOPICS_PER_SESSION_MAX:
            # Space-Saving (Metwally et al. 2005): the newcomer inherits the count of the rarest, so that a
            # frequent topic is never missed however many others come by.
            count = self.topics.pop(min(self.topics, key=self.topics.__getitem__))
        self.topics[topic] = count + 1

    def add_false_alarm(self, interruption: Interruption) -> None:
        """Take back what `add` made of an interruption that turned out to be none; its type stays counted."""
        self.false_alarms += 1
        if interruption.type in NOT_INTERRUPTING:
            return
        self.cut_off -= 1
        self.progress_sum -= interruption.progress
        self.early -= interruption.progress < EARLY_PROGRESS_MAX
        topic = _topic_name(interruption.topic)
        if topic in self.topics:
            self.topics[topic] -= 1
            if self.topics[topic] == 0:
                del self.topics[topic]

    def retype(self, before: Interruption, after: Interruption) -> None:
        """An interruption turned out to be of another type."""
        self.by_type[before.type] -= 1
        if not self.by_type[before.type]:
            del self.by_type[before.type]
        self.by_type[after.type] = self.by_type.get(after.type, 0) + 1
        if before.type not in NOT_INTERRUPTING and after.type in NOT_INTERRUPTING:
            self.cut_off -= 1
            self.progress_sum -= before.progress
            self.early -= before.progress < EARLY_PROGRESS_MAX

    def patterns(self, session_id: str) -> InterruptionPatterns:
        """What the counts say. Of equally frequent topics, the one interrupted last."""
        early = self.cut_off >= HABIT_COUNT_MIN and self.early >= self.cut_off * HABIT_SHARE_MIN
        average = min(max(self.progress_sum / self.cut_off, 0.0), 1.0) if self.cut_off else None
        return InterruptionPatterns(
            session_id=session_id,
            total=self.total,
            by_type=dict(self.by_type),
            resumed=self.resumed,
            abandoned=self.abandoned,
            false_alarms=self.false_alarms,
            average_progress=average,
            top_topic=max(reversed(self.topics), key=self.topics.__getitem__, default=None),
            interrupts_early=early,
            suggestion=self._suggestion(early),
        )

    def _suggestion(self, early: bool) -> str | None:
        def habit(count: int, of: int) -> bool:
            return count >= HABIT_COUNT_MIN and count >= of * HABIT_SHARE_MIN

        if habit(self.false_alarms, self.total):
            return "Most interruptions were false alarms: wait for words before the assistant stops speaking."
        if habit(self.by_type.get("CORRECTION", 0), self.cut_off):
            return "The user often corrects the assistant: confirm what was understood before explaining."
        if early:
            return "The user tends to interrupt early: give shorter answers, with the main point first."
        if habit(self.by_type.get("CLARIFICATION", 0), self.cut_off):
            return "The user often asks for clarification: use simpler words and one step at a time."
        return None


def _topic_name(topic: str | None) -> str:
    return " ".join(topic[: 2 * TOPIC_CHARS_MAX].split())[:TOPIC_CHARS_MAX] if topic else ""
