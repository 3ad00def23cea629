"""One replica erases: what another acknowledged before goes, also if that one did not know; what comes after stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from samvad.clock import SystemClock
from samvad.errors import StoreUnavailable
from samvad.records import Commit, Committed
from samvad.sessions.coalesce import erases
from samvad.stores.base import Capabilities, Store
from samvad.stores.memory import MemoryStore
from samvad.stores.urls import store_from_url
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import (
    QUICK,
    SkewedClock,
    abandon,
    bytes_in,
    contents,
    drained,
    opened,
    service,
    store_of,
)
from tests.journaled.virtual import canaries_in_memory
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio
CANARY = b"canary-5c1e"
CAREFUL = QUICK._replace(clock_skew_s=0.1)
SLOW = QUICK._replace(write_interval_s=60.0, clock_skew_s=0.1)  # nothing is flushed until it is drained


@pytest.fixture(params=["memory", "sqlite"])
async def real(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """One real store for all replicas, each of which has a line of its own to it."""
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'inner.db'}"
    store = MemoryStore() if url == "memory://" else store_from_url(url, SystemClock())
    await store.open()
    yield store
    await store.close()


class MuteStore(FaultyStore):
    """Carries out an erasing, and then says nothing any more."""

    erased = False

    async def commit(self, commit: Commit) -> Committed:
        committed = await super().commit(commit)
        if erases(commit):
            self.erased = self.down = True
            raise StoreUnavailable
        return committed


def line_to(store: Store) -> FaultyStore:
    """One replica's connection to the shared store."""
    line = FaultyStore(store)
    line.capabilities = Capabilities(durable=True, shared=True)
    return line


async def say(samvad: Any, *said: str) -> None:
    """Append, one by one."""
    for content in said:
        await samvad.append_to_user_history("asha", "user", content)


async def flushed(samvad: Any) -> None:
    """Bring everything to the store, without waiting for more to gather."""
    assert await store_of(samvad).drain(20.0) == 0


async def until_open(samvad: Any) -> None:
    """Wait until the breaker has opened."""

    async def is_open() -> bool:
        return store_of(samvad).breaker.is_open

    await wait_until_async(is_open, "the breaker opens")


async def scrubbed(directory: Path) -> None:
    """Wait until a journal has nothing of what was erased."""

    async def clean() -> bool:
        return bytes_in(directory, CANARY) == 0

    await wait_until_async(clean, "the journal is scrubbed")


@pytest.mark.parametrize("wrong_ms", [0, -90, 90])
@pytest.mark.parametrize("restart", [False, True])
async def test_what_an_unknowing_replica_took(
    real: Store, tmp_path: Path, wrong_ms: int, restart: bool
) -> None:
    """A replica that cannot reach the store takes words for a user it does not know: the erasing decides which stay."""
    line, here = line_to(real), tmp_path / "a"
    clock = SkewedClock(wrong_ms)
    async with opened(line_to(real), tmp_path / "b", patience=SLOW) as b:
        await say(b, "old")
        await flushed(b)
        a = await service(line, here, clock=clock, patience=CAREFUL).open()
        line.down = True
        await say(a, CANARY.decode())
        await until_open(a)
        assert (await b.clear_user_data("asha")).messages == 1
        await say(a, "new")  # asked for after the answer
        if restart:
            await abandon(a)
            a = await service(line, here, clock=clock, patience=CAREFUL).open()
        line.down = False
        await drained(a)
        assert await contents(real, "asha") == ["new"]
        assert [m.seq for m in (await a.get_user_profile("asha")).conversation_history] == [1]
        await scrubbed(here)
        await a.aclose()


@pytest.mark.parametrize("wrong_ms", [0, -90, 90])
async def test_what_a_stale_cache_took(real: Store, tmp_path: Path, wrong_ms: int) -> None:
    """A replica that has the user in memory and does not know of the erasing yet: before goes, after stays."""
    async with (
        opened(line_to(real), tmp_path / "a", patience=SLOW, clock=SkewedClock(wrong_ms)) as a,
        opened(line_to(real), tmp_path / "b", patience=SLOW) as b,
    ):
        await a.save_session("phone", "asha", note=CANARY.decode())
        await say(a, CANARY.decode())
        await flushed(a)
        await say(a, CANARY.decode())
        assert not (await b.clear_user_data("asha")).pending
        await say(a, "new")
        await a.save_session("phone", "asha", platform="web")
        await a.save_user_state("asha", {"n": 1})
        await flushed(a)
        assert await contents(real, "asha") == ["new"]
        session = await real.session("default", "phone")
        assert session is not None and CANARY not in session.body and b"web" in session.body
        state = await a.get_user_state("asha")
        assert state is not None and (state.state, state.version) == ({"n": 1}, 1)
        await scrubbed(tmp_path / "a")


async def test_what_followed_an_erasing_of_ones_own(real: Store, tmp_path: Path) -> None:
    """A erases while it is cut off and takes words for the new life; then B erases: that life is over as well."""
    line = line_to(real)
    async with (
        opened(line, tmp_path / "a") as a,
        opened(line_to(real), tmp_path / "b", patience=SLOW) as b,
    ):
        await say(a, "zero")
        await drained(a)
        line.down = True
        await say(a, "one")
        await until_open(a)
        assert (await a.clear_user_data("asha")).pending
        await say(a, CANARY.decode())
        assert (await b.clear_user_data("asha")).messages == 1
        line.down = False
        await drained(a)
        assert await contents(real, "asha") == []
        await scrubbed(tmp_path / "a")
        await say(a, "two")
        await drained(a)
        assert await contents(real, "asha") == ["two"]


@pytest.mark.parametrize("known", [False, True])
async def test_the_order_of_one_replica_needs_no_clock(real: Store, tmp_path: Path, known: bool) -> None:
    """The clock is set back by an hour between words, erasing and words: the numbers of the journal tell the order."""
    line, clock = line_to(real), SkewedClock(0)
    here = tmp_path / "a"
    async with opened(line_to(real), tmp_path / "b", patience=SLOW) as b:
        await say(b, "old")
        await flushed(b)
    a = await service(line, here, clock=clock, patience=CAREFUL).open()
    if known:
        await a.get_user_profile("asha")
    line.down = True
    await say(a, CANARY.decode())
    await until_open(a)
    clock.wrong_ms -= 3_600_000
    assert (await a.clear_user_data("asha")).pending
    clock.wrong_ms -= 3_600_000
    await say(a, "new")
    await abandon(a)
    # The erasing comes through, its answer does not, and the process is gone again.
    silent = MuteStore(real)
    silent.capabilities = line.capabilities
    a = await service(silent, here, clock=clock, patience=CAREFUL).open()

    async def erased() -> bool:
        return silent.erased

    await wait_until_async(erased, "the erasing is sent")
    await abandon(a)
    line.down = False
    async with opened(line, here, clock=clock, patience=CAREFUL) as again:
        await drained(again)
        assert await contents(real, "asha") == ["new"]
        await scrubbed(here)


async def test_nothing_of_the_user_is_pending(tmp_path: Path) -> None:
    """What went to the store long ago leaves the journal here as well, though nothing else ever makes it clean."""
    store = MemoryStore()
    await store.open()
    a_line, b_line = line_to(store), line_to(store)
    a_line.capabilities = Capabilities(durable=True, shared=True, tells=True)
    async with opened(a_line, tmp_path / "a") as a, opened(b_line, tmp_path / "b") as b:

        async def up() -> bool:
            return a.watcher is not None and a.watcher.up

        await wait_until_async(up, "the listener is up")
        await say(a, CANARY.decode())
        await flushed(a)
        assert bytes_in(tmp_path / "a", CANARY) > 0
        assert not (await b.clear_user_data("asha")).pending
        await scrubbed(tmp_path / "a")
    await store.close()


@pytest.mark.parametrize("again", [False, True])
async def test_erased_through_a_replica_that_knows_of_nothing(
    real: Store, tmp_path: Path, again: bool
) -> None:
    """What it holds for empty may not be so any more: there may be words in another's journal, or in the store."""
    here = tmp_path / "a"
    async with (
        opened(line_to(real), here, patience=SLOW) as a,
        opened(line_to(real), tmp_path / "b", patience=CAREFUL) as b,
    ):
        if again:
            await b.clear_user_data("asha")
        assert (await b.get_user_profile("asha")).history_length == 0
        await say(a, "old")
        await flushed(a)
        await say(a, CANARY.decode())
        cleared = await b.clear_user_data("asha")
        assert (cleared.pending, cleared.messages) == (False, 1)
        await flushed(a)
        assert await contents(real, "asha") == []
        await scrubbed(here)


async def test_an_erasing_that_was_not_heard(tmp_path: Path) -> None:
    """Who could not listen when another erased scrubs the journal as soon as that is over: nothing there names whom."""
    store, here = MemoryStore(), tmp_path / "a"
    await store.open()
    line, other = line_to(store), line_to(store)
    line.capabilities = other.capabilities = Capabilities(durable=True, shared=True, tells=True)
    async with (
        opened(line, here, patience=CAREFUL) as a,
        opened(other, tmp_path / "b", patience=CAREFUL) as b,
    ):
        await say(a, CANARY.decode())
        await flushed(a)
        assert bytes_in(here, CANARY) > 0
        line.down = True
        assert a.watcher is not None
        a.watcher.again()

        async def deaf() -> bool:
            return a.watcher is not None and not a.watcher.up

        await wait_until_async(deaf, "the listener has broken off")
        await b.clear_user_data("asha")
        line.down = False
        await scrubbed(here)
    await store.close()


async def test_a_replay_is_not_kept_in_memory(tmp_path: Path) -> None:
    """What the journal gave at the start may be erased, and may be a gigabyte."""
    store, here = MemoryStore(), tmp_path / "a"
    await store.open()
    line = line_to(store)
    a = await service(line, here, patience=CAREFUL).open()
    line.down = True
    await say(a, "canary-1-")
    await abandon(a)
    async with opened(line, here, patience=CAREFUL) as again:
        assert canaries_in_memory(again) == {1}
        line.down = False
        await again.clear_user_data("asha")

        async def gone() -> bool:
            return not canaries_in_memory(again)

        await wait_until_async(gone, "it has left the memory")
