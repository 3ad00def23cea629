"""Each rule on every engine, to the millisecond; a dry run tells what a sweep then does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from samvad.retention.looking import Counts
from samvad.testing.clock import VirtualClock
from tests.retention.support import DAY_S, ENGINES, both, seqs, service

pytestmark = pytest.mark.anyio


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Every engine."""
    return str(request.param)


@pytest.fixture
def clock() -> VirtualClock:
    """The clock of the test."""
    return VirtualClock()


async def test_the_last_messages_stay(engine: str, clock: VirtualClock, tmp_path: Path) -> None:
    """So many are kept as the rule says: pages tell where the history begins, seq goes on, what went is forgotten."""
    async with service(engine, clock, tmp_path, retain_messages=120) as samvad:
        for first in (1, 101, 201):
            said = [{"role": "user", "content": f"{n}", "id": f"m{n}"} for n in range(first, first + 100)]
            await samvad.append_many("asha", said)
        await samvad.append_many("bala", [{"role": "user", "content": f"{n}"} for n in range(100)])
        assert await both(samvad) == Counts(messages=180)
        assert await both(samvad) == Counts()
        assert await seqs(samvad, "asha") == list(range(181, 301))
        assert await seqs(samvad, "bala") == list(range(1, 101))
        page = await samvad.page_history("asha", before=183)
        assert ([m.seq for m in page.messages], page.has_more, page.first_seq) == ([181, 182], False, 181)
        page = await samvad.page_history("asha", after=5, before=90)
        assert (page.messages, page.has_more) == ([], False)
        profile = await samvad.get_user_profile("asha")
        assert [m.seq for m in profile.conversation_history] == list(range(201, 301))
        oldest = (
            201 if engine.startswith("journaled") else 181
        )  # a journal looks further back only when it flushes
        there = await samvad.append_to_user_history("asha", "user", "again", id=f"m{oldest}")
        assert (there.seq, there.duplicate) == (oldest, True)
        again = await samvad.append_to_user_history("asha", "user", "again", id="m180")
        assert (again.seq, again.duplicate) == (301, False)
        assert await both(samvad) == Counts(messages=1)
        assert (await samvad.count()).total_messages == 220
        assert (await samvad.page_history("asha", limit=1)).first_seq == 182


async def test_fewer_than_a_window_may_stay(engine: str, clock: VirtualClock, tmp_path: Path) -> None:
    """The window is what is left, without a hole, and does not begin with a tool message whose call is gone."""
    call = {"role": "assistant", "content": "…", "toolCalls": [{"id": "c", "name": "rate", "arguments": {}}]}
    answer = {"role": "tool", "content": "7", "toolCallId": "c"}
    async with service(engine, clock, tmp_path, retain_messages=3) as samvad:
        await samvad.append_many(
            "asha", [{"role": "user", "content": "a"}, call, answer, answer, {"role": "user", "content": "b"}]
        )
        assert await both(samvad) == Counts(messages=2)
        for _ in range(2):
            profile = await samvad.get_user_profile("asha")
            assert [m.seq for m in profile.conversation_history] == [5]
            assert profile.history_length == 1
            samvad.cache.discard(samvad._user("asha"))  # and as it is loaded anew
        assert await seqs(samvad, "asha") == [3, 4, 5]
        assert (await samvad.append_to_user_history("asha", "user", "c")).seq == 6


async def test_messages_go_when_they_are_older_than_allowed(
    engine: str, clock: VirtualClock, tmp_path: Path
) -> None:
    """At the age itself they stay, a millisecond later they are gone."""
    async with service(engine, clock, tmp_path, retain_message_age="30d") as samvad:
        for _ in range(3):
            await samvad.append_many("asha", [{"role": "user", "content": "x"}] * 2)
            clock.advance(DAY_S)
        clock.advance(27 * DAY_S)
        assert await both(samvad) == Counts()
        clock.advance(0.001)
        assert await both(samvad) == Counts(messages=2)
        assert await seqs(samvad, "asha") == [3, 4, 5, 6]
        clock.advance(2 * DAY_S)
        assert await both(samvad) == Counts(messages=4)
        page = await samvad.page_history("asha")
        assert (page.messages, page.has_more, page.first_seq) == ([], False, 7)
        assert (await samvad.get_user_profile("asha")).conversation_history == []
        assert (await samvad.append_to_user_history("asha", "user", "y")).seq == 7
        assert await seqs(samvad, "asha") == [7]


async def test_sessions_go_some_time_after_their_end(
    engine: str, clock: VirtualClock, tmp_path: Path
) -> None:
    """Ended ones, and those that count as ended because nobody used them; open ones and reopened ones stay."""
    async with service(engine, clock, tmp_path, retain_sessions="10d") as samvad:
        for name in ("ended", "reopened", "idle"):
            await samvad.save_session(name, "asha")
            await samvad.record_interruption(name, f"i {name}", clock.now_ms(), b'{"heardText":"a"}')
        for name in ("ended", "reopened"):
            await samvad.end_session(name)
        clock.advance(10 * DAY_S)
        await samvad.save_session("reopened", "asha")
        assert await both(samvad) == Counts()
        clock.advance(0.001)
        assert await both(samvad) == Counts(sessions=1, interruptions=1)
        assert await samvad.get_session("ended") is None
        clock.advance(DAY_S - 0.001)
        assert await both(samvad) == Counts()
        clock.advance(0.001)
        assert await both(samvad) == Counts(sessions=1, interruptions=1)
        assert [s.id for s in await samvad.get_user_sessions("asha")] == ["reopened"]
        assert len(await samvad.recorded_interruptions("reopened")) == 1


async def test_old_interruptions_go(engine: str, clock: VirtualClock, tmp_path: Path) -> None:
    """Those older than allowed, of every session; their sessions stay."""
    async with service(engine, clock, tmp_path, retain_interruptions="5d") as samvad:
        for name in ("one", "two"):
            await samvad.save_session(name, "asha")
        for day in range(3):
            for name in ("one", "two"):
                await samvad.record_interruption(name, f"{name} {day}", clock.now_ms(), b'{"heardText":"a"}')
            clock.advance(DAY_S)
        clock.advance(3 * DAY_S)
        assert await both(samvad) == Counts(interruptions=2)

        assert [i.id for i in await samvad.recorded_interruptions("one")] == ["one 2", "one 1"]
        clock.advance(0.001)
        assert await both(samvad) == Counts(interruptions=2)
        assert [i.id for i in await samvad.recorded_interruptions("two")] == ["two 2"]
        assert len(await samvad.get_user_sessions("asha")) == 2


@pytest.mark.parametrize("engine", ["memory", "sqlite", "firestore"])
async def test_documents_of_users_go_and_shared_ones_stay(
    engine: str, clock: VirtualClock, tmp_path: Path
) -> None:
    """A user's own, counted from when it was added; the tenant's are nobody's and stay."""
    async with service(engine, clock, tmp_path, retain_documents="7d") as samvad:
        await samvad.append_to_user_history("asha", "user", "x")
        await samvad.knowledge.add_text("Old", "about loans", user_id="asha")
        await samvad.knowledge.add_text("Shared", "about cards")
        clock.advance(DAY_S)
        await samvad.knowledge.add_text("Young", "about rates", user_id="asha")
        clock.advance(6 * DAY_S)
        assert await both(samvad) == Counts()
        clock.advance(0.001)
        assert await both(samvad) == Counts(documents=1)
        listed = await samvad.knowledge.list_documents(user_id="asha")
        assert {each.title for each in listed.documents} == {"Young", "Shared"}


async def test_idle_users_are_erased(engine: str, clock: VirtualClock, tmp_path: Path) -> None:
    """A millisecond after the age, wholly, into a new epoch; whoever wrote anything meanwhile stays."""
    noted: list[Any] = []
    async with service(engine, clock, tmp_path, retain_idle_users="90d") as samvad:
        samvad.sweeper.note = lambda *each: noted.append(each)
        for user in ("asha", "bala", "chitra", "devi"):
            await samvad.append_many(user, [{"role": "user", "content": "x"}] * 3)
            await samvad.save_user_state(user, {"a": 1})
            await samvad.save_session(f"{user}'s", user)
        await samvad.record_interruption("asha's", "i", clock.now_ms(), b'{"heardText":"a"}')
        clock.advance(DAY_S)
        await samvad.save_user_state("bala", {"a": 2})
        await samvad.end_session("chitra's")
        await samvad.record_interruption("devi's", "i", clock.now_ms(), b'{"heardText":"a"}')
        clock.advance(89 * DAY_S)
        assert await both(samvad) == Counts()
        clock.advance(0.001)
        assert await both(samvad) == Counts(users=1, messages=3, sessions=1, interruptions=1)
        record = await samvad.read_user("asha")
        assert (record.version.epoch, record.seq, record.state, record.trimmed) == (1, 0, None, 0)
        assert await samvad.get_session("asha's") is None
        assert list(await samvad.list_users()) == ["bala", "chitra", "devi"]
        assert ("retention erase", "default", [("user", "default", "asha")]) in noted
        assert (await samvad.append_to_user_history("asha", "user", "y")).seq == 1
        clock.advance(DAY_S)
        assert await both(samvad) == Counts(users=3, messages=9, sessions=3, interruptions=1)
        assert list(await samvad.list_users()) == ["asha"]


@pytest.mark.parametrize("engine", ["memory", "sqlite", "firestore"])
async def test_a_document_is_a_sign_of_life(engine: str, clock: VirtualClock, tmp_path: Path) -> None:
    """Who has added a document is not idle; then it goes with its user, or alone where there is no more of them."""
    async with service(engine, clock, tmp_path, retain_idle_users="30d") as samvad:
        await samvad.append_to_user_history("asha", "user", "x")
        clock.advance(DAY_S)
        for user in ("asha", "stranger"):
            await samvad.knowledge.add_text("Notes", "about loans", user_id=user)
        clock.advance(30 * DAY_S)
        assert await both(samvad) == Counts()
        clock.advance(0.001)
        assert await both(samvad) == Counts(users=1, messages=1, documents=2)
        for user in ("asha", "stranger"):
            assert (await samvad.knowledge.list_documents(user_id=user)).documents == ()


async def test_all_rules_at_once(engine: str, clock: VirtualClock, tmp_path: Path) -> None:
    """What several rules name is counted once."""
    rules = {
        "retain_messages": 4,
        "retain_message_age": "20d",
        "retain_sessions": "10d",
        "retain_interruptions": "5d",
        "retain_idle_users": "40d",
    }
    async with service(engine, clock, tmp_path, **rules) as samvad:
        await samvad.append_many("idle", [{"role": "user", "content": "x"}] * 9)
        clock.advance(21 * DAY_S)
        await samvad.append_many("asha", [{"role": "user", "content": "old"}] * 2)
        await samvad.save_session("ended", "asha")
        await samvad.save_session("open", "asha")
        for name in ("ended", "open"):
            await samvad.record_interruption(name, f"{name} old", clock.now_ms(), b"{}")
        clock.advance(8 * DAY_S)
        await samvad.record_interruption("ended", "ended young", clock.now_ms(), b"{}")
        await samvad.end_session("ended")
        clock.advance(10 * DAY_S + 1)
        await samvad.record_interruption("ended", "ended newest", clock.now_ms(), b"{}")
        await samvad.append_many("asha", [{"role": "user", "content": "new"}] * 3)
        await samvad.save_session("open", "asha")
        clock.advance(DAY_S)
        counts = await both(samvad)
        assert counts == Counts(users=1, messages=9 + 1, sessions=1, interruptions=4)
        assert await seqs(samvad, "asha") == [2, 3, 4, 5]
        clock.advance(DAY_S)
        assert await both(samvad) == Counts(messages=1)
