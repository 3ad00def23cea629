"""The network between the store and Firestore fails in every way that a TCP proxy can bring about."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest

from samvad.errors import StaleVersion, StoreUnavailable
from samvad.records import Commit, Committed, MessagesAdded, Origin, StateSet, StoredState, UserKey, Version
from samvad.testing.model import raw_message
from samvad.testing.proxy import Fault, FaultProxy
from tests.firestore.support import emulator, make_store, open_store
from tests.support import short_and_long, wait_until_async

pytestmark = pytest.mark.anyio
ASHA = UserKey("default", "asha")
CUTS = short_and_long(100, 500)


def appended(user: UserKey, seq: int, version: Version, origin: Origin | None = None) -> Commit:
    """One message, and the state along with it: two documents that must agree."""
    state = StateSet(StoredState(b'{"n":%d}' % seq, seq, seq))
    message = raw_message(seq, f"{user.user_id} {seq}", seq)
    return Commit(user, version, (MessagesAdded((message,)), state), origin)


async def assert_gapless(store: Any, user: UserKey, count: int) -> None:
    """The user's history is the messages 1 to `count`, each once, and the state is that of the last."""
    messages, _ = await store.page(user, after=0, before=None, limit=10_000, bytes_max=1 << 40)
    assert [m.id for m in messages] == [f"{user.user_id} {seq}" for seq in range(1, count + 1)]
    record = await store.load(user, window=1, open_after_ms=0, sessions_max=1)
    assert (record.version.revision, record.seq, record.state.version) == (count, count, count)


@pytest.mark.parametrize("cuts", CUTS)
async def test_cut_replies_apply_nothing_twice_and_lose_nothing(cuts: int) -> None:
    """The connection is cut at random in the middle of commits: each is still answered, and was done once."""
    random_bytes = random.Random(7)
    users = [UserKey("default", f"user {n}") for n in range(4)]
    running = emulator()
    async with FaultProxy("127.0.0.1", running.port) as proxy:
        store = await open_store(emulator_host=proxy.address, call_timeout_s=60.0)
        versions = dict.fromkeys(users, Version(0, 0))
        counts = dict.fromkeys(users, 0)
        while proxy.cuts < cuts:
            if random_bytes.random() < 0.8:  # of a reply of about 150 bytes, or 20 of other frames
                proxy.cut_reply(random_bytes.randrange(180))
            else:
                proxy.cut_request(random_bytes.randrange(600))
            while proxy.armed:
                answers = await asyncio.gather(
                    *[store.commit(appended(user, counts[user] + 1, versions[user])) for user in users]
                )
                for user, committed in zip(users, answers, strict=True):
                    counts[user] += 1
                    versions[user] = committed.version
                    assert (committed.seq, committed.version) == (counts[user], Version(0, counts[user]))
        await store.close()
    direct = await open_store(store.project)
    for user in users:
        await assert_gapless(direct, user, counts[user])
    await direct.close()


@pytest.mark.parametrize("cuts", CUTS)
async def test_cut_replies_with_numbered_commits(cuts: int) -> None:
    """As a flusher does it: short bounds, and after StoreUnavailable the same commit again with its number."""
    random_bytes = random.Random(8)
    running = emulator()
    async with FaultProxy("127.0.0.1", running.port) as proxy:
        store = await open_store(emulator_host=proxy.address, call_timeout_s=0.2)
        failures = 0
        for seq in range(1, cuts + 1):
            proxy.cut_reply(random_bytes.randrange(180))
            commit = appended(ASHA, seq, Version(0, seq - 1), Origin("replica", seq))
            while True:
                try:
                    committed = await store.commit(commit)
                except StoreUnavailable:
                    failures += 1
                    continue
                assert committed.seq == seq
                break
        await store.close()
    direct = await open_store(store.project)
    await assert_gapless(direct, ASHA, cuts)
    await direct.close()


@pytest.mark.parametrize("fault", ["hung", "refused", "trickle"])
async def test_every_call_ends_within_its_bound(fault: Fault) -> None:
    """A server that hangs, refuses, or answers a byte at a time: StoreUnavailable within the bound, from every call."""
    running = emulator()
    async with FaultProxy("127.0.0.1", running.port, delay_s=0.5) as proxy:
        store = await open_store(emulator_host=proxy.address, call_timeout_s=0.4, attempt_timeout_s=0.15)
        await store.commit(appended(ASHA, 1, Version(0, 0)))
        proxy.fault = fault
        calls = {
            "commit": lambda: store.commit(appended(ASHA, 2, Version(0, 1))),
            "load": lambda: store.load(ASHA, window=9, open_after_ms=0, sessions_max=9),
            "page": lambda: store.page(ASHA, after=0, before=None, limit=9, bytes_max=1 << 40),
            "session": lambda: store.session("default", "s"),
            "receipt": lambda: store.receipt(b"r" * 32),
            "stats": lambda: store.stats("default", active_after_ms=0, open_after_ms=0),
            "users": lambda: store.users("default", after="", limit=9),
            "expire": lambda: store.expire(receipts_before_ms=9),
        }
        for name, call in calls.items():
            began_s = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await call()
            assert time.monotonic() - began_s < 2.0, name
        assert not (await store.check()).up
        proxy.fault = None

        async def is_up() -> bool:
            return bool((await store.check()).up)

        await wait_until_async(is_up, "the store is up again", timeout_s=10)
        record = await store.load(ASHA, window=9, open_after_ms=0, sessions_max=9)
        seq = record.seq + 1  # the one that failed may have come through late
        await store.commit(appended(ASHA, seq, record.version))
        await assert_gapless(store, ASHA, seq)
        await store.close()


async def test_a_commit_that_arrives_late_is_known_again() -> None:
    """A commit that hangs in the network lands after it was given up: its repetition is recognised by its number."""
    running = emulator()
    async with FaultProxy("127.0.0.1", running.port) as proxy:
        store = await open_store(emulator_host=proxy.address, call_timeout_s=0.3, attempt_timeout_s=0.3)
        direct = await open_store(store.project)
        await store.commit(appended(ASHA, 1, Version(0, 0), Origin("replica", 1)))
        proxy.fault = "hung"
        late = appended(ASHA, 2, Version(0, 1), Origin("replica", 2))
        with pytest.raises(StoreUnavailable):
            await store.commit(late)
        proxy.fault = None
        committed = None
        while committed is None:
            try:
                committed = await store.commit(late)
            except StoreUnavailable:
                continue
        assert committed.seq == 2
        await assert_gapless(direct, ASHA, 2)
        await store.close()
        await direct.close()


async def test_a_slow_server_is_only_slow() -> None:
    """Answers that take a while are answers."""
    running = emulator()
    async with FaultProxy("127.0.0.1", running.port, delay_s=0.05) as proxy:
        proxy.fault = "slow"
        store = await open_store(emulator_host=proxy.address)
        for seq in range(1, 6):
            await store.commit(appended(ASHA, seq, Version(0, seq - 1)))
        proxy.fault = None
        await assert_gapless(store, ASHA, 5)
        await store.close()


async def test_a_store_opens_while_firestore_is_away() -> None:
    """A server must be able to start without its database; it says that it is down, and works once it is there."""
    running = emulator()
    async with FaultProxy("127.0.0.1", running.port) as proxy:
        proxy.fault = "refused"
        store = make_store(emulator_host=proxy.address, call_timeout_s=0.5)
        await store.open()
        report = await store.check()
        assert (report.up, report.since_ms is not None) == (False, True)
        proxy.fault = None
        committed: Committed | None = None
        while committed is None:
            try:
                committed = await store.commit(appended(ASHA, 1, Version(0, 0)))
            except StoreUnavailable:
                continue
        assert (await store.check()).up
        await store.close()


async def test_two_replicas_make_one_gapless_history() -> None:
    """Two stores write for the same users, each against what it last saw: one order, on which both agree."""
    one = await open_store()
    two = await open_store(one.project)
    users = [UserKey("default", f"user {n}") for n in range(3)]
    stale = 0

    async def writer(store: Any, name: str, user: UserKey) -> None:
        nonlocal stale
        version = Version(0, 0)
        seq = 0
        for n in range(20):
            while True:
                message = raw_message(seq + 1, f"{name} {n}", 1)
                try:
                    committed = await store.commit(Commit(user, version, (MessagesAdded((message,)),)))
                except StaleVersion:
                    stale += 1
                    record = await store.load(user, window=1, open_after_ms=0, sessions_max=1)
                    version, seq = record.version, record.seq
                    continue
                version, seq = committed.version, committed.seq
                break

    await asyncio.gather(
        *[writer(store, name, user) for store, name in ((one, "one"), (two, "two")) for user in users]
    )
    for user in users:
        seen = [
            await store.page(user, after=0, before=None, limit=100, bytes_max=1 << 40) for store in (one, two)
        ]
        assert seen[0] == seen[1]
        messages = seen[0][0]
        assert [m.seq for m in messages] == list(range(1, 41))
        for name in ("one", "two"):
            assert [m.id for m in messages if m.id.startswith(name)] == [f"{name} {n}" for n in range(20)]
    assert stale
    await one.close()
    await two.close()
