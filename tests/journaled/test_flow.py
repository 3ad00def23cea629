"""A write is acknowledged by the journal, read back at once, and soon in the store: once, in order, in few commits."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from samvad.clock import SystemClock
from samvad.records import ANY_VERSION, Commit, ReceiptKept, StoredReceipt, UserKey
from samvad.sessions.breaker import Patience
from samvad.sessions.operations import ReceiptKey
from samvad.stores.base import Store
from samvad.stores.memory import MemoryStore
from samvad.stores.urls import store_from_url
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import (
    QUICK,
    abandon,
    contents,
    drained,
    opened,
    service,
    store_of,
    stored,
    turns,
)
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio
KEY = UserKey("default", "asha")


@pytest.fixture(params=["memory", "sqlite"])
async def inner(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FaultyStore]:
    """A real store behind a wrapper that can fail."""
    real: Store = (
        MemoryStore()
        if request.param == "memory"
        else store_from_url(f"sqlite:///{tmp_path / 'inner.db'}", SystemClock())
    )
    await real.open()
    yield FaultyStore(real)
    await real.close()


async def say(samvad: Any, *said: str, user: str = "asha", **fields: Any) -> list[Any]:
    """Append, one by one."""
    return [await samvad.append_to_user_history(user, "user", content, **fields) for content in said]


async def test_append(inner: FaultyStore, tmp_path: Path) -> None:
    """Acknowledged as journaled while the store is slow, read at once, then in the store with the same ids."""
    async with opened(inner, tmp_path / "j") as samvad:
        await samvad.get_user_profile("asha")
        inner.hang()
        told = await say(samvad, "one", "two")
        assert [(a.seq, a.durability) for a in told] == [(1, "journaled"), (2, "journaled")]
        profile = await samvad.get_user_profile("asha")
        assert [m.content for m in profile.conversation_history] == ["one", "two"]
        assert [m.content for m in (await samvad.page_history("asha")).messages] == ["one", "two"]
        inner.release()
        await drained(samvad)
        assert [(m.seq, m.id) for m in await stored(inner.store, "asha")] == [
            (a.seq, a.message_id) for a in told
        ]


async def test_coalescing(inner: FaultyStore, tmp_path: Path) -> None:
    """300 appends of one user are at most 4 commits, and no more than one in each interval."""
    patience = QUICK._replace(write_interval_s=0.4)
    async with opened(inner, tmp_path / "j", patience=patience) as samvad:
        await samvad.get_user_profile("asha")
        said = [f"m{i}" for i in range(300)]
        seconds = [samvad.core.clock.monotonic_s()]
        await say(samvad, *said)
        await drained(samvad)
        seconds.append(samvad.core.clock.monotonic_s())
        assert await contents(inner.store, "asha") == said
        assert len(inner.commits) <= (seconds[1] - seconds[0]) / 0.4 + 2
        assert store_of(samvad).flusher.rebases == 0


async def test_what_is_said_and_answered_is_one_commit(inner: FaultyStore, tmp_path: Path) -> None:
    """The first words after a silence wait for more; where somebody waits for the store they do not."""
    async with opened(inner, tmp_path / "j", patience=QUICK._replace(gather_s=60.0)) as samvad:
        await say(samvad, "What documents do I need?")
        await turns(50)
        assert inner.commits == []
        await samvad.append_to_user_history("asha", "assistant", "Your last three payslips.")
        await turns(50)
        assert inner.commits == []
        assert await store_of(samvad).drain(5.0) == 0
        assert len(inner.commits) == 1
        assert await contents(inner.store, "asha") == [
            "What documents do I need?",
            "Your last three payslips.",
        ]
        await say(samvad, "Thank you.")
        cleared = await samvad.clear_user_data("asha")
        assert (cleared.pending, cleared.messages) == (False, 3)


async def test_no_document_is_written_too_often(inner: FaultyStore, tmp_path: Path) -> None:
    """Between two commits of one user there is the interval, also where nothing was pending in between."""
    async with opened(inner, tmp_path / "j", patience=QUICK._replace(write_interval_s=0.1)) as samvad:
        times: list[float] = []
        inner.on_commit = lambda commit: times.append(samvad.core.clock.monotonic_s())
        for turn in range(5):
            await say(samvad, f"m{turn}")
            await drained(samvad)
        assert len(times) == 5
        assert all(after - before >= 0.09 for before, after in itertools.pairwise(times))


async def test_everything_goes_through(inner: FaultyStore, tmp_path: Path) -> None:
    """State, preferences, sessions, interruptions and receipts end up in the store as the service shows them."""
    async with opened(inner, tmp_path / "j", patience=QUICK._replace(write_interval_s=0.2)) as samvad:
        big = 1 << 100
        await samvad.save_user_state("asha", {"a": {"b": 1}, "c": big})
        await samvad.save_user_state("asha", {"a": {"d": 2}, "c": None, "n": big})
        await samvad.save_user_profile("asha", {"voiceSpeed": 1.5})
        for session in ("s1", "s2", "s3"):
            await samvad.save_session(session, "asha", metadata={"n": session})
        await say(samvad, "hello", session_id="s1")
        await samvad.end_session("s2")
        for number in range(3):
            await samvad.record_interruption("s1", f"i{number}", number, b'{"id":"i"}')
        await samvad.record_interruption("s3", "i9", 9, b"{}")
        assert len(await samvad.recorded_interruptions("s1")) == 3
        removed = await samvad.clear_session("s3")
        assert (removed.session, removed.interruptions) == (True, 1)
        assert await samvad.forget_interruptions("s1") == 3
        shown = [s.id for s in await samvad.get_user_sessions("asha")]
        assert sorted(shown) == ["s1", "s2"]
        receipt = ReceiptKey(b"k" * 32, b"f" * 32)
        await samvad.append_to_user_history("asha", "user", "keyed", receipt=receipt)
        before = await samvad.read_user("asha")
        await drained(samvad)
        record = await inner.store.load(KEY, window=100, open_after_ms=-1, sessions_max=99)
        assert record.state == before.state and record.profile == before.profile
        assert record.window == before.window and record.version == before.version
        assert {s.id: s for s in await inner.store.sessions(KEY, open_after_ms=None)}.keys() == {"s1", "s2"}
        assert (await inner.store.receipt(receipt.key)) is not None
        assert await inner.store.interruptions("default", "s1", 9) == []
    assert store_of(samvad).flusher.parked() == []


async def test_receipt_survives_a_restart_before_the_flush(inner: FaultyStore, tmp_path: Path) -> None:
    """The answer to a keyed request is found in the journal, in memory first and then after a restart."""
    samvad = await service(inner, tmp_path / "j").open()
    await samvad.get_user_profile("asha")
    inner.hang()
    receipt = ReceiptKey(b"k" * 32, b"f" * 32)
    told = await samvad.append_to_user_history("asha", "user", "once", receipt=receipt)
    kept = await samvad.store.receipt(receipt.key)
    assert kept is not None and told.message_id.encode() in (kept.answer or b"")
    await abandon(samvad)
    inner.release()
    async with opened(inner, tmp_path / "j") as again:
        await drained(again)
        kept = await again.store.receipt(receipt.key)
        assert kept is not None and told.message_id.encode() in (kept.answer or b"")
        assert [(m.seq, m.id) for m in await stored(inner.store, "asha")] == [(1, told.message_id)]


async def test_an_id_far_back_is_the_same_message(inner: FaultyStore, tmp_path: Path) -> None:
    """The same id again, further back than the window, pending or stored: one message, and no hole."""
    async with opened(inner, tmp_path / "j", patience=Patience(write_interval_s=0.3)) as samvad:
        await say(samvad, "first", id="x")
        await say(samvad, *[f"m{i}" for i in range(120)])
        await say(samvad, "again", id="x")
        await say(samvad, "last")
        await drained(samvad)
        assert await contents(inner.store, "asha") == ["first", *[f"m{i}" for i in range(120)], "last"]
        await say(samvad, "third", id="x")
        await drained(samvad)
        assert len(await contents(inner.store, "asha")) == 122
        assert (await samvad.get_user_profile("asha")).position.seq == 122


async def test_a_pending_receipt_makes_no_user(inner: FaultyStore, tmp_path: Path) -> None:
    """A kept refusal is no sign of life: who has nothing else is not listed, while it waits and afterwards."""
    async with opened(inner, tmp_path / "j") as samvad:
        inner.hang()
        kept = ReceiptKept(StoredReceipt(b"k" * 32, b"f" * 32, 1, b'{"refused":"error"}'))
        await samvad.store.commit(Commit(KEY, ANY_VERSION, (kept,)))
        listing = asyncio.ensure_future(samvad.store.users("default", after="", limit=9))
        inner.release()
        assert list(await listing) == []
        assert (await samvad.store.receipt(b"k" * 32)) == kept.receipt


async def test_lanes_do_not_stay(inner: FaultyStore, tmp_path: Path) -> None:
    """When everything is stored nothing is kept of the users: no lane, no task, no index."""
    async with opened(inner, tmp_path / "j") as samvad:
        for number in range(50):
            await say(samvad, "x", user=f"u{number}", receipt=ReceiptKey(bytes([number]) * 32, b"f"))
        flusher = store_of(samvad).flusher

        async def none_left() -> bool:
            return flusher.lanes == 0

        await wait_until_async(none_left, "no lane is left")
        assert len(flusher.index) == 0
