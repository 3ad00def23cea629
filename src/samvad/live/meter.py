"""What happens in live conversations, counted: for operators. Never an id, never content, no label without bound.

Plain numbers on the event loop; `samvad.http.live_metrics` makes Prometheus' families of them when asked.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from samvad.errors import ProviderUnavailable
from samvad.interruptions.rules import INTERRUPTION_TYPES
from samvad.meters import Histogram

FIRST_BOUNDS_S: Final = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
OTHER: Final = "other"
FAULTS: Final = frozenset(
    {
        ProviderUnavailable.code,
        "internal",
        *("provider_busy", "provider_closed", "provider_failed", "provider_lost"),
        *("provider_refused", "provider_stalled"),
    }
)


class LiveMeter:
    """The counters of one server."""

    def __init__(self) -> None:
        self.turns: Counter[str] = Counter()  # by how they ended: complete, interrupted, failed
        self.interruptions: Counter[str] = Counter()  # by type, as first understood
        self.false_alarms = 0
        self.faults: Counter[str] = Counter()  # of providers, by code
        self.reconnects: Counter[str] = Counter()  # of providers: resumed, begun_anew
        self.tool_calls: Counter[str] = Counter()  # ok, failed
        self.ended: Counter[str] = Counter()  # connections, by the reason that they were told
        self.slow_reader_bytes = 0  # that waited for clients who were cut off, and were dropped
        self.warnings: Counter[str] = Counter()  # before a limit: spoken, written
        self.first = Histogram(FIRST_BOUNDS_S)

    def interrupted(self, kind: str) -> None:
        """An answer was interrupted."""
        self.interruptions[kind if kind in INTERRUPTION_TYPES else OTHER] += 1

    def fault(self, code: str) -> None:
        """A provider has failed; those of other packages have codes of their own."""
        self.faults[code if code in FAULTS else OTHER] += 1

    def first_piece(self, seconds: float) -> None:
        """The first of an answer came so long after the end of what the user said."""
        self.first.add(seconds)
