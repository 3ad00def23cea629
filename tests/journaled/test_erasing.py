"""What is erased does not come back: not from the store, the journal, the cache or a replica, in any order."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from samvad.errors import UserErased
from samvad.http.app import create_app
from samvad.records import UserKey
from samvad.stores.memory import MemoryStore
from tests.http.support import Api
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import (
    QUICK,
    abandon,
    bytes_in,
    contents,
    drained,
    in_order,
    opened,
    service,
    store_of,
    turns,
)
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio
CANARY = "canary-7f3a"
KEY = UserKey("default", "asha")


async def memory(seed: int = 0) -> FaultyStore:
    """A store that can fail."""
    store = MemoryStore()
    await store.open()
    return FaultyStore(store, seed)


async def say(samvad: Any, *said: str, **fields: Any) -> None:
    """Append, one by one."""
    for content in said:
        await samvad.append_to_user_history("asha", "user", content, **fields)


async def until_open(samvad: Any) -> None:
    """Wait until the breaker has opened."""

    async def is_open() -> bool:
        return store_of(samvad).breaker.is_open

    await wait_until_async(is_open, "the breaker opens")


async def test_counts(tmp_path: Path) -> None:
    """With the store up the answer counts what was there, pending or stored, and no byte stays in the journal."""
    inner = await memory()
    async with opened(inner, tmp_path / "j", patience=QUICK._replace(write_interval_s=0.2)) as samvad:
        await samvad.save_user_state("asha", {"a": CANARY})
        await samvad.save_session("s1", "asha", metadata={"n": CANARY})
        await drained(samvad)
        await samvad.record_interruption("s1", "i1", 1, b'{"x":"%s"}' % CANARY.encode())
        await say(samvad, CANARY, CANARY)
        assert bytes_in(tmp_path / "j", CANARY.encode()) > 0
        cleared = await samvad.clear_user_data("asha")
        assert not cleared.pending
        assert (cleared.user_state, cleared.user_profile) == (True, True)
        assert (cleared.sessions, cleared.interruptions, cleared.messages) == (1, 1, 2)
        assert bytes_in(tmp_path / "j", CANARY.encode()) == 0
        await say(samvad, "new")
        await drained(samvad)
        assert await contents(inner.store, "asha") == ["new"]
        record = await samvad.read_user("asha")
        assert (record.version.epoch, record.seq, record.state) == (1, 1, None)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("restart", [True, False])
async def test_while_the_store_is_down(tmp_path: Path, known: bool, restart: bool) -> None:
    """202 and pending; reads are empty at once, after a restart as well; purged when the store is back."""
    inner = await memory()
    async with opened(inner, tmp_path / "other") as other:
        await say(other, CANARY)
        await other.save_session("s1", "asha")
        await drained(other)
    samvad = await service(inner, tmp_path / "j").open()
    if known:
        await samvad.get_user_profile("asha")
    inner.down = True
    for _ in range(3):
        await say(samvad, CANARY)
    await until_open(samvad)
    app = create_app(samvad)
    api = Api(samvad, app)
    answer = await api.post("/api/session/refresh", {"userId": "asha"})
    assert (answer.status, answer.json["pending"]) == (202, True)
    await say(samvad, "after")
    if restart:
        await abandon(samvad)
        samvad = await service(inner, tmp_path / "j").open()
    try:
        profile = await samvad.get_user_profile("asha")
        assert [(m.seq, m.content) for m in profile.conversation_history] == [(1, "after")]
        assert [m.content for m in (await samvad.page_history("asha")).messages] == ["after"]
        assert await samvad.get_user_sessions("asha") == []
        inner.down = False
        await drained(samvad)
        assert await contents(inner.store, "asha") == ["after"]
        assert await inner.store.sessions(KEY, open_after_ms=None) == []
        await say(samvad, "more")
        await drained(samvad)
        assert await contents(inner.store, "asha") == ["after", "more"]

        async def scrubbed() -> bool:
            return bytes_in(tmp_path / "j", CANARY.encode()) == 0

        await wait_until_async(scrubbed, "the journal is scrubbed")
    finally:
        await samvad.aclose()


async def test_a_hung_store(tmp_path: Path) -> None:
    """An erasing waits for the store for a while only, and is then answered as pending."""
    inner = await memory()
    async with opened(
        inner, tmp_path / "j", patience=QUICK._replace(erase_wait_s=0.05, call_s=600.0)
    ) as samvad:
        await say(samvad, CANARY)
        await drained(samvad)
        inner.hang()
        async with asyncio.timeout(20):
            assert (await samvad.clear_user_data("asha")).pending
        assert (await samvad.get_user_profile("asha")).history_length == 0
        inner.release()
        await drained(samvad)
        assert await contents(inner.store, "asha") == []


async def test_a_keyed_request_is_not_repeated_after_the_erasing(tmp_path: Path) -> None:
    """Its answer is gone, but not that it was carried out: 409, whoever erased the user."""
    inner = await memory()
    message = {"role": "user", "content": CANARY}
    path = "/api/session/asha/history"
    async with opened(inner, tmp_path / "j", patience=QUICK._replace(write_interval_s=0.2)) as samvad:
        api = Api(samvad, create_app(samvad))
        await say(samvad, "zero")
        assert (await api.post(path, message, headers={"Idempotency-Key": "k1"})).status == 200
        await samvad.clear_user_data("asha")
        await api.refused(409, UserErased.code, "POST", path, message, headers={"Idempotency-Key": "k1"})
        await drained(samvad)
        await say(samvad, "one")
        await drained(samvad)
        async with opened(inner, tmp_path / "other") as other:
            assert (await api.post(path, message, headers={"Idempotency-Key": "k2"})).status == 200
            await other.clear_user_data("asha")
        await drained(samvad)
        await api.refused(409, UserErased.code, "POST", path, message, headers={"Idempotency-Key": "k2"})
        await drained(samvad)
        assert await contents(inner.store, "asha") == []

        async def scrubbed() -> bool:
            return bytes_in(tmp_path / "j", CANARY.encode()) == 0

        await wait_until_async(scrubbed, "the journal is scrubbed")


@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=pytest.mark.soak) if n >= 100 else n for n in range(1_000)]
)
async def test_races(tmp_path: Path, seed: int) -> None:
    """Erasing races appends, flushes, loads, failures and a restart: what was acknowledged before it stays away."""
    chance = random.Random(seed)
    inner = await memory(seed)
    inner.cut = chance.choice([0.0, 0.0, 0.4])
    patience = QUICK._replace(write_interval_s=chance.choice([0.0, 0.001, 0.005]), erase_wait_s=0.01)
    samvad = await service(inner, tmp_path / "j", patience=patience).open()
    old: list[str] = []
    new: list[str] = []
    erased = asyncio.Event()

    async def speaker(number: int) -> None:
        for turn in range(6):
            life = new if erased.is_set() else None
            content = f"{CANARY}.{number}.{turn}"
            await samvad.append_to_user_history("asha", "user", content)
            if life is not None:
                life.append(content)
            elif not asking.is_set():
                old.append(content)
            await turns(chance.randrange(4) if chance.random() < 0.8 else 40)

    async def reader() -> None:
        for _ in range(6):
            samvad.core.lanes.invalidate(KEY)
            await samvad.get_user_profile("asha")
            await asyncio.sleep(0)

    async def outage() -> None:
        if chance.random() < 0.5:
            inner.down = True
            await turns(chance.randrange(300))
            inner.down = False

    async def eraser() -> None:
        await turns(chance.randrange(30))
        asking.set()
        await samvad.clear_user_data("asha")
        erased.set()

    asking = asyncio.Event()
    await samvad.get_user_profile("asha")
    work = [speaker(0), speaker(1), reader(), outage(), eraser()]
    chance.shuffle(work)
    await asyncio.gather(*work)
    if chance.random() < 0.5:
        await abandon(samvad)
        samvad = await service(inner, tmp_path / "j", patience=patience).open()
    inner.cut = 0
    await drained(samvad)
    history = await contents(inner.store, "asha")
    assert not set(history) & set(old)
    assert set(new) <= set(history)
    for number in (0, 1):
        mine = [content for content in new if content.split(".")[1] == str(number)]
        assert in_order(mine, history)
    profile = await samvad.get_user_profile("asha")
    assert [m.content for m in profile.conversation_history] == history
    assert not store_of(samvad).flusher.parked()
    for content in old:
        needle = f'{content}"'.encode()

        async def scrubbed(needle: bytes = needle) -> bool:
            return bytes_in(tmp_path / "j", needle) == 0

        await wait_until_async(scrubbed, "the journal is scrubbed")
    await samvad.aclose()
