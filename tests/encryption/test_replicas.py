"""Several processes over one store and its keys: each reads what the others seal, and an erasing is final for all."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from samvad.clock import Clock, SystemClock
from samvad.errors import KeyUnavailable, StaleVersion
from samvad.records import (
    Commit,
    Committed,
    Erased,
    SessionSet,
    StateSet,
    StoredSession,
    StoredState,
    UserKey,
    Version,
)
from samvad.records import user_hash as hash_of
from samvad.stores.base import Capabilities
from samvad.stores.data_key_store import MemoryDataKeys
from samvad.stores.data_keys import DataKeys
from samvad.stores.master_keys import LocalMasterKey, MasterKey
from samvad.stores.memory import MemoryStore
from samvad.stores.sealed import SealedStore
from samvad.testing.clock import VirtualClock

pytestmark = pytest.mark.anyio

ASHA, BALA, CHITRA = (UserKey("default", name) for name in ("asha", "bala", "chitra"))
OLD, NEW = (LocalMasterKey(os.urandom(32)) for _ in range(2))
SAID = b'{"topic":"loans"}'


class Shared:
    """One store, one place of keys; `replica` opens one more process over both."""

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.keys = MemoryDataKeys()

    async def replica(self, *masters: MasterKey, clock: Clock | None = None) -> SealedStore:
        """A process with these master keys."""
        store = SealedStore(self.inner, DataKeys(self.keys, masters or (OLD,)), clock=clock or SystemClock())
        await store.open()
        return store

    async def lives_with_a_key(self) -> list[int]:
        """The lives of Asha's of which a key is kept."""
        reader = DataKeys(self.keys, (OLD,))
        await reader.open()
        return sorted(await reader.keys_of(hash_of(ASHA)))


def state(at: int) -> StateSet:
    """A change that saves a state."""
    return StateSet(StoredState(SAID, 1_000 + at, at))


def erasing() -> Erased:
    """A change that erases."""
    return Erased(2_000)


async def loaded(store: SealedStore, user: UserKey = ASHA) -> Any:
    """The record of a user."""
    return await store.load(user, window=10, open_after_ms=0, sessions_max=10)


async def test_a_new_life_that_another_replica_began_is_read() -> None:
    """One that had the key of the life before in memory looks for the new one: the state is not told as damaged."""
    shared = Shared()
    here, elsewhere = await shared.replica(), await shared.replica()
    await elsewhere.commit(Commit(ASHA, Version(0, 0), (state(1),)))
    assert (await loaded(here)).state.body == SAID
    await elsewhere.commit(Commit(ASHA, Version(0, 1), (erasing(),)))
    session = StoredSession("s", "asha", SAID, 3_000, 3_000)
    await elsewhere.commit(Commit(ASHA, Version(1, 0), (state(1), SessionSet(session))))
    record = await loaded(here)
    assert record.state.body == SAID
    assert record.sessions["s"].body == SAID


async def test_a_refused_erasing_brings_no_key_back_that_another_has_destroyed() -> None:
    """Two erase at once: one is refused and puts the key back, then the other succeeds. No key of that life stays."""
    shared = Shared()
    here, elsewhere = await shared.replica(), await shared.replica()
    await here.commit(Commit(ASHA, Version(0, 0), (state(1),)))
    assert await shared.lives_with_a_key() == [0]
    commit = shared.inner.commit
    destroyed, asked, refused = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def in_turn(wanted: Commit) -> Committed:
        """The store answers the one that it refuses once the other has asked as well, and the other after that."""
        if wanted.expected.revision == 0:
            destroyed.set()
            await asked.wait()
        else:
            asked.set()
            await refused.wait()
        return await commit(wanted)

    shared.inner.commit = in_turn  # type: ignore[method-assign,assignment]
    stale = asyncio.ensure_future(here.commit(Commit(ASHA, Version(0, 0), (erasing(),))))
    await destroyed.wait()
    erased = asyncio.ensure_future(elsewhere.commit(Commit(ASHA, Version(0, 1), (erasing(),))))
    with pytest.raises(StaleVersion):
        await stale
    refused.set()
    assert (await erased).version == Version(1, 0)
    assert await shared.lives_with_a_key() == []
    assert await here.data_keys.erasing() == []


async def test_a_replica_reads_and_writes_while_others_rotate_the_master_key() -> None:
    """It has both master keys since it started. Another one has begun to use the new one: nothing is unreadable."""
    shared = Shared()
    here = await shared.replica(OLD, NEW)
    await here.commit(Commit(BALA, Version(0, 0), (state(1),)))
    elsewhere = await shared.replica(NEW, OLD)
    await elsewhere.commit(Commit(ASHA, Version(0, 0), (state(1),)))
    assert (await loaded(here)).state.body == SAID
    await here.commit(Commit(ASHA, Version(0, 1), (state(2),)))
    keys = DataKeys(shared.keys, (NEW, OLD))
    await keys.open()
    await keys.rewrap()
    fresh = await shared.replica(NEW)
    for user in (ASHA, BALA):
        for store in (here, elsewhere, fresh):
            assert (await loaded(store, user)).state.body == SAID
    third = LocalMasterKey(os.urandom(32))
    await shared.replica(third, NEW)
    await (await shared.replica(third, NEW)).commit(Commit(CHITRA, Version(0, 0), (state(1),)))
    with pytest.raises(KeyUnavailable):  # it has not been given this one
        await loaded(here, CHITRA)


async def test_an_erasing_under_way_elsewhere_is_left_alone_until_it_is_abandoned() -> None:
    """It may yet be refused, because the user has written since: upkeep must not erase them for good meanwhile."""
    shared, clock = Shared(), VirtualClock()
    shared.inner.capabilities = Capabilities(durable=True, shared=True)
    here, elsewhere = await shared.replica(clock=clock), await shared.replica(clock=clock)
    await elsewhere.commit(Commit(ASHA, Version(0, 0), (state(1),)))
    commit, destroyed, answered = shared.inner.commit, asyncio.Event(), asyncio.Event()

    async def late(wanted: Commit) -> Committed:
        """The store answers once upkeep is over elsewhere."""
        destroyed.set()
        await answered.wait()
        return await commit(wanted)

    shared.inner.commit = late  # type: ignore[method-assign,assignment]
    stale = asyncio.ensure_future(elsewhere.commit(Commit(ASHA, Version(0, 0), (erasing(),))))
    await destroyed.wait()
    shared.inner.commit = commit  # type: ignore[method-assign]
    await here.expire(receipts_before_ms=0)
    answered.set()
    with pytest.raises(StaleVersion):
        await stale
    assert (await loaded(here)).state.body == SAID
    await DataKeys(shared.keys, (OLD,)).destroy(ASHA, 0)  # and here the process ends
    await here.expire(receipts_before_ms=0)
    assert (await loaded(here)).version.epoch == 0
    clock.advance(31)
    await here.expire(receipts_before_ms=0)
    assert (await loaded(here)).version == Version(1, 0)
    assert await here.data_keys.erasing() == []


async def test_whoever_waits_for_a_refused_erasing_is_answered_whatever_fails() -> None:
    """The store breaks in a way of its own while the keys are put back: the caller still hears of the refusal."""
    shared = Shared()
    here = await shared.replica()
    await here.commit(Commit(ASHA, Version(0, 0), (state(1),)))
    load = shared.inner.load

    async def broken(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    shared.inner.load = broken  # type: ignore[method-assign]
    refused = asyncio.ensure_future(here.commit(Commit(ASHA, Version(0, 0), (erasing(),))))
    answered, _ = await asyncio.wait([refused], timeout=5)
    assert answered and isinstance(refused.exception(), StaleVersion)
    shared.inner.load = load  # type: ignore[method-assign]
    await here.close()


async def test_a_key_is_put_back_though_another_writes_beside_it() -> None:
    """Another replica changes the user's keys at that very moment: the refused erasing is undone all the same."""
    shared = Shared()
    here, elsewhere = [DataKeys(shared.keys, (OLD,)) for _ in range(2)]
    for each in (here, elsewhere):
        await each.open()
    await here.make(hash_of(ASHA), 0)
    before = (await here.destroy(ASHA, 0)).before
    assert before is not None
    swap = shared.keys.swap

    async def after_another(*given: Any) -> bool:
        shared.keys.swap = swap  # type: ignore[method-assign]
        assert await elsewhere.make(hash_of(ASHA), 1) is not None
        return await swap(*given)

    shared.keys.swap = after_another  # type: ignore[method-assign,assignment]
    await here.restore(ASHA, 0, before)
    assert await shared.lives_with_a_key() == [0, 1]
    assert await here.erasing() == []


async def test_of_many_erasings_that_were_cut_off_none_is_passed_over() -> None:
    """More than one look at the keys brings: all are found, and upkeep finishes them."""
    shared = Shared()
    here = await shared.replica()
    users = [UserKey("default", f"user {number}") for number in range(501)]
    for user in users:
        await here.commit(Commit(user, Version(0, 0), (state(1),)))
        await here.data_keys.destroy(user, 0)
    assert {user for user, _ in await here.data_keys.erasing()} == set(users)
    await here.expire(receipts_before_ms=0)
    assert await here.data_keys.erasing() == []
