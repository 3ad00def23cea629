"""Times as text, ids that sort by time, and the clock that tests drive."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samvad.clock import SystemClock, parse_rfc3339, rfc3339, uuid7
from samvad.testing.clock import START_MS, VirtualClock

_FIRST_MS = -62_135_596_800_000  # year 1
_LAST_MS = 253_402_300_799_999  # year 9999


@given(ms=st.integers(_FIRST_MS, _LAST_MS))
def test_a_time_reads_back(ms: int) -> None:
    """RFC 3339, UTC, with milliseconds and Z; what is written is read as the same millisecond."""
    text = rfc3339(ms)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert parse_rfc3339(text) == ms
    assert datetime.fromisoformat(text) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def test_known_times() -> None:
    """The example of the contract, and offsets."""
    assert rfc3339(1_736_528_400_000) == "2025-01-10T17:00:00.000Z"
    assert rfc3339(1_736_528_400_007) == "2025-01-10T17:00:00.007Z"
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert parse_rfc3339("2025-01-10T22:30:00.5+05:30") == 1_736_528_400_500
    assert parse_rfc3339("2025-01-10T17:00:00Z") == 1_736_528_400_000


@pytest.mark.parametrize("text", ["", "now", "2025-01-10", "2025-01-10T17:00:00", "2025-13-10T17:00:00Z"])
def test_what_is_no_time(text: str) -> None:
    """No time zone, no time: neither is guessed."""
    with pytest.raises(ValueError, match=r"."):
        parse_rfc3339(text)


def test_uuid7() -> None:
    """Version and variant of RFC 9562, the time in front, and no two alike."""
    made = [uuid7(START_MS + n // 100) for n in range(1_000)]
    assert len(set(made)) == 1_000
    for n, each in enumerate(made):
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", each)
        assert int(each.replace("-", "")[:12], 16) == START_MS + n // 100
    assert [each[:13] for each in made] == sorted(each[:13] for each in made)


def test_the_virtual_clock_moves_only_when_told() -> None:
    """Both clocks move with advance, the wall clock alone can be set, and time does not run backwards."""
    clock = VirtualClock()
    assert (clock.now_ms(), clock.monotonic_s()) == (START_MS, 0)
    clock.advance(1.5)
    assert (clock.now_ms(), clock.monotonic_s()) == (START_MS + 1_500, 1.5)
    clock.set_wall_ms(5)
    clock.advance(0)
    assert (clock.now_ms(), clock.monotonic_s()) == (5, 1.5)
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)


def test_the_system_clock_is_the_machines() -> None:
    """The wall clock is the year's, and the monotonic one does not go back."""
    clock = SystemClock()
    assert rfc3339(clock.now_ms()) > "2024"
    first = clock.monotonic_s()
    assert clock.monotonic_s() >= first
