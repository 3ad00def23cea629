"""Time, ids and randomness, passed in so that tests can drive them. Order is `seq`, never a clock."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Final, Protocol


class Clock(Protocol):
    """Where time comes from."""

    def now_ms(self) -> int:
        """The wall clock, in milliseconds since 1970 UTC: for timestamps that people read."""
        ...

    def monotonic_s(self) -> float:
        """A clock that never jumps, in seconds: for time-to-live and waiting."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    monotonic_s = staticmethod(time.monotonic)


_formatted: dict[int, str] = {}
_FORMATTED_MAX: Final = 100
_last_second: tuple[int, str] = (-1, "")


def rfc3339(ms: int) -> str:
    """Milliseconds since 1970 as `2025-01-10T17:00:00.000Z` (RFC 3339, UTC).

    Formatting costs several µs: the last answers are kept, and of the last second all but the milliseconds.
    """
    text = _formatted.get(ms)
    return _format(ms) if text is None else text


def _format(ms: int) -> str:
    global _last_second
    second = ms // 1000
    last, text = _last_second
    if last != second:
        moment = datetime.fromtimestamp(second, UTC)
        text = f"{moment:%Y-%m-%dT%H:%M:%S}".zfill(19)
        _last_second = (second, text)
    if len(_formatted) >= _FORMATTED_MAX:
        _formatted.clear()
    _formatted[ms] = text = f"{text}.{ms - second * 1000:03d}Z"
    return text


def parse_rfc3339(text: str) -> int:
    """The milliseconds since 1970 of an RFC 3339 timestamp; ValueError if it is none."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; end it with 'Z'")
    return round(moment.timestamp() * 1000)


_random: list[str] = []


def random_hex() -> str:
    """80 random bits as 20 hexadecimal digits, from the system's generator; drawn a thousand at a time."""
    if not _random:
        _random.extend(os.urandom(10_000).hex(" ", 10).split())
    return _random.pop()


_last_uuid = 0


def uuid7(now_ms: int) -> str:
    """A UUID of version 7 (RFC 9562, section 5.7): 48 bits of time, 74 of randomness, as 36 characters."""
    value = (now_ms & 0xFFFFFFFFFFFF) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    global _last_uuid
    if value <= _last_uuid and value >> 80 == _last_uuid >> 80:
        value = _last_uuid + 1  # within one millisecond they sort in the order in which they were made
    _last_uuid = value
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
