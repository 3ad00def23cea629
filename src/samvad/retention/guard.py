"""Whether the clock can be believed: one that has jumped ahead would make everything old at once.

At the start the clock is held against the newest time in the store, and from then on against the monotonic clock. Where
it is ahead of that by more than `slack_ms`, nothing is swept for as long as `slack_ms`: an operator sees it in the log
in the meantime. After that the clock is believed: the store had simply been quiet.
"""

from __future__ import annotations


class ClockGuard:
    """Knows what time it can be at the latest."""

    def __init__(self, newest_ms: int | None, now_ms: int, monotonic_s: float, slack_ms: int) -> None:
        self._slack_ms = slack_ms
        self._base_ms = now_ms if newest_ms is None else newest_ms
        self._base_s = monotonic_s
        self._doubted_s: float | None = None

    def ahead_ms(self, now_ms: int, monotonic_s: float) -> int:
        """By how much the clock is ahead of what it can be; 0 where it is to be believed."""
        ahead = now_ms - self._base_ms - round((monotonic_s - self._base_s) * 1000)
        if ahead > self._slack_ms:
            if self._doubted_s is None:
                self._doubted_s = monotonic_s
            if (monotonic_s - self._doubted_s) * 1000 < self._slack_ms:
                return ahead
        self._doubted_s = None
        self._base_ms, self._base_s = now_ms, monotonic_s
        return 0
