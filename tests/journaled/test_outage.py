"""The store is down, hung or loses its replies: nobody waits, nothing acknowledged is lost or done twice."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from samvad.errors import Overloaded, SessionTaken, SetupError, StoreUnavailable, TooLarge
from samvad.records import Commit, MessagesAdded, SessionSet, UserKey
from samvad.stores.memory import MemoryStore
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import (
    QUICK,
    abandon,
    contents,
    drained,
    in_order,
    opened,
    service,
    store_of,
    stored,
)
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio


async def memory(seed: int = 0) -> FaultyStore:
    """A store that can fail."""
    store = MemoryStore()
    await store.open()
    return FaultyStore(store, seed)


async def say(samvad: Any, *said: str, user: str = "asha", **fields: Any) -> list[Any]:
    """Append, one by one."""
    return [await samvad.append_to_user_history(user, "user", content, **fields) for content in said]


def open_files() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def until_open(samvad: Any) -> None:
    """Wait until the breaker has opened."""

    async def is_open() -> bool:
        return store_of(samvad).breaker.is_open

    await wait_until_async(is_open, "the breaker opens")


async def test_outage(tmp_path: Path) -> None:
    """Known users read and write on, unknown ones are 503 to read and taken to write; all drains, in few calls."""
    inner = await memory()
    async with opened(inner, tmp_path / "other") as other:
        before = await say(other, "old 1", "old 2", user="ravi")
        await drained(other)
    async with opened(inner, tmp_path / "j") as samvad:
        for number in range(20):
            await say(samvad, "first", user=f"u{number}")
        await drained(samvad)
        calls, inner.down = inner.calls, True
        await say(samvad, "second", user="u0")
        await until_open(samvad)
        assert samvad.core.lanes.degraded
        for turn in range(10):
            for number in range(20):
                await say(samvad, f"t{turn}", user=f"u{number}")
        profile = await samvad.get_user_profile("u3")
        assert [m.content for m in profile.conversation_history] == ["first", *[f"t{i}" for i in range(10)]]
        with pytest.raises(StoreUnavailable):
            await samvad.get_user_profile("ravi")
        told = await say(samvad, "new 1", "new 2", user="ravi")
        with pytest.raises(StoreUnavailable):
            await samvad.get_user_profile("ravi")
        health = await samvad.store.check()
        assert (health.up, health.store_up) == (True, False)
        failed = inner.calls - calls
        assert failed <= 3
        inner.down = False
        await drained(samvad)
        assert inner.calls - calls <= 1.1 * (20 + 2) + 3
        ravi = await stored(inner.store, "ravi")
        assert await contents(inner.store, "ravi") == ["old 1", "old 2", "new 1", "new 2"]
        assert [m.id for m in ravi] == [a.message_id for a in before + told]
        assert [m.seq for m in ravi] == [1, 2, 3, 4]
        for number in range(20):
            assert (await contents(inner.store, f"u{number}"))[-10:] == [f"t{i}" for i in range(10)]
        assert (await samvad.get_user_profile("ravi")).history_length == 4
        assert not samvad.core.lanes.degraded


async def test_a_store_that_answers_but_does_not_write(tmp_path: Path) -> None:
    """Each time that a probe comes through one lane tries, and not all of them."""
    inner = await memory()
    async with opened(inner, tmp_path / "j") as samvad:
        inner.refuse = lambda commit: StoreUnavailable()
        for number in range(20):
            await samvad.get_user_profile(f"u{number}")
        calls = inner.calls
        await asyncio.gather(*[say(samvad, "x", user=f"u{number}") for number in range(20)])

        async def probed() -> bool:
            return inner.probes >= 10

        await wait_until_async(probed, "10 probes came through")
        assert inner.calls - calls <= 20 + inner.probes
        inner.refuse = lambda commit: None
        await drained(samvad)
        assert await contents(inner.store, "u7") == ["x"]


async def test_an_id_twice_among_what_waits(tmp_path: Path) -> None:
    """More than a window apart, both pending: the same message, once, and what follows has no hole before it."""
    inner = await memory()
    async with opened(inner, tmp_path / "j") as samvad:
        await samvad.get_user_profile("asha")
        inner.down = True
        await say(samvad, "x", user="ravi")
        await until_open(samvad)
        await say(samvad, "first", id="x")
        await say(samvad, *[f"m{i}" for i in range(120)])
        await say(samvad, "again", id="x")
        await say(samvad, "last")
        inner.down = False
        await drained(samvad)
        assert await contents(inner.store, "asha") == ["first", *[f"m{i}" for i in range(120)], "last"]


async def test_who_was_unknown_is_known_when_the_store_is_back(tmp_path: Path) -> None:
    """A condition on the state cannot be judged in the outage, and can be afterwards, without a restart."""
    inner = await memory()
    async with opened(inner, tmp_path / "other") as other:
        tag = (await other.save_user_state("asha", {"a": 1})).etag
        await drained(other)
    async with opened(inner, tmp_path / "j") as samvad:
        inner.down = True
        with pytest.raises(StoreUnavailable):
            await samvad.save_user_state("asha", {"b": 2}, if_match=tag)
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await samvad.get_user_state("asha")
        await until_open(samvad)
        inner.down = False

        async def closed() -> bool:
            return not store_of(samvad).breaker.is_open

        await wait_until_async(closed, "the breaker closes")
        saved = await samvad.save_user_state("asha", {"b": 2}, if_match=tag)
        assert saved.version == 2


async def test_a_hung_store_holds_nobody(tmp_path: Path) -> None:
    """A call that never ends is given up after its time; the same commit again is done once."""
    inner = await memory()
    async with opened(inner, tmp_path / "j", patience=QUICK._replace(call_s=0.05)) as samvad:
        await say(samvad, "one")
        await drained(samvad)
        inner.hang()
        await say(samvad, "two", "three")
        await until_open(samvad)
        await say(samvad, "four")
        inner.release()
        await drained(samvad)
        assert await contents(inner.store, "asha") == ["one", "two", "three", "four"]


async def test_a_store_that_is_down_at_the_start(tmp_path: Path) -> None:
    """The service opens all the same, takes writes, and finds the store when it comes."""
    inner = await memory()
    inner.down = True
    async with opened(inner, tmp_path / "j") as samvad:
        await say(samvad, "one")
        inner.down = False
        await drained(samvad)
        assert await contents(inner.store, "asha") == ["one"]


@pytest.mark.parametrize("seed", range(8))
async def test_lost_replies(tmp_path: Path, seed: int) -> None:
    """Replies are cut off at random, before or after the write: nothing is applied twice, nothing lost."""
    inner = await memory(seed)
    inner.cut = 0.4
    users = ("asha", "ravi", "mina")
    said: dict[str, list[str]] = {user: [] for user in users}
    chance = random.Random(seed)
    async with opened(inner, tmp_path / "j", patience=QUICK._replace(write_interval_s=0.001)) as samvad:
        states = 0
        while inner.cuts < 25:
            user = chance.choice(users)
            said[user].append(f"m{len(said[user])}")
            await say(samvad, said[user][-1], user=user)
            if chance.random() < 0.3:
                await samvad.save_user_state("asha", {f"k{states}": states})
                states += 1
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        inner.cut = 0
        await drained(samvad)
        for user in users:
            assert await contents(inner.store, user) == said[user]
        state = await samvad.get_user_state("asha")
        assert state is None or (len(state.state), state.version) == (states, states)
        record = await inner.store.load(
            UserKey("default", "asha"), window=1, open_after_ms=-1, sessions_max=1
        )
        assert record.version.revision == len(said["asha"]) + states


async def test_a_parked_lane(tmp_path: Path) -> None:
    """What the store refuses for ever holds up its user alone; it can be tried again, and given up."""
    inner = await memory()

    def refusal(commit: Commit) -> TooLarge | None:
        bad = [
            m
            for c in commit.changes
            if isinstance(c, MessagesAdded)
            for m in c.messages
            if b'"content":"bad"' in m.body
        ]
        return TooLarge() if bad else None

    async with opened(inner, tmp_path / "j") as samvad:
        await say(samvad, "zero")
        await drained(samvad)
        inner.refuse = refusal
        await say(samvad, "one", "two", "three", "bad", "five", "six")
        flusher = store_of(samvad).flusher

        async def parked() -> bool:
            return bool(flusher.parked())

        await wait_until_async(parked, "the lane is parked")
        assert [lane.user.user_id for lane in flusher.parked()] == ["asha"]
        assert isinstance(flusher.parked()[0].parked, TooLarge)
        assert await contents(inner.store, "asha") == ["zero", "one", "two", "three"]
        await say(samvad, "hello", user="ravi")
        await say(samvad, "seven")

        async def ravi_there() -> bool:
            return await contents(inner.store, "ravi") == ["hello"]

        await wait_until_async(ravi_there, "the other lane flows")
        assert (await samvad.get_user_profile("asha")).history_length == 8
        assert flusher.retry_parked(UserKey("default", "asha"))
        await wait_until_async(parked, "it is parked again")
        assert flusher.drop_parked(UserKey("default", "asha"))
        await drained(samvad)
        assert await contents(inner.store, "asha") == ["zero", "one", "two", "three", "five", "six", "seven"]
        assert (await samvad.get_user_profile("asha")).history_length == 7
        assert not flusher.drop_parked(UserKey("default", "asha"))
        await say(samvad, "bad")
        await wait_until_async(parked, "it is parked once more")
        assert flusher.drop_parked(UserKey("default", "asha"))
        assert (await samvad.get_user_profile("asha")).history_length == 7
        assert (await say(samvad, "eight"))[0].seq == 8


async def test_a_parked_lane_is_erased(tmp_path: Path) -> None:
    """Nothing holds back an erasing: neither an operation that is refused for ever nor what waits behind it."""
    inner = await memory()
    async with opened(inner, tmp_path / "j") as samvad:
        await samvad.save_session("s", "ravi")
        await say(samvad, "one")
        await drained(samvad)
        inner.refuse = lambda c: SessionTaken() if any(isinstance(x, SessionSet) for x in c.changes) else None
        await samvad.save_session("t", "asha")
        await say(samvad, "two")
        flusher = store_of(samvad).flusher

        async def parked() -> bool:
            return bool(flusher.parked())

        await wait_until_async(parked, "the lane is parked")
        cleared = await samvad.clear_user_data("asha")
        assert (cleared.pending, cleared.messages) == (False, 1)
        await say(samvad, "new life")
        await drained(samvad)
        assert await contents(inner.store, "asha") == ["new life"]


async def test_full(tmp_path: Path) -> None:
    """A full journal is Overloaded; what was acknowledged stays, and there is room again once it has drained."""
    inner = await memory()
    sizes = {"bytes_max": 60_000, "segment_bytes": 20_000}
    async with opened(inner, tmp_path / "j", **sizes) as samvad:
        await say(samvad, "first")
        await drained(samvad)
        inner.down = True
        said = ["first"]
        answers = await asyncio.gather(
            *[say(samvad, f"{i}" + "x" * (500 * (i % 7))) for i in range(200)], return_exceptions=True
        )
        for number, answer in enumerate(answers):
            if isinstance(answer, list):
                said.append(f"{number}" + "x" * (500 * (number % 7)))
            else:
                assert isinstance(answer, Overloaded)
        assert 2 < len(said) < 190
        await until_open(samvad)
        profile = await samvad.page_history("asha", limit=1000, after=max(0, len(said) - 90))
        assert [m.content for m in profile.messages] == said[max(0, len(said) - 90) :]
        inner.down = False
        await drained(samvad)
        assert await contents(inner.store, "asha") == said

        async def room() -> bool:
            try:
                await say(samvad, "last")
            except Overloaded:
                return False
            return True

        await wait_until_async(room, "there is room again")
        await drained(samvad)
        assert in_order([*said, "last"], await contents(inner.store, "asha"))


async def test_memory_is_bounded(tmp_path: Path) -> None:
    """Many small writes fill memory before they fill the journal: Overloaded, nothing lost, room again by itself."""
    inner = await memory()
    async with opened(inner, tmp_path / "j", memory_bytes_max=100_000) as samvad:
        await say(samvad, "first")
        await drained(samvad)
        inner.down = True
        said = ["first"]
        for number in range(200):
            try:
                await say(samvad, str(number))
            except Overloaded:
                continue
            said.append(str(number))
        assert 20 < len(said) < 100
        inner.down = False
        await drained(samvad)

        async def room() -> bool:
            try:
                await say(samvad, "last")
            except Overloaded:
                return False
            return True

        await wait_until_async(room, "there is room again")
        await drained(samvad)
        assert await contents(inner.store, "asha") == [*said, "last"]


async def test_closing(tmp_path: Path) -> None:
    """Closing drains for as long as it may, and leaves the rest in the journal for the next start."""
    inner = await memory()
    samvad = await service(inner, tmp_path / "j", patience=QUICK._replace(write_interval_s=60.0)).open()
    await say(samvad, "a", "b", "c")
    assert await samvad.aclose(drain_s=5.0) == 0
    assert await contents(inner.store, "asha") == ["a", "b", "c"]
    samvad = await service(inner, tmp_path / "j").open()
    await samvad.get_user_profile("asha")
    inner.down = True
    await say(samvad, "d", "e")
    waiting = asyncio.create_task(samvad.clear_user_data("ravi"))
    await asyncio.sleep(0)
    assert await samvad.aclose(drain_s=0.1) >= 2
    await asyncio.wait([waiting], timeout=5)
    assert waiting.done() and (waiting.exception() is not None or waiting.result().pending)
    inner.down = False
    async with opened(inner, tmp_path / "j") as again:
        await drained(again)
        assert await contents(inner.store, "asha") == ["a", "b", "c", "d", "e"]


async def test_opening_and_closing_leaks_nothing(tmp_path: Path) -> None:
    """30 times open, write, close: no task, no thread, no file is left over, and nothing is done twice."""
    inner = await memory()
    said = []
    before = (0, 0, 0)
    for turn in range(30):
        async with opened(inner, tmp_path / "j") as samvad:
            inner.down = turn % 3 == 0
            said.append(f"m{turn}")
            await say(samvad, said[-1])
        inner.down = False
        now = (len(asyncio.all_tasks()), threading.active_count(), open_files())
        before = before if turn else now
        assert now <= tuple(b + 1 for b in before)
    async with opened(inner, tmp_path / "j") as samvad:
        await drained(samvad)
    assert await contents(inner.store, "asha") == said


@pytest.mark.parametrize("down", [False, True])
async def test_restart(tmp_path: Path, down: bool) -> None:
    """The process is gone at any moment, ten times: nothing acknowledged is missing, nothing there twice."""
    inner = await memory(1)
    inner.cut = 0.0 if down else 0.3
    said: list[str] = []
    chance = random.Random(4)
    for turn in range(10):
        samvad = await service(inner, tmp_path / "j").open()
        inner.down = down and turn < 9
        for number in range(chance.randrange(12)):
            said.append(f"{turn}.{number}")
            await say(samvad, said[-1])
            await samvad.save_user_state("asha", {f"k{len(said)}": 1})
        await abandon(samvad)
    inner.down, inner.cut = False, 0
    async with opened(inner, tmp_path / "j") as samvad:
        await drained(samvad)
        assert await contents(inner.store, "asha") == said
        state = await samvad.get_user_state("asha")
        assert state is not None and (len(state.state), state.version) == (len(said), len(said))


async def test_what_waits_for_one_store_is_not_brought_to_another(tmp_path: Path) -> None:
    """Started with another project, it says what waits for which; with the journal empty, it may be another's."""
    inner = await memory()
    inner.place = "firestore://ours"  # type: ignore[attr-defined]
    inner.down = True
    samvad = service(inner, tmp_path / "j")
    await samvad.open()
    await say(samvad, "For us.")
    await abandon(samvad)
    other = await memory()
    other.place = "firestore://theirs"  # type: ignore[attr-defined]
    for _ in range(2):
        with pytest.raises(
            SetupError, match=r"1 operations .* to firestore://ours, and this is firestore://theirs"
        ):
            await service(other, tmp_path / "j").open()
    assert other.commits == []
    inner.down = False
    async with opened(inner, tmp_path / "j") as samvad:
        await drained(samvad)
        assert await contents(inner.store, "asha") == ["For us."]
    async with opened(other, tmp_path / "j") as samvad:
        await say(samvad, "For them.")
        await drained(samvad)
    assert await contents(other.store, "asha") == ["For them."]
