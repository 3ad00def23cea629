"""Services behind journals, and how to look at what their stores have."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import msgspec

from samvad import limits
from samvad.clock import Clock, SystemClock
from samvad.records import StoredMessage, UserKey
from samvad.runtime import Options, Samvad
from samvad.sessions.breaker import Patience
from samvad.sessions.journal import Journal
from samvad.sessions.journaled import JournaledStore
from samvad.sessions.user_log import Rules
from samvad.stores.base import Store
from tests.support import wait_until_async

QUICK = Patience(
    write_interval_s=0.02,
    gather_s=0.0,
    erase_wait_s=0.5,
    call_s=5.0,
    retry_s_max=0.005,
    probe_s_min=0.005,
    probe_s_max=0.02,
    clock_skew_s=0.0,  # all replicas of a test have one clock, unless it says otherwise
)


class SkewedClock(SystemClock):
    """A clock that is wrong by so many milliseconds."""

    def __init__(self, wrong_ms: int) -> None:
        self.wrong_ms = wrong_ms

    def now_ms(self) -> int:
        return super().now_ms() + self.wrong_ms


def journaled(
    inner: Any,
    directory: Path,
    *,
    patience: Patience = QUICK,
    clock: Clock | None = None,
    memory_bytes_max: int = limits.PENDING_MEMORY_BYTES_MAX,
    **journal: Any,
) -> JournaledStore:
    """A store behind a journal that does not take its time."""
    return JournaledStore(
        inner,
        Journal(directory, **journal),
        clock=clock or SystemClock(),
        rules=Rules(durability="journaled"),
        patience=patience,
        memory_bytes_max=memory_bytes_max,
    )


def service(
    inner: Any, directory: Path, *, patience: Patience = QUICK, clock: Clock | None = None, **journal: Any
) -> Samvad:
    """A service over `inner` behind a journal."""
    store = journaled(inner, directory, patience=patience, clock=clock, **journal)
    return Samvad(store, clock=clock, options=Options())


def store_of(samvad: Samvad) -> JournaledStore:
    """The journaled store of a service."""
    assert isinstance(samvad.store, JournaledStore)
    return samvad.store


@contextlib.asynccontextmanager
async def opened(inner: Any, directory: Path, **more: Any) -> AsyncIterator[Samvad]:
    """A service that is open, and closed without draining where the test is over."""
    samvad = service(inner, directory, **more)
    await samvad.open()
    try:
        yield samvad
    finally:
        await samvad.aclose(drain_s=0.5)


async def abandon(samvad: Samvad) -> None:
    """Let go of everything as a killed process does: nothing is drained, written down or told.

    The journal's files are as they were at this moment: its lock is released without sealing anything.
    """
    store = store_of(samvad)
    flusher = store.flusher
    flusher._stopped = flusher.scrubber._stopped = True
    tasks = [lane.task for lane in flusher._lanes.values() if lane.task is not None]
    tasks += [
        task for task in (flusher.scrubber.task, store.breaker._prober, samvad._upkeep) if task is not None
    ]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    store.journal.forget = lambda number: None  # type: ignore[method-assign]
    await store.journal.close()


async def drained(*samvads: Samvad) -> None:
    """Wait until nothing is pending."""

    async def empty() -> bool:
        return not any(store_of(s).flusher.entries_waiting for s in samvads)

    await wait_until_async(empty, "everything is in the store")


async def stored(store: Store, user: str) -> list[StoredMessage]:
    """The user's whole history in the store, whose seq have no hole and whose bodies say the same."""
    record = await store.load(UserKey("default", user), window=100_000, open_after_ms=-1, sessions_max=999)
    assert [m.seq for m in record.window] == list(range(1, record.seq + 1))
    assert [msgspec.json.decode(m.body)["seq"] for m in record.window] == [m.seq for m in record.window]
    ids = [m.id for m in record.window]
    assert len(set(ids)) == len(ids)
    return list(record.window)


async def contents(store: Store, user: str) -> list[str]:
    """What was said, in order."""
    return [msgspec.json.decode(m.body)["content"] for m in await stored(store, user)]


async def turns(count: int) -> None:
    """Let others run for so many turns of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


def in_order(said: Iterable[str], history: list[str]) -> bool:
    """Whether all that one caller said stands in the history, once each, in their order."""
    said = list(said)
    mine = set(said)
    return [content for content in history if content in mine] == said


def bytes_in(directory: Path, needle: bytes) -> int:
    """How many times some bytes stand in the files of a directory."""
    count = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # a segment may just be written anew
            count += path.read_bytes().count(needle)
    return count
