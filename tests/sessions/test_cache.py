"""Records in memory: so long, so many bytes, one load for all who wait, and nothing dropped that is on its way."""

from __future__ import annotations

import asyncio
import random

import pytest

from samvad import open_samvad
from samvad.errors import StoreUnavailable
from samvad.records import UserKey
from samvad.runtime import Samvad
from samvad.sessions.cache import RecordCache
from samvad.stores.memory import MemoryStore
from samvad.testing.clock import VirtualClock
from tests.sessions.faulty import FaultyStore

pytestmark = pytest.mark.anyio


class Entry:
    """Something to be cached."""

    def __init__(self, size_bytes: int = 0, busy: bool = False) -> None:
        self.size_bytes = size_bytes
        self.busy = busy
        self.used_s = 0.0


def key(n: int) -> UserKey:
    """The key of a user."""
    return UserKey("default", str(n))


def service(clock: VirtualClock | None = None, **settings: object) -> tuple[Samvad, FaultyStore]:
    """A service over a store that counts."""
    store = FaultyStore(MemoryStore())
    return open_samvad(store=store, clock=clock, **settings), store


def test_an_entry_lives_for_its_time_since_last_use() -> None:
    """Used in time it lives on; unused it is gone, at the next look or the next sweep."""
    clock = VirtualClock()
    cache: RecordCache[Entry] = RecordCache(clock, ttl_s=60, bytes_max=1_000)
    entry = Entry()
    cache.add(key(1), entry)
    cache.add(key(2), Entry())
    clock.advance(60)
    assert cache.get(key(1)) is entry
    clock.advance(1)
    assert cache.sweep() == 1
    assert len(cache) == 1
    clock.advance(59)
    assert cache.get(key(1)) is entry
    clock.advance(60.1)
    assert cache.get(key(1)) is None
    assert (len(cache), cache.bytes_held) == (0, 0)


def test_the_bytes_are_bounded_and_the_least_recently_used_go_first() -> None:
    """Growing beyond the bound drops others, oldest use first, and no more of them than needed."""
    cache: RecordCache[Entry] = RecordCache(VirtualClock(), ttl_s=60, bytes_max=100)
    entries = [Entry() for _ in range(5)]
    for n, entry in enumerate(entries):
        cache.add(key(n), entry)
        cache.resize(entry, 20)
    cache.get(key(0))
    cache.resize(entries[4], 40)
    assert [n for n in range(5) if cache.get(key(n))] == [0, 2, 3, 4]
    assert (cache.bytes_held, cache.evictions) == (100, 1)
    cache.resize(entries[4], 1_000)  # alone it may be larger than the bound
    assert list(cache) == [entries[4]]
    assert cache.bytes_held == 1_000


def test_what_is_busy_is_not_dropped() -> None:
    """Not for its age, not for its size."""
    clock = VirtualClock()
    cache: RecordCache[Entry] = RecordCache(clock, ttl_s=60, bytes_max=100)
    busy, idle = Entry(busy=True), Entry()
    cache.add(key(1), busy)
    cache.add(key(2), idle)
    clock.advance(100)
    assert cache.get(key(1)) is busy
    assert cache.sweep() == 1
    cache.resize(busy, 90)
    other = Entry()
    cache.add(key(3), other)
    cache.resize(other, 50)
    assert list(cache) == [busy, other]


@pytest.mark.parametrize("seed", range(20))
def test_the_bytes_held_are_those_of_the_entries(seed: int) -> None:
    """Whatever happens in whatever order, the sum is right."""
    chance, clock = random.Random(seed), VirtualClock()
    cache: RecordCache[Entry] = RecordCache(clock, ttl_s=5, bytes_max=300)
    for _ in range(300):
        n = chance.randrange(12)
        match chance.randrange(5):
            case 0 | 1:
                if (entry := cache.get(key(n))) is None:
                    entry = Entry()
                    cache.add(key(n), entry)
                cache.resize(entry, chance.randrange(100))
            case 2:
                cache.discard(key(n))
            case 3:
                clock.advance(chance.random())
            case 4:
                cache.sweep()
        assert cache.bytes_held == sum(entry.size_bytes for entry in cache)


async def test_one_load_for_all_who_wait() -> None:
    """A hundred readers of a user who is not in memory cost one read of the store."""
    samvad, store = service()
    async with samvad:
        profiles = await asyncio.gather(*[samvad.get_user_profile("asha") for _ in range(100)])
        assert {profile.history_length for profile in profiles} == {0}
        assert store.loads == 1
        await asyncio.gather(*[samvad.append_to_user_history("asha", "user", "x") for _ in range(100)])
        assert store.loads == 1


async def test_a_failed_load_is_told_to_all_and_tried_again() -> None:
    """Nobody is left waiting, nothing that looks true is answered, and the next reader loads anew."""
    samvad, store = service()
    async with samvad:
        store.loads_fail = StoreUnavailable()
        answers = await asyncio.gather(
            *[samvad.get_user_profile("asha") for _ in range(10)], return_exceptions=True
        )
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        assert (store.loads, len(samvad.cache)) == (1, 0)
        store.loads_fail = None
        assert (await samvad.get_user_profile("asha")).history_length == 0


async def test_a_record_is_loaded_again_after_its_time() -> None:
    """Thirty minutes without use, and it is read from the store: the same record."""
    clock = VirtualClock()
    samvad, store = service(clock)
    async with samvad:
        await samvad.append_to_user_history("asha", "user", "x")
        clock.advance(30 * 60 - 1)
        before = await samvad.get_user_profile("asha")
        assert store.loads == 1
        clock.advance(30 * 60 + 1)
        assert await samvad.get_user_profile("asha") == before
        assert store.loads == 2


@pytest.mark.parametrize("bytes_max", [1, 6_000, 20_000])
async def test_a_cache_too_small_for_its_users_loses_and_doubles_nothing(bytes_max: int) -> None:
    """Records come and go all the time, and yet each caller reads at once what they wrote, in its order."""
    samvad, _ = service(cache_bytes_max=bytes_max)
    users = [f"user {n}" for n in range(6)]

    async def talk(user: str, writer: int) -> None:
        for n in range(15):
            appended = await samvad.append_to_user_history(user, "user", f"{writer}-{n}")
            profile = await samvad.get_user_profile(user)
            assert profile.position.seq >= appended.seq
            assert profile.conversation_history[appended.seq - 1].content == f"{writer}-{n}"

    async with samvad:
        await asyncio.gather(*[talk(user, writer) for user in users for writer in range(3)])
        for user in users:
            contents = [m.content for m in (await samvad.get_user_profile(user)).conversation_history]
            assert len(contents) == len(set(contents)) == 45
            for writer in range(3):
                assert [c for c in contents if c.startswith(f"{writer}-")] == [
                    f"{writer}-{n}" for n in range(15)
                ]
        assert samvad.cache.bytes_held == sum(lane.size_bytes for lane in samvad.cache)
        largest = max(lane.size_bytes for lane in samvad.cache)
        assert samvad.cache.bytes_held <= max(bytes_max, largest) + 500


async def test_a_waiter_keeps_its_lane(anyio_backend: object) -> None:
    """Between the end of a load and the turn of who waited for it, the record is not dropped and made twice."""
    samvad, _ = service(cache_bytes_max=1)
    async with samvad:
        for _ in range(50):
            await asyncio.gather(*[samvad.append_to_user_history(f"u{n}", "user", "x") for n in range(5)])
        held = {lane.key for lane in samvad.cache}
        assert len(held) == len(list(samvad.cache))
        assert samvad.cache.bytes_held == sum(lane.size_bytes for lane in samvad.cache)
        assert samvad.core.lanes.operations_waiting == 0
