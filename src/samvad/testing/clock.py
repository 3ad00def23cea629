"""Time that stands still until a test moves it."""

from __future__ import annotations

from typing import Final

START_MS: Final = 1_736_528_400_000
"""2025-01-10T17:00:00.000Z: where the wall clock of a VirtualClock begins if nothing else is said."""


class VirtualClock:
    """A `samvad.clock.Clock` that a test drives: both clocks move with `advance`, and by nothing else.

    `start_ms` is the wall clock at first, in milliseconds since 1970 UTC; the monotonic clock begins at 0.
    """

    def __init__(self, start_ms: int = START_MS) -> None:
        self._wall_ms = start_ms
        self._monotonic_ms = 0

    def now_ms(self) -> int:
        """The wall clock, in milliseconds since 1970 UTC."""
        return self._wall_ms

    def monotonic_s(self) -> float:
        """The clock that never jumps, in seconds."""
        return self._monotonic_ms / 1000

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks; ValueError for less than none."""
        if seconds < 0:
            raise ValueError("time does not run backwards; set_wall_ms moves the wall clock alone")
        elapsed_ms = round(seconds * 1000)
        self._wall_ms += elapsed_ms
        self._monotonic_ms += elapsed_ms

    def set_wall_ms(self, now_ms: int) -> None:
        """Set the wall clock, backwards too, as an operator or NTP does; the monotonic clock goes on unmoved."""
        self._wall_ms = now_ms
