"""When the flusher calls the store: on virtual time, with the patience of production."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from itertools import pairwise
from pathlib import Path

import pytest

from samvad.runtime import Samvad
from samvad.sessions.breaker import FAILURES_MAX, Patience
from samvad.stores.memory import MemoryStore
from samvad.testing.loop import VirtualLoop, run
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import contents, store_of
from tests.journaled.virtual import virtual_service

PATIENCE = Patience()
OUTAGE_S = 600
SPEAK_EVERY_S = 5
USERS = 10
CALLS_PER_NEEDED_MAX = 1.1
ROUNDS = 200
TOLERANCE_S = 0.002  # the clock counts whole milliseconds


@contextlib.asynccontextmanager
async def opened(loop: VirtualLoop, directory: Path) -> AsyncIterator[tuple[Samvad, FaultyStore]]:
    """A service with the defaults, on virtual time; only the journal's thread works in real time."""
    store = MemoryStore()
    await store.open()
    inner = FaultyStore(store)
    samvad = virtual_service(loop, inner, directory, PATIENCE)
    await samvad.open()
    try:
        yield samvad, inner
    finally:
        await samvad.aclose(drain_s=0)


async def all_say(samvad: Samvad, users: Iterable[str], content: str) -> None:
    """Each user says it, all at once."""
    await asyncio.gather(*[samvad.append_to_user_history(user, "user", content) for user in users])


def test_one_write_a_second(tmp_path: Path) -> None:
    """However fast a user talks, their document is written at most once a second; two users do not wait for another."""

    async def main(loop: VirtualLoop) -> dict[str, list[float]]:
        async with opened(loop, tmp_path) as (samvad, inner):
            times: dict[str, list[float]] = {"asha": [], "ravi": []}
            inner.on_commit = lambda commit: times[commit.user.user_id].append(loop.time())
            for number in range(ROUNDS):
                await all_say(samvad, times, str(number))
                await asyncio.sleep(0.1)
            await asyncio.sleep(5)
            for user in times:
                assert await contents(inner.store, user) == [str(number) for number in range(ROUNDS)]
            return times

    for times in run(main).values():
        assert min(b - a for a, b in pairwise(times)) >= PATIENCE.write_interval_s - TOLERANCE_S
        assert 15 <= len(times) <= 22  # and they are not written much more rarely than they may be


@pytest.mark.parametrize("hung", [False, True])
def test_ten_minutes_of_outage(tmp_path: Path, hung: bool) -> None:
    """A few failures, then jittered probes and nothing else; what waited is brought soon after, one commit a user."""

    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, tmp_path) as (samvad, inner):
            users = [f"user-{number}" for number in range(USERS)]
            breaker = store_of(samvad).breaker
            await all_say(samvad, users, "before")
            await asyncio.sleep(10)
            calls_before, began_s = inner.calls, loop.time()
            if hung:
                inner.hang()
            else:
                inner.down = True
            probed: list[float] = []
            while loop.time() < began_s + OUTAGE_S:
                await all_say(samvad, users, f"at {loop.time():.0f}")
                for _ in range(SPEAK_EVERY_S):
                    await asyncio.sleep(1)
                    if inner.probes > len(probed):
                        probed.append(loop.time())
            tried = inner.calls - calls_before
            assert breaker.is_open and breaker.times_opened == 1
            # What was under way as the store fell silent fails with it; after that, nobody but the probe asks.
            assert FAILURES_MAX <= tried <= (USERS if hung else 0) + 2 * FAILURES_MAX
            assert (
                tried + inner.probes <= CALLS_PER_NEEDED_MAX * OUTAGE_S
            )  # of one user who writes once a second
            assert OUTAGE_S / (PATIENCE.probe_s_max + PATIENCE.call_s) <= inner.probes <= OUTAGE_S / 3
            waits = {round(b - a) for a, b in pairwise(probed)}
            assert len(waits) > 3 and max(waits) <= PATIENCE.probe_s_max + PATIENCE.call_s + 1
            said = OUTAGE_S // SPEAK_EVERY_S
            assert store_of(samvad).flusher.entries_waiting == USERS * said

            inner.down = False
            inner.release()
            calls_before, began_s = inner.calls, loop.time()
            while store_of(samvad).flusher.entries_waiting:
                assert loop.time() < began_s + PATIENCE.probe_s_max + PATIENCE.call_s + 15
                await asyncio.sleep(0.1)
            # A commit for each user, and before it at most one more: what was on its way as the store fell silent is
            # sent again as it was, or the record is looked at.
            assert inner.calls - calls_before <= 2 * USERS
            for user in users:
                assert len(await contents(inner.store, user)) == said + 1

    run(main)
