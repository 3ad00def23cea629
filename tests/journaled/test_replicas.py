"""Several services, each with a journal of its own, over one store: one order on which all agree."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from samvad.clock import SystemClock
from samvad.records import UserKey
from samvad.stores.base import Store
from samvad.stores.memory import MemoryStore
from samvad.stores.urls import store_from_url
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import QUICK, contents, drained, in_order, opened, store_of, stored, turns

pytestmark = pytest.mark.anyio
USERS = ("asha", "ravi")


@pytest.fixture(params=["memory", "sqlite"])
async def inner(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FaultyStore]:
    """One real store for all replicas."""
    real: Store = (
        MemoryStore()
        if request.param == "memory"
        else store_from_url(f"sqlite:///{tmp_path / 'inner.db'}", SystemClock())
    )
    await real.open()
    yield FaultyStore(real, seed=3)
    await real.close()


async def refreshed(samvads: list[Any]) -> None:
    """What a listener on the store's heads does: say that a user's record may have changed."""
    for samvad in samvads:
        for user in USERS:
            samvad.core.lanes.invalidate(UserKey("default", user))


@pytest.mark.parametrize(("replicas", "cut"), [(2, 0.0), (3, 0.0), (3, 0.2)])
async def test_one_order(inner: FaultyStore, tmp_path: Path, replicas: int, cut: float) -> None:
    """Each caller's own order is kept, nothing is lost or there twice, and all show the same in the end."""
    inner.cut = cut
    chance = random.Random(replicas)
    patience = QUICK._replace(write_interval_s=0.005)
    async with (
        opened(inner, tmp_path / "0", patience=patience) as a,
        opened(inner, tmp_path / "1", patience=patience) as b,
        opened(inner, tmp_path / "2", patience=patience) as c,
    ):
        samvads = [a, b, c][:replicas]
        said: dict[tuple[str, int], list[str]] = {(u, n): [] for u in USERS for n in range(replicas)}
        keys: dict[str, int] = dict.fromkeys(USERS, 0)

        async def caller(number: int) -> None:
            for turn in range(60):
                user = chance.choice(USERS)
                content = f"{number}.{turn}"
                said[user, number].append(content)
                given = {"id": f"id-{content}"} if chance.random() < 0.3 else {}
                await samvads[number].append_to_user_history(user, "user", content, **given)
                if chance.random() < 0.3:
                    keys[user] += 1
                    await samvads[number].save_user_state(user, {f"{number}.{turn}": turn})
                if chance.random() < 0.1:
                    await samvads[number].save_session(f"{user}-{number}-{turn}", user)
                await turns(chance.randrange(200))

        await asyncio.gather(*[caller(number) for number in range(replicas)])
        await drained(*samvads)
        inner.cut = 0
        await refreshed(samvads)
        for user in USERS:
            history = await contents(inner.store, user)
            assert sorted(history) == sorted(x for n in range(replicas) for x in said[user, n])
            for number in range(replicas):
                assert in_order(said[user, number], history)
            for samvad in samvads:
                profile = await samvad.get_user_profile(user)
                assert [m.content for m in profile.conversation_history] == history[-100:]
                state = await samvad.get_user_state(user)
                assert state is not None and (len(state.state), state.version) == (keys[user], keys[user])
        assert sum(store_of(s).flusher.rebases for s in samvads) > 0
        assert sum(store_of(s).flusher.overtaken for s in samvads) == 0


async def test_a_stale_record_is_refreshed(inner: FaultyStore, tmp_path: Path) -> None:
    """Who wrote on top of what another replica changed shows what the store has, as soon as that is known."""
    async with opened(inner, tmp_path / "0") as a, opened(inner, tmp_path / "1") as b:
        await a.append_to_user_history("asha", "user", "a1")
        await drained(a)
        await b.append_to_user_history("asha", "user", "b1")
        await drained(b)
        told = await a.append_to_user_history("asha", "user", "a2")
        assert told.seq == 2
        await drained(a)
        profile = await a.get_user_profile("asha")
        assert [(m.seq, m.content) for m in profile.conversation_history] == [(1, "a1"), (2, "b1"), (3, "a2")]
        assert profile.conversation_history[2].id == told.message_id
        again = await a.append_to_user_history("asha", "user", "a2", id=told.message_id)
        assert (again.duplicate, again.seq) == (True, 3)


async def test_a_moved_message_is_known_by_the_id_that_was_told(inner: FaultyStore, tmp_path: Path) -> None:
    """Further back than the window too: the id names the place it was told for, not the one it has."""
    async with opened(inner, tmp_path / "0") as a, opened(inner, tmp_path / "1") as b:
        await a.append_to_user_history("asha", "user", "a1")
        await drained(a)
        await b.append_to_user_history("asha", "user", "b1")
        await drained(b)
        told = await a.append_to_user_history("asha", "user", "a2")
        await a.append_many("asha", [{"role": "user", "content": "x"}] * 60)
        await a.append_many("asha", [{"role": "user", "content": "x"}] * 60)
        await drained(a)
        await a.append_to_user_history("asha", "user", "a2", id=told.message_id)
        await drained(a)
        assert len(await stored(inner.store, "asha")) == 123


async def test_a_repetition_that_is_found_late(inner: FaultyStore, tmp_path: Path) -> None:
    """By an id further back than the window: it is taken out, what follows takes its place, and followers are told."""
    slow = QUICK._replace(write_interval_s=60.0)
    async with opened(inner, tmp_path / "0", patience=slow) as a:
        await a.append_to_user_history("asha", "user", "first", id="first")
        await a.append_many("asha", [{"role": "user", "content": "x"}] * 100)
        assert await store_of(a).drain(20.0) == 0
        told: list[tuple[int, str]] = []
        a.core.lanes.is_followed = lambda key: True
        a.core.lanes.on_published.append(lambda key, record, new: told.extend((m.seq, m.id) for m in new))
        assert (await a.append_to_user_history("asha", "user", "first", id="first")).seq == 102
        last = await a.append_to_user_history("asha", "user", "last")
        assert last.seq == 103
        assert await store_of(a).drain(20.0) == 0
        history = await stored(inner.store, "asha")
        assert [(m.seq, m.id) for m in history[-1:]] == [(102, last.message_id)]
        profile = await a.get_user_profile("asha")
        assert profile.conversation_history[-1].seq == 102
        assert told[-1] == (102, last.message_id)


async def test_erased_on_another_replica(inner: FaultyStore, tmp_path: Path) -> None:
    """What was acknowledged here before another replica erased the user does not come back with the next flush."""
    async with (
        opened(inner, tmp_path / "0", patience=QUICK._replace(write_interval_s=0.3)) as a,
        opened(inner, tmp_path / "1") as b,
    ):
        await a.append_to_user_history("asha", "user", "one")
        await drained(a)
        await a.append_to_user_history("asha", "user", "canary")
        assert store_of(a).flusher.entries_waiting == 1
        assert (await b.clear_user_data("asha")).messages == 1
        await drained(a)
        assert await contents(inner.store, "asha") == []
        assert (await a.get_user_profile("asha")).history_length == 0
        assert (await a.append_to_user_history("asha", "user", "new")).seq == 1
        await drained(a)
        assert await contents(inner.store, "asha") == ["new"]
