"""Services with retention rules over every engine, on a clock that the test moves."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Final

from samvad.retention.lease import SweepLease
from samvad.retention.looking import Counts, engine_of
from samvad.retention.rules import DAY_MS
from samvad.runtime import Options, Samvad
from samvad.sessions.journaled import JournaledStore
from samvad.sessions.user_log import Rules as LogRules
from samvad.stores.memory import MemoryStore
from samvad.stores.shared_notes import SharedNote, SharedNotes
from samvad.stores.sqlite import SQLiteStore
from samvad.testing.clock import VirtualClock
from tests.firestore.support import make_store
from tests.journaled.support import journaled

ENGINES: Final = ("memory", "sqlite", "sealed sqlite", "firestore", "sealed firestore", "journaled firestore")
DAY_S: Final = DAY_MS / 1000
MASTER_KEY: Final = base64.b64encode(bytes(range(32))).decode()
LOG_RULES: Final = LogRules()


def service(
    engine: str, clock: VirtualClock, folder: Path, project: str | None = None, **rules: Any
) -> Samvad:
    """A service that keeps interruptions, not yet open."""
    key = MASTER_KEY if engine.startswith("sealed") else None
    options = Options(record_interruptions=True, listen=False, **rules)
    if engine == "memory":
        store: Any = MemoryStore()
    elif engine.endswith("sqlite"):
        store = SQLiteStore(folder / "samvad.db", clock=clock)
    else:
        store = make_store(project, clock=clock)
    if engine.startswith("journaled"):
        store = journaled(store, folder / "journal", clock=clock)
    return Samvad(store, clock=clock, options=options, master_key=key)


async def both(samvad: Samvad) -> Counts:
    """A dry run and then a sweep, which must come to the same."""
    if isinstance(samvad.store, JournaledStore):
        assert (
            await samvad.store.drain(30.0) == 0
        )  # who is on the way to the store for the first time is not old
    dry = await samvad.sweeper.sweep(dry_run=True)
    done = await samvad.sweeper.sweep()
    assert done.counts == dry.counts
    assert done.seen == dry.seen
    return done.counts


async def seqs(samvad: Samvad, user: str) -> list[int]:
    """The seqs of all messages of a user, from the first to the last."""
    found: list[int] = []
    while True:
        page = await samvad.page_history(user, after=found[-1] if found else 0, limit=100)
        found += [message.seq for message in page.messages]
        if not page.has_more:
            return found


class Notes:
    """The notes of a store as they are, but for their age: it also grows with the clock of the test.

    All services of a test share `written`: when each note was written, by that clock.
    """

    def __init__(self, inner: SharedNotes, clock: VirtualClock, written: dict[bytes, float]) -> None:
        self._inner = inner
        self._clock = clock
        self._written = written

    async def get(self, name: str) -> SharedNote | None:
        """See SharedNotes."""
        note = await self._inner.get(name)
        if note is None:
            return None
        since_s = self._clock.monotonic_s() - self._written[note.body]
        return note._replace(age_ms=note.age_ms + round(since_s * 1000))

    async def swap(self, name: str, old: SharedNote | None, body: bytes) -> SharedNote | None:
        """See SharedNotes."""
        self._written[body] = self._clock.monotonic_s()
        return await self._inner.swap(name, old, body)


def leased(samvad: Samvad, written: dict[bytes, float]) -> SweepLease:
    """The lease of a service, on the clock of the test."""
    clock: Any = samvad.core.clock
    sweeper = samvad.sweeper
    sweeper.lease = SweepLease(Notes(engine_of(samvad.store).notes, clock, written), clock)
    return sweeper.lease
