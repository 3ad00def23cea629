"""Firestore cut off under load, one outage after the other: what each takes until all has arrived.

`benchmarks.outage` tells how fast answers are meanwhile, `tests/outage/test_load.py` whether they are right.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.users import Load, metrics
from samvad.records import UserKey
from samvad.testing.proxy import Fault, FaultProxy

FAULTS: tuple[Fault, ...] = ("refused", "hung", "reset", "trickle", "slow")
SLOW_S = 0.02  # the delay of the proxy: of each packet where it is slow, of each byte where it trickles
CALLS_PER_NEEDED_MAX = 1.1
DRAIN_S_MAX = 120.0
_POLL_S = 0.02
_CALLS = (
    "samvad_flush_commits_total",
    "samvad_flush_failures_total",
    "samvad_breaker_probes_total",
    "samvad_flush_rebases_total",
    'samvad_store_queue{of="commits"}',  # those under way
)


@dataclass(frozen=True)
class Outage:
    """What one outage took."""

    fault: Fault
    outage_s: float
    drained_s: float
    """Seconds from the return until Firestore had all that had been acknowledged by then."""
    waiting: int
    """Operations in the journal as Firestore came back."""
    calls: int
    """To Firestore, while it was cut off."""
    needed: float
    """Calls that would do: one a second for each user who speaks."""
    spent: Mapping[str, float]
    """By how much the server's measures rose, from the beginning until all had arrived."""

    @property
    def calls_per_needed(self) -> float:
        """Calls made, of those that were needed."""
        return self.calls / self.needed


class Outages:
    """A server under load, the proxy between it and Firestore, and a look at Firestore past both."""

    def __init__(self, load: Load, proxy: FaultProxy, store: Any) -> None:
        self.load = load
        self.proxy = proxy
        self.store = store
        self._before: dict[str, float] = {}
        self._begun_s = 0.0

    async def begin(self, fault: Fault) -> None:
        """Cut Firestore off."""
        self._before, self._begun_s = await metrics(self.load.port), time.monotonic()
        self.proxy.fault = fault

    async def end(self, phase: str = "return") -> Outage:
        """Let Firestore return, and wait until it has what was acknowledged meanwhile; `phase` is the load's now."""
        fault = self.proxy.fault
        assert fault is not None, "begin it first"
        during = await metrics(self.load.port)
        self.load.phase, self.load.degraded = phase, None
        self.proxy.fault = None
        returned_s = time.monotonic()
        await self.drained()
        drained_s = time.monotonic() - returned_s
        after = await metrics(self.load.port)
        outage_s = returned_s - self._begun_s
        return Outage(
            fault,
            outage_s,
            drained_s,
            waiting=int(during["samvad_journal_entries_waiting"]),
            calls=round(sum(during[name] - self._before[name] for name in _CALLS)),
            needed=len(self.load.names) * outage_s,
            spent={name: after[name] - self._before.get(name, 0.0) for name in after},
        )

    async def drained(self) -> None:
        """Wait until Firestore has all that is acknowledged now; TimeoutError where that takes too long."""
        counts = {name: len(said) for name, said in self.load.said.items()}
        async with asyncio.timeout(DRAIN_S_MAX):
            for name, count in counts.items():
                while await self.arrived(name) < count:  # noqa: ASYNC110 (Firestore must be asked)
                    await asyncio.sleep(_POLL_S)

    async def arrived(self, name: str) -> int:
        """How many messages of a user Firestore has."""
        record = await self.store.load(UserKey("default", name), window=1, open_after_ms=0, sessions_max=1)
        return int(record.seq)
