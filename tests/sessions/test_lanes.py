"""One user's operations, in order, through refusals, failures, erasing and impatient callers: nothing is claimed
that is not so, and nothing that was claimed is lost.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from samvad import limits, open_samvad
from samvad.errors import (
    NotFound,
    Overloaded,
    PreconditionFailed,
    SessionTaken,
    ShuttingDown,
    StaleVersion,
    StoreUnavailable,
    Unavailable,
)
from samvad.records import UserKey
from samvad.runtime import Samvad
from samvad.sessions.operations import ReceiptKey
from samvad.stores.memory import MemoryStore
from tests.sessions.faulty import FaultyStore
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio

ASHA = UserKey("default", "asha")


def service(**settings: object) -> tuple[Samvad, FaultyStore]:
    """A service over a store that can be made to fail."""
    store = FaultyStore(MemoryStore())
    return open_samvad(store=store, **settings), store


def said(samvad: Samvad, content: str, **fields: Any) -> asyncio.Task[Any]:
    """A caller who says something."""
    return asyncio.create_task(samvad.append_to_user_history("asha", "user", content, **fields))


async def under_way(samvad: Samvad, count: int) -> None:
    """Let the callers come as far as the store, so many of them."""

    async def there() -> bool:
        return samvad.core.lanes.operations_waiting == count

    await wait_until_async(there, f"{count} operations are under way")


async def contents(samvad: Samvad) -> list[str]:
    """What the store has of the user, in the order of seq, which has no hole."""
    stored = await samvad.store.load(ASHA, window=10_000, open_after_ms=-1, sessions_max=999)
    assert [m.seq for m in stored.window] == list(range(1, stored.seq + 1))
    page = await samvad.page_history("asha", limit=1_000)
    assert [m.seq for m in page.messages] == [m.seq for m in stored.window]
    return [m.content for m in page.messages]


# --- failures ----------------------------------------------------------------------------------------------


async def test_a_failed_write_is_told_and_the_next_one_works() -> None:
    """Unavailable once: that caller is told, nothing of it can be read, and then all is well again."""
    samvad, store = service()
    async with samvad:
        await said(samvad, "a")
        store.refuse[1] = StoreUnavailable()
        with pytest.raises(StoreUnavailable):
            await said(samvad, "b")
        assert samvad.core.lanes.degraded
        assert (await samvad.get_user_profile("asha")).history_length == 1
        assert (await said(samvad, "c")).seq == 2
        assert not samvad.core.lanes.degraded
        assert await contents(samvad) == ["a", "c"]


@pytest.mark.parametrize("failing", range(5))
async def test_what_was_built_on_a_failed_write_is_applied_anew(failing: int) -> None:
    """Of writes that are under way together one fails: its caller is told, the others get their true places."""
    samvad, store = service()
    async with samvad:
        await samvad.get_user_profile("asha")
        store.refuse[failing] = StoreUnavailable()
        answers = await asyncio.gather(*[said(samvad, str(n)) for n in range(5)], return_exceptions=True)
        assert isinstance(answers[failing], StoreUnavailable)
        kept = [str(n) for n in range(5) if n != failing]
        assert await contents(samvad) == kept
        assert [a.seq for a in answers if not isinstance(a, BaseException)] == [1, 2, 3, 4]


async def test_an_answer_that_was_lost_is_not_a_second_message() -> None:
    """Written, but the answer did not come: the caller is told to look again, and the same id is the same message."""
    samvad, store = service()
    async with samvad:
        store.lose[0] = StoreUnavailable()
        with pytest.raises(StoreUnavailable):
            await said(samvad, "a", id="one")
        again = await said(samvad, "a", id="one")
        assert (again.seq, again.duplicate) == (1, True)
        assert await contents(samvad) == ["a"]


@pytest.mark.parametrize("seed", range(30))
async def test_random_faults_lose_and_double_nothing(seed: int) -> None:
    """Every acknowledged message stands once, where its caller was told; none of a refused one stands at all."""
    chance = random.Random(seed)
    samvad, store = service()
    for number in range(60):
        if chance.random() < 0.3:
            store.refuse[number] = chance.choice([StoreUnavailable, Overloaded, StaleVersion])()
    told: dict[str, int] = {}
    refused: set[str] = set()

    async def caller(name: int) -> None:
        for n in range(8):
            content = f"{name}-{n}"
            try:
                told[content] = (await said(samvad, content)).seq
            except Unavailable:
                refused.add(content)

    async with samvad:
        await asyncio.gather(*[caller(name) for name in range(5)])
        stored = await contents(samvad)
        assert {content: seq for seq, content in enumerate(stored, 1)} == told
        assert not refused & set(stored)
        for name in range(5):
            mine = [told[f"{name}-{n}"] for n in range(8) if f"{name}-{n}" in told]
            assert mine == sorted(mine)
        assert samvad.core.lanes.operations_waiting == 0


async def test_a_duplicate_is_not_vouched_for_before_it_is_stored() -> None:
    """The repetition of a message that is under way is acknowledged only once the message itself is."""
    samvad, store = service()
    async with samvad:
        await samvad.get_user_profile("asha")
        store.refuse[0] = StoreUnavailable()
        store.hold()
        first = said(samvad, "a", id="one")
        again = said(samvad, "a", id="one", receipt=ReceiptKey(b"k" * 32, b"f" * 32))
        await under_way(samvad, 2)
        store.release()
        with pytest.raises(StoreUnavailable):
            await first
        # The message was lost with the first; the second is then the message itself.
        appended = await again
        assert (appended.seq, appended.duplicate) == (1, False)
        assert await contents(samvad) == ["a"]


async def test_erasing_twice_does_not_hide_that_the_first_failed() -> None:
    """The second erasing is done on what is really there."""
    samvad, store = service()
    async with samvad:
        await said(samvad, "a")
        store.refuse[1] = StoreUnavailable()
        first, second = await asyncio.gather(
            samvad.clear_user_data("asha"),
            samvad.clear_user_data("asha", receipt=ReceiptKey(b"k" * 32, b"f" * 32)),
            return_exceptions=True,
        )
        assert isinstance(first, StoreUnavailable)
        assert not isinstance(second, BaseException)
        assert second.messages == 1
        assert await contents(samvad) == []


async def test_a_refusal_that_rests_on_a_write_under_way_waits_for_it() -> None:
    """That there is a state already is said only once it is there; where it fails, the next one may make it."""
    samvad, store = service()
    async with samvad:
        await samvad.get_user_profile("asha")
        store.refuse[0] = StoreUnavailable()
        first, second, third = await asyncio.gather(
            *[samvad.save_user_state("asha", {"n": n}, if_absent=True) for n in range(3)],
            return_exceptions=True,
        )
        assert isinstance(first, StoreUnavailable)
        assert not isinstance(second, BaseException)
        assert isinstance(third, PreconditionFailed)
        state = await samvad.get_user_state("asha")
        assert state is not None
        assert state.state == {"n": 1}


async def test_a_full_queue_in_the_middle_of_others() -> None:
    """One write is refused out of turn while others before and behind it are under way: they are all kept in order."""
    samvad, store = service()
    async with samvad:
        await samvad.get_user_profile("asha")
        store.refuse[2] = Overloaded()
        answers = await asyncio.gather(*[said(samvad, str(n)) for n in range(6)], return_exceptions=True)
        assert isinstance(answers[2], Overloaded)
        assert await contents(samvad) == ["0", "1", "3", "4", "5"]


# --- other writers -----------------------------------------------------------------------------------------


async def test_another_writer_is_noticed() -> None:
    """Where somebody else committed for the user, the record is loaded again and the operation applied to it."""
    samvad, store = service()
    async with samvad:
        await said(samvad, "a")
        other = open_samvad(store=store.store)
        await other.append_to_user_history("asha", "user", "b")
        assert (await said(samvad, "c")).seq == 3
        assert await contents(samvad) == ["a", "b", "c"]


async def test_an_endless_conflict_is_given_up() -> None:
    """A writer that never gets through is told so, and may try again."""
    samvad, store = service()
    async with samvad:
        await samvad.get_user_profile("asha")
        store.refuse_all = StaleVersion()
        with pytest.raises(Unavailable):
            await said(samvad, "a")
        store.refuse_all = None
        assert (await said(samvad, "b")).seq == 1
        assert samvad.core.lanes.operations_waiting == 0


async def test_a_whole_batch_behind_the_window_is_a_duplicate() -> None:
    """A batch of a hundred ids, sent again long after: each is answered with its place, and nothing is added."""
    samvad, _ = service()
    async with samvad:
        batch = [
            {"role": "user", "content": "x", "id": f"m{n}"} for n in range(limits.MESSAGES_PER_APPEND_MAX)
        ]
        first = await samvad.append_many("asha", batch)
        for _ in range(2):
            await samvad.append_many("asha", [{"role": "user", "content": "y"}] * 100)
        again, other = await asyncio.gather(samvad.append_many("asha", batch), said(samvad, "z"))
        assert [(a.message_id, a.seq) for a in again] == [(a.message_id, a.seq) for a in first]
        assert all(a.duplicate for a in again)
        assert other.seq == 301


# --- impatient callers -------------------------------------------------------------------------------------


async def test_a_caller_who_gives_up_disturbs_nobody() -> None:
    """Their write goes on, in its place, and those behind it are answered as if nothing had happened."""
    samvad, store = service()
    async with samvad:
        await samvad.get_user_profile("asha")
        store.hold()
        callers = [said(samvad, str(n)) for n in range(4)]
        await under_way(samvad, 4)
        callers[1].cancel()
        store.release()
        answers = await asyncio.gather(*callers, return_exceptions=True)
        assert isinstance(answers[1], asyncio.CancelledError)
        assert [answers[n].seq for n in (0, 2, 3)] == [1, 3, 4]
        assert await contents(samvad) == ["0", "1", "2", "3"]


async def test_a_reader_who_gives_up_does_not_stop_the_load() -> None:
    """The others who wait for the same record get it."""
    samvad, store = service()
    async with samvad:
        readers = [asyncio.create_task(samvad.get_user_profile("asha")) for _ in range(3)]
        await asyncio.sleep(0)
        readers[0].cancel()
        answers = await asyncio.gather(*readers, return_exceptions=True)
        assert [isinstance(answer, BaseException) for answer in answers] == [True, False, False]
        assert store.loads == 1


# --- erasing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
async def test_nothing_comes_back_after_erasing(seed: int) -> None:
    """Erasing among all that can happen to a user: what was acknowledged before it is gone for good."""
    chance = random.Random(seed)
    samvad, store = service(cache_bytes_max=chance.choice([1, 10**9]))
    for number in range(40):
        if chance.random() < 0.1:
            store.refuse[number] = chance.choice([StoreUnavailable, StaleVersion])()
    before: set[str] = set()

    async def life(mark: str) -> None:
        verbs = [
            lambda: samvad.append_to_user_history("asha", "user", mark, sessionId="s1"),
            lambda: samvad.save_user_state("asha", {mark: 1}),
            lambda: samvad.save_session("s1", "asha", metadata={mark: 1}),
            lambda: samvad.end_session("s1"),
            lambda: samvad.clear_session("s1"),
            lambda: samvad.record_interruption("s1", mark, 1, b'{"mark":"%b"}' % mark.encode()),
            lambda: samvad.get_user_profile("asha"),
        ]
        for _ in range(4):
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            try:
                await chance.choice(verbs)()
            except (Unavailable, NotFound, SessionTaken):
                continue

    async with samvad:
        for round_number in range(4):
            mark = f"round{round_number}"
            await asyncio.gather(*[life(mark) for _ in range(4)])
            before.add(mark)
            # What is called while the erasing is under way may be of either life; it carries another mark.
            erasing = asyncio.create_task(samvad.clear_user_data("asha"))
            await asyncio.gather(*[life(f"during{round_number}") for _ in range(3)])
            try:
                await erasing
            except Unavailable:
                await samvad.clear_user_data("asha")
                before.add(f"during{round_number}")
            for source in ("cache", "store"):
                if source == "store":
                    await samvad.core.lanes.settled(ASHA)
                    samvad.cache.discard(ASHA)
                profile = await samvad.get_user_profile("asha")
                assert not before & {m.content for m in profile.conversation_history}
                state = await samvad.get_user_state("asha")
                assert state is None or not before & set(state.state)
                for session in await samvad.get_user_sessions("asha"):
                    assert not before & set(session.metadata or {})
                    for kept in await samvad.recorded_interruptions(session.id):
                        assert kept.id not in before


async def test_what_was_under_way_when_a_user_was_erased() -> None:
    """Ending and deleting a session that an erasing just ahead removes finds nothing, and brings nothing back."""
    for verb in ("end_session", "clear_session"):
        samvad, store = service()
        async with samvad:
            await samvad.save_session("s", "asha", metadata={"secret": 1})
            store.hold()
            erasing = asyncio.create_task(samvad.clear_user_data("asha"))
            await under_way(samvad, 1)
            late = asyncio.create_task(getattr(samvad, verb)("s"))
            store.release()
            assert (await erasing).sessions == 1
            with pytest.raises(NotFound):
                await late
            assert await samvad.get_session("s") is None


async def test_an_ended_session_does_not_come_back_with_what_was_erased() -> None:
    """Opening an id again while its old session, which only the store has, is being removed makes a new one."""
    for verb, args in (("clear_user_data", ("asha",)), ("clear_session", ("s",))):
        samvad, store = service()
        async with samvad:
            await samvad.save_session("s", "asha", metadata={"secret": 1})
            await samvad.end_session("s")
            samvad.cache.discard(ASHA)
            await samvad.get_user_profile("asha")
            store.hold()
            removing = asyncio.create_task(getattr(samvad, verb)(*args))
            await under_way(samvad, 1)
            opening = asyncio.create_task(samvad.save_session("s", "asha", language="hi"))
            await asyncio.sleep(0)
            store.release()
            await asyncio.gather(removing, opening)
            session = await samvad.get_session("s")
            assert session is not None
            assert (session.metadata, session.language) == (None, "hi")


async def test_an_interruption_of_a_removed_session_is_nobodys() -> None:
    """Recorded while its session was being deleted, it does not wait there for the id's next owner."""
    samvad, _ = service()
    async with samvad:
        await samvad.save_session("s", "asha")
        await asyncio.gather(
            samvad.clear_session("s"), samvad.record_interruption("s", "i", 1, b"{}"), return_exceptions=True
        )
        await samvad.save_session("s", "bala")
        assert await samvad.recorded_interruptions("s") == []
        assert (await samvad.get_stats()).total_interruptions == 0


# --- durability: memory ------------------------------------------------------------------------------------


async def test_memory_acknowledges_before_the_store_has_it() -> None:
    """The answer says `memory`, does not wait, and is read back at once, from every door."""
    samvad, store = service(durability="memory")
    async with samvad:
        store.hold()
        appended = [await said(samvad, str(n)) for n in range(150)]
        assert [a.seq for a in appended] == list(range(1, 151))
        assert {a.durability for a in appended} == {"memory"}
        profile = await samvad.get_user_profile("asha")
        assert [m.seq for m in profile.conversation_history] == list(range(51, 151))
        store.release()
        await samvad.core.lanes.settled(ASHA)
        assert await contents(samvad) == [str(n) for n in range(150)]


async def test_memory_pages_show_what_was_acknowledged(database_path: Path) -> None:
    """A page that the store must help with waits for what is on its way there."""
    async with open_samvad(f"sqlite:///{database_path}", durability="memory") as samvad:
        for n in range(150):
            await said(samvad, str(n))
        page = await samvad.page_history("asha", limit=10)
        assert [m.seq for m in page.messages] == list(range(141, 151))


async def test_memory_survives_a_store_that_is_away_for_a_while() -> None:
    """What was acknowledged is written when the store is back: all of it, once, in order."""
    samvad, store = service(durability="memory")
    async with samvad:
        await said(samvad, "first")
        await samvad.core.lanes.settled(ASHA)
        store.refuse_all = StoreUnavailable()
        for n in range(4):
            await said(samvad, str(n))
        store.refuse_all = None
        await samvad.core.lanes.settled(ASHA)
        assert await contents(samvad) == ["first", *[str(n) for n in range(4)]]


async def test_memory_keeps_the_order_when_the_queue_is_full() -> None:
    """A write that the store refused out of turn goes back to its place, not ahead of those that were before it."""
    samvad, store = service(durability="memory")
    async with samvad:
        await samvad.get_user_profile("asha")
        store.refuse[0] = StaleVersion()
        store.refuse[2] = Overloaded()
        store.hold()
        callers = [said(samvad, str(n)) for n in range(6)]
        await under_way(samvad, 6)

        async def refused() -> bool:
            return samvad.core.lanes.retries == 1

        await wait_until_async(refused, "the third is refused, while the first two are on their way")
        store.release()
        await asyncio.gather(*callers)
        await samvad.core.lanes.settled(ASHA)
        assert await contents(samvad) == [str(n) for n in range(6)]


async def test_memory_does_not_spin_while_the_store_cannot_write() -> None:
    """A store that reads but does not write is tried again at intervals, not as fast as the machine can."""
    samvad, store = service(durability="memory")
    async with samvad:
        await samvad.get_user_profile("asha")
        store.refuse_all = StoreUnavailable()
        await said(samvad, "a")
        for _ in range(2_000):
            await asyncio.sleep(0)
        tries = store.commits
        store.refuse_all = None
        await samvad.core.lanes.settled(ASHA)
        assert await contents(samvad) == ["a"]
        assert tries < 20


async def test_memory_is_drained_at_the_close() -> None:
    """A clean stop writes all that was acknowledged; what comes after is refused."""
    samvad, store = service(durability="memory")
    await samvad.open()
    for n in range(30):
        await said(samvad, str(n))
    assert await samvad.aclose() == 0
    with pytest.raises(ShuttingDown):
        await said(samvad, "late")
    assert len(store.store._users[ASHA].messages) == 30


async def test_memory_counts_what_an_erasing_removed() -> None:
    """Erasing waits for the store, because only the store can count."""
    samvad, _ = service(durability="memory")
    async with samvad:
        await said(samvad, "a")
        await samvad.save_session("s", "asha")
        cleared = await samvad.clear_user_data("asha")
        assert (cleared.messages, cleared.sessions, cleared.user_profile) == (1, 1, True)


# --- the end -----------------------------------------------------------------------------------------------


async def test_closing_answers_everybody() -> None:
    """What is under way at the close is finished and answered; nobody is left waiting."""
    samvad, _ = service()
    await samvad.open()
    callers = [said(samvad, str(n)) for n in range(20)]
    await asyncio.sleep(0)
    await samvad.aclose()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert all(
        not isinstance(answer, BaseException) or isinstance(answer, ShuttingDown) for answer in answers
    )


async def test_a_close_that_runs_out_of_time_answers_everybody_too() -> None:
    """Whoever still waits for a record that does not come is told that the service is stopping."""
    samvad, store = service()
    await samvad.open()
    never = asyncio.Event()

    async def load(*args: Any, **kwargs: Any) -> Any:
        await never.wait()

    store.load = load  # type: ignore[method-assign]
    callers = [said(samvad, "a"), asyncio.create_task(samvad.get_user_profile("asha"))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await samvad.aclose(drain_s=0.01)
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers), answers
