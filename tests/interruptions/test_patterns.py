"""The running counts of a session."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samvad.interruptions.patterns import TOPICS_PER_SESSION_MAX, RunningCounts
from samvad.interruptions.rules import TOPIC_CHARS_MAX
from samvad.types import Interruption, InterruptionType


def interruption(
    type: InterruptionType = "BARGE_IN", progress: float = 0.5, topic: str | None = None
) -> Interruption:
    return Interruption(
        id="i",
        session_id="s",
        user_id="u",
        at="2025-01-10T17:00:00.000Z",
        type=type,
        full_text="a b",
        heard_text="a",
        unheard_text="b",
        progress=progress,
        can_resume=True,
        topic=topic,
    )


def counted(*interruptions: Interruption) -> RunningCounts:
    counts = RunningCounts()
    for each in interruptions:
        counts.add(each)
    return counts


def test_counts_and_averages() -> None:
    """Types are counted as recorded; the average leaves out what cut nothing off."""
    found = counted(
        interruption(progress=0.4), interruption("CLARIFICATION", 0.6), interruption("NOISE", 0.0)
    ).patterns("s")
    assert found.total == 3
    assert found.by_type == {"BARGE_IN": 1, "CLARIFICATION": 1, "NOISE": 1}
    assert found.average_progress == pytest.approx(0.5)
    assert found.suggestion is None


def test_nothing_has_no_average() -> None:
    """A session without an interruption has no average and no topic."""
    found = RunningCounts().patterns("s")
    assert (found.total, found.average_progress, found.top_topic) == (0, None, None)


@pytest.mark.parametrize(
    ("interruptions", "words"),
    [
        ([interruption(progress=0.1)] * 3, "shorter answers"),
        ([interruption(progress=0.1)] * 2, None),  # two are no habit
        ([interruption(progress=0.1)] * 3 + [interruption(progress=0.6)] * 3, "shorter answers"),
        ([interruption(progress=0.1)] * 3 + [interruption(progress=0.6)] * 4, None),
        ([interruption(progress=0.3)] * 3, None),
        ([interruption("CORRECTION")] * 3, "confirm"),
        ([interruption("CLARIFICATION")] * 3, "simpler words"),
        ([interruption("NOISE", 0.1)] * 5, None),
    ],
)
def test_a_habit_brings_a_suggestion(interruptions: list[Interruption], words: str | None) -> None:
    """Three or more, and at least half, make a habit, and the suggestion says what to do about it."""
    found = counted(*interruptions).patterns("s")
    assert found.interrupts_early is (words == "shorter answers")
    if words is None:
        assert found.suggestion is None
    else:
        assert words in (found.suggestion or "")


def test_false_alarms_are_taken_back() -> None:
    """A false alarm no longer counts for progress, habit and topic, and many of them bring a suggestion."""
    alarms = [interruption(progress=0.1, topic="loans")] * 3
    counts = counted(*alarms)
    for alarm in alarms:
        counts.add_false_alarm(alarm)
    found = counts.patterns("s")
    assert found.total == 3 and found.false_alarms == 3
    assert found.average_progress is None and found.top_topic is None
    assert not found.interrupts_early
    assert "false alarms" in (found.suggestion or "")


def test_the_top_topic_is_the_most_frequent() -> None:
    """The most frequent topic wins, whatever its white space, and of equals the last."""
    counts = counted(*[interruption(topic=topic) for topic in ("loans", "tax", "home\n loans", "home loans")])
    assert counts.patterns("s").top_topic == "home loans"
    counts.add(interruption(topic="tax"))
    assert counts.patterns("s").top_topic == "tax"
    counts.add(interruption(topic="  "))
    assert counts.patterns("s").top_topic == "tax"


@given(st.lists(st.integers(0, 30), max_size=80))
def test_a_majority_topic_is_found_in_bounded_memory(numbers: list[int]) -> None:
    """However many topics come by, few are kept, and one that is in the majority is never missed."""
    topics = [f"{number} " + "x" * 5_000 for number in numbers]
    topics = [each for topic in topics for each in (topic, "loans")] + ["loans"]
    counts = counted(*[interruption(topic=topic) for topic in topics])
    assert counts.patterns("s").top_topic == "loans"
    assert len(counts.topics) <= TOPICS_PER_SESSION_MAX
    assert all(len(topic) <= TOPIC_CHARS_MAX for topic in counts.topics)


def test_a_frequent_latecomer_is_found() -> None:
    """A topic that comes back among many rare ones rises, though the places were taken before it came."""
    rare = [interruption(topic=f"early {number}") for number in range(TOPICS_PER_SESSION_MAX)] * 2
    for number in range(120):
        rare.append(interruption(topic="loans" if number % 3 == 0 else f"late {number}"))
    assert counted(*rare).patterns("s").top_topic == "loans"


def test_patterns_are_written_in_camel_case() -> None:
    """The wire sees the same names as everywhere."""
    wire = msgspec.to_builtins(counted(interruption(topic="loans")).patterns("s"))
    assert wire["sessionId"] == "s" and wire["byType"] == {"BARGE_IN": 1} and wire["topTopic"] == "loans"
