"""A search gives way to whoever waits for its core: it takes milliseconds, and an append waits for no search."""

from __future__ import annotations

import os

# Linux lets a process go on until its slice is over (a tick, 4 ms) also where one of a higher priority wakes up. One
# that offers its core all the time is left at the next offer; where nobody waits, that costs 0.3 µs.
_offer = getattr(os, "sched_yield", lambda: None)


def stand_aside() -> bool:
    """Offer the core to whoever waits for it. False: go on (what SQLite asks of a progress handler)."""
    _offer()
    return False
