"""Every verb: what it answers, to whom, and what can be read afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from samvad import open_samvad
from samvad.clock import rfc3339
from samvad.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    SessionTaken,
    StoreUnavailable,
)
from samvad.runtime import Samvad
from samvad.stores.memory import MemoryStore
from samvad.testing.clock import START_MS, VirtualClock
from samvad.types import Position, Principal, trusted
from tests.sessions.faulty import FaultyStore
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio

DAY_S = 24 * 3600


@pytest.fixture
def clock() -> VirtualClock:
    """Time that the test moves."""
    return VirtualClock()


@pytest.fixture(params=["memory", "sqlite"])
async def samvad(
    request: pytest.FixtureRequest, clock: VirtualClock, database_path: Path
) -> AsyncIterator[Samvad]:
    """The service, over either store of this package."""
    url = "memory://" if request.param == "memory" else f"sqlite:///{database_path}"
    async with open_samvad(url, clock=clock) as service:
        yield service


# --- state and profile -------------------------------------------------------------------------------------


async def test_state_is_merged_replaced_and_read_back(samvad: Samvad, clock: VirtualClock) -> None:
    """Each save moves version, tag and time; a user without a state has none."""
    assert await samvad.get_user_state("asha") is None
    first = await samvad.save_user_state("asha", {"a": {"x": 1}, "isActive": "never"})
    clock.advance(5)
    second = await samvad.save_user_state("asha", {"a": {"y": 2}}, if_match=[first.etag])
    state = await samvad.get_user_state("asha")
    assert state is not None
    assert (state.state, state.version, state.etag) == ({"a": {"x": 1, "y": 2}}, 2, second.etag)
    assert (state.updated_at, state.is_active) == (rfc3339(START_MS + 5_000), True)
    with pytest.raises(PreconditionFailed):
        await samvad.replace_user_state("asha", {}, if_match=[first.etag])
    await samvad.replace_user_state("asha", {"b": None}, if_match=["*"])
    state = await samvad.get_user_state("asha")
    assert state is not None
    assert state.state == {"b": None}


async def test_a_profile_is_never_missing(samvad: Samvad, clock: VirtualClock) -> None:
    """An unknown user has an empty history and the defaults, and asking does not make them a user."""
    profile = await samvad.get_user_profile("nobody")
    assert (profile.conversation_history, profile.history_length, profile.position) == ([], 0, Position(0, 0))
    assert profile.preferences == {"language": "en", "voiceSpeed": 1.0}
    assert (profile.created_at, profile.last_updated) == (None, None)
    assert await samvad.list_users() == []
    await samvad.save_user_profile("asha", {"voiceSpeed": 1.5, "language": None})
    clock.advance(60)
    await samvad.append_to_user_history("asha", "user", "hello")
    profile = await samvad.get_user_profile("asha")
    assert profile.preferences == {"voiceSpeed": 1.5}
    assert (profile.created_at, profile.last_updated) == (rfc3339(START_MS), rfc3339(START_MS + 60_000))


# --- history -----------------------------------------------------------------------------------------------


async def test_messages_keep_what_they_carry(samvad: Samvad) -> None:
    """Known fields have their names, unknown ones are kept, and the server's place and time are added."""
    calls = [{"id": "c", "name": "rate", "arguments": {"bank": "x"}}]
    await samvad.append_to_user_history(
        "asha", "assistant", "I look", tool_calls=calls, session_id="s", mood={"glad": True}, extra=1
    )
    await samvad.append_to_user_history("asha", "tool", "7 %", id="mine", toolCallId="c", name="rate")
    call, answer = (await samvad.get_user_profile("asha")).conversation_history
    assert (call.seq, call.role, call.session_id, call.extra) == (
        1,
        "assistant",
        "s",
        {"mood": {"glad": True}, "extra": 1},
    )
    assert call.tool_calls is not None
    assert (call.tool_calls[0].name, call.tool_calls[0].arguments) == ("rate", {"bank": "x"})
    assert (answer.id, answer.tool_call_id, answer.name, answer.timestamp) == (
        "mine",
        "c",
        "rate",
        rfc3339(START_MS),
    )


async def test_a_batch_is_all_or_none(samvad: Samvad) -> None:
    """One malformed message, and none of them is there."""
    good = {"role": "user", "content": "x"}
    for bad in ({"role": "user"}, {"role": "robot", "content": "x"}, 5):
        with pytest.raises(InvalidRequest):
            await samvad.append_many("asha", [good, bad, good])  # type: ignore[list-item]
    for size in (0, 101):
        with pytest.raises(InvalidRequest):
            await samvad.append_many("asha", [good] * size)
    assert (await samvad.get_user_profile("asha")).history_length == 0
    assert [a.seq for a in await samvad.append_many("asha", [good] * 100)] == list(range(1, 101))


async def test_pages_of_a_long_history(samvad: Samvad) -> None:
    """From the window and from the store alike: in order, without hole or overlap, in both directions."""
    for size in (30, 220):
        while (count := (await samvad.get_user_profile("asha")).position.seq) < size:
            await samvad.append_many("asha", [{"role": "user", "content": "x"}] * min(100, size - count))
        found: list[int] = []
        before: int | None = None
        while True:
            page = await samvad.page_history("asha", limit=7, before=before)
            found = [m.seq for m in page.messages] + found
            if not page.has_more:
                break
            before = found[0]
        assert found == list(range(1, size + 1))
        found, more = [], True
        while more:
            page = await samvad.page_history("asha", limit=9, after=found[-1] if found else 0)
            found, more = found + [m.seq for m in page.messages], page.has_more
        assert found == list(range(1, size + 1))
        assert (await samvad.page_history("asha", after=10**30)).messages == []
        assert len((await samvad.page_history("asha", before=10**30, limit=5)).messages) == 5
        assert (await samvad.page_history("asha", before=-(10**30))).messages == []
        for limit in (0, -1, 1_001):
            with pytest.raises(InvalidRequest):
                await samvad.page_history("asha", limit=limit)


async def test_imported_messages_keep_their_time(samvad: Samvad, clock: VirtualClock) -> None:
    """What was said elsewhere keeps its timestamp; when the user was last heard of does not go back for it."""
    await samvad.append_to_user_history("asha", "user", "now")
    old = {"role": "user", "content": "then", "timestamp": "2001-02-03T04:05:06.789+05:30", "id": "old"}
    await samvad.import_messages("asha", [old, {"role": "user", "content": "no time"}])
    for source in ("memory", "store"):
        profile = await samvad.get_user_profile("asha")
        assert [m.timestamp for m in profile.conversation_history] == [
            rfc3339(START_MS),
            "2001-02-02T22:35:06.789Z",
            rfc3339(START_MS),
        ], source
        assert profile.last_updated == rfc3339(START_MS), source
        for lane in list(samvad.cache):
            samvad.cache.discard(lane.key)
    for timestamp in ("yesterday", "2001-02-03", "2001-02-03T04:05:06", 5):
        with pytest.raises(InvalidRequest):
            await samvad.import_messages("asha", [{**old, "timestamp": timestamp}])


# --- sessions ----------------------------------------------------------------------------------------------


async def test_the_life_of_a_session(samvad: Samvad, clock: VirtualClock) -> None:
    """Created, merged, touched by a message, ended, opened again without its end, deleted."""
    await samvad.save_session("s", "asha", language="hi", metadata={"platform": "web"}, color="red")
    clock.advance(1)
    await samvad.save_session("s", "asha", metadata={"deviceId": "d"})
    session = await samvad.get_session("s")
    assert session is not None
    assert (session.user_id, session.language, session.is_active) == ("asha", "hi", True)
    assert session.metadata == {"platform": "web", "deviceId": "d"}
    assert session.extra == {"color": "red"}
    assert (session.created_at, session.last_activity) == (rfc3339(START_MS), rfc3339(START_MS + 1_000))
    clock.advance(1)
    await samvad.append_to_user_history("asha", "user", "x", sessionId="s")
    clock.advance(1)
    await samvad.end_session("s")
    await samvad.end_session("s")
    for _ in range(2):
        session = await samvad.get_session("s")
        assert session is not None
        assert (session.is_active, session.last_activity) == (False, rfc3339(START_MS + 2_000))
        assert session.ended_at == rfc3339(START_MS + 3_000)
        assert await samvad.get_user_active_sessions("asha") == []
        for lane in list(samvad.cache):  # and the same from the store
            samvad.cache.discard(lane.key)
    await samvad.save_session("s", "asha")
    session = await samvad.get_session("s")
    assert session is not None
    assert (session.is_active, session.ended_at, session.extra) == (
        True,
        None,
        {"color": "red"},
    )
    assert (await samvad.clear_session("s")).session
    for verb in (samvad.end_session, samvad.clear_session, samvad.recorded_interruptions):
        with pytest.raises(NotFound):
            await verb("s")
    assert await samvad.get_session("s") is None


async def test_a_session_is_its_users(samvad: Samvad) -> None:
    """Another user's create is refused and changes nothing; of two at once, one has it; deleted, it is free."""
    await samvad.save_session("s", "asha", metadata={"a": 1})
    with pytest.raises(SessionTaken):
        await samvad.save_session("s", "bala", metadata={"b": 1})
    session = await samvad.get_session("s")
    assert session is not None
    assert (session.user_id, session.metadata) == ("asha", {"a": 1})
    answers = await asyncio.gather(
        *[samvad.save_session("new", user) for user in ("asha", "bala", "chitra")], return_exceptions=True
    )
    assert sorted(isinstance(answer, SessionTaken) for answer in answers) == [False, True, True]
    owner = ["asha", "bala", "chitra"][answers.index(None)]
    assert await samvad.session_owner("new") == owner
    await samvad.clear_session("s")
    await samvad.save_session("s", "bala")
    assert await samvad.session_owner("s") == "bala"
    await samvad.clear_user_data("bala")
    await samvad.save_session("s", "asha")
    assert await samvad.session_owner("s") == "asha"


async def test_an_idle_session_in_memory_counts_as_ended(clock: VirtualClock) -> None:
    """A record that stays in memory all the while lists it no longer, and opens it again all the same."""
    async with open_samvad("memory://", clock=clock, record_ttl_s=9 * DAY_S) as samvad:
        await samvad.save_session("s", "asha")
        clock.advance(DAY_S - 1)
        assert [s.id for s in await samvad.get_user_active_sessions("asha")] == ["s"]
        clock.advance(1)
        assert await samvad.get_user_active_sessions("asha") == []
        assert samvad.core.lanes.loads == 1
        await samvad.save_session("s", "asha")
        assert [s.id for s in await samvad.get_user_active_sessions("asha")] == ["s"]


async def test_an_idle_session_counts_as_ended(samvad: Samvad, clock: VirtualClock) -> None:
    """Idle for longer than a day it is not active, in any list, when the record is loaded anew."""
    await samvad.save_session("old", "asha")
    clock.advance(DAY_S / 2)
    await samvad.save_session("new", "asha")
    clock.advance(DAY_S / 2 + 1)
    for _ in range(2):
        assert [s.id for s in await samvad.get_user_active_sessions("asha")] == ["new"]
        old = await samvad.get_session("old")
        assert old is not None
        assert not old.is_active
        assert [(s.id, s.is_active) for s in await samvad.get_user_sessions("asha")] == [
            ("new", True),
            ("old", False),
        ]
        assert (await samvad.get_stats()).active_sessions == 1
        for lane in list(samvad.cache):
            samvad.cache.discard(lane.key)
    await samvad.save_session("old", "asha")
    assert [s.id for s in await samvad.get_user_active_sessions("asha")] == ["old", "new"]


async def test_three_hundred_open_sessions(samvad: Samvad, clock: VirtualClock) -> None:
    """All are listed, newest activity first, though a record holds fewer; and each can be ended."""
    for n in range(300):
        clock.advance(1)
        await samvad.save_session(f"s{n}", "asha", n=n)
    newest = [f"s{n}" for n in reversed(range(300))]
    for _ in range(2):
        assert [s.id for s in await samvad.get_user_active_sessions("asha")] == newest
        assert [s.id for s in await samvad.get_user_sessions("asha")] == newest
        samvad.cache.discard(next(iter(samvad.cache)).key)
    first = await samvad.get_session("s0")
    assert first is not None
    assert first.extra == {"n": 0}
    await samvad.end_session("s0")
    await samvad.clear_session("s1")
    assert [s.id for s in await samvad.get_user_active_sessions("asha")] == newest[:-2]
    assert (await samvad.get_stats()).active_sessions == 298
    assert (await samvad.clear_user_data("asha")).sessions == 299


async def test_is_active_and_the_windows_of_the_statistics(samvad: Samvad, clock: VirtualClock) -> None:
    """A user is active with a state or an open session touched within the last 30 minutes, and not otherwise."""
    await samvad.save_user_state("stated", {})
    await samvad.save_session("s", "seated")
    await samvad.save_session("t", "ended")
    await samvad.end_session("t")
    await samvad.append_to_user_history("talked", "user", "x")
    await samvad.record_interruption("s", "i", 1, b"{}")
    stats = await samvad.get_stats()
    assert (stats.active_users, stats.active_sessions) == (2, 1)
    assert (stats.total_profiles, stats.total_interruptions) == (1, 1)
    clock.advance(30 * 60 - 1)
    assert (await samvad.get_stats()).active_users == 2
    state = await samvad.get_user_state("stated")
    assert state is not None
    assert state.is_active
    clock.advance(2)
    assert (await samvad.get_stats()).active_users == 0
    state = await samvad.get_user_state("stated")
    assert state is not None
    assert not state.is_active
    await samvad.save_session("u", "stated")
    state = await samvad.get_user_state("stated")
    assert state is not None
    assert state.is_active


# --- erasing -----------------------------------------------------------------------------------------------


async def test_clearing_a_user_counts_and_is_idempotent(samvad: Samvad) -> None:
    """What was really removed is counted; again there is nothing; what comes later is a new life."""
    await samvad.save_user_state("asha", {})
    await samvad.append_to_user_history("asha", "user", "x", id="one")
    for session in ("s", "t"):
        await samvad.save_session(session, "asha")
    for n in range(5):
        await samvad.record_interruption("s", str(n), n, b"{}")
    assert [i.id for i in await samvad.recorded_interruptions("s")] == ["4", "3", "2"]
    first = await samvad.clear_user_data("asha")
    assert (first.user_state, first.user_profile, first.sessions) == (True, True, 2)
    assert (first.interruptions, first.messages) == (5, 1)
    again = await samvad.clear_user_data("asha")
    assert (again.user_state, again.user_profile, again.sessions, again.messages) == (False, False, 0, 0)
    assert await samvad.get_user_state("asha") is None
    assert await samvad.get_session("s") is None
    assert await samvad.list_users() == []
    appended = await samvad.append_to_user_history("asha", "user", "y", id="one")
    assert (appended.seq, appended.duplicate) == (1, False)
    assert (await samvad.get_user_profile("asha")).position == Position(1, 1)


async def test_clearing_a_session_counts_its_interruptions(samvad: Samvad) -> None:
    """Deleting a session takes its interruptions, forgetting them leaves the session."""
    await samvad.save_session("s", "asha")
    for n in range(2):
        await samvad.record_interruption("s", str(n), n, b"{}")
    assert await samvad.forget_interruptions("s") == 2
    assert await samvad.forget_interruptions("s") == 0
    await samvad.record_interruption("s", "i", 1, b"{}")
    assert (await samvad.clear_session("s")).interruptions == 1


async def test_clearing_empties_the_memory_beside_the_store(samvad: Samvad) -> None:
    """The stacks of interruptions of an erased user, or a deleted session, go at once."""
    for session, user in (("s", "asha"), ("t", "asha"), ("u", "bala")):
        await samvad.save_session(session, user)
        samvad.interruptions.push(session, user, type="BARGE_IN", full_text="one two", heard_text="one")
    await samvad.clear_session("t")
    assert samvad.interruptions.session_count == 2
    await samvad.clear_user_data("asha")
    assert samvad.interruptions.session_count == 1


# --- who asks ----------------------------------------------------------------------------------------------


async def test_a_principal_acts_for_itself_alone(samvad: Samvad) -> None:
    """Another user's data is forbidden, another user's session is as if it were not there; nothing is changed."""
    await samvad.save_user_state("asha", {"a": 1})
    await samvad.save_session("s", "asha")
    await samvad.record_interruption("s", "i", 1, b"{}")
    bala = samvad.acting_as(Principal(user="bala"))
    message = {"role": "user", "content": "x"}
    forbidden: list[Any] = [
        bala.save_user_state("asha", {}),
        bala.replace_user_state("asha", {}),
        bala.get_user_state("asha"),
        bala.save_user_profile("asha", {}),
        bala.get_user_profile("asha"),
        bala.append_to_user_history("asha", "user", "x"),
        bala.append_many("asha", [message]),
        bala.import_messages("asha", [message]),
        bala.page_history("asha"),
        bala.page_stored("asha"),
        bala.save_session("new", "asha"),
        bala.get_user_active_sessions("asha"),
        bala.get_user_sessions("asha"),
        bala.clear_user_data("asha"),
        bala.read_user("asha"),
        bala.get_stats(),
        bala.count(),
        bala.list_users(),
    ]
    for verb in forbidden:
        with pytest.raises(Forbidden):
            await verb
    missing: list[Any] = [
        bala.end_session("s"),
        bala.clear_session("s"),
        bala.session_owner("s"),
        bala.recorded_interruptions("s"),
        bala.record_interruption("s", "j", 1, b"{}"),
        bala.forget_interruptions("s"),
    ]
    for verb in missing:
        with pytest.raises(NotFound):
            await verb
    assert await bala.get_session("s") is None
    with pytest.raises(SessionTaken):
        await bala.save_session("s", "bala")
    asha = samvad.acting_as(Principal(user="asha"))
    assert await asha.get_session("s") is not None
    assert [i.id for i in await asha.recorded_interruptions("s")] == ["i"]
    state = await asha.get_user_state("asha")
    assert state is not None
    assert state.state == {"a": 1}
    await asha.clear_user_data("asha")


async def test_a_tenant_is_a_world_of_its_own(samvad: Samvad) -> None:
    """The same ids in two tenants are different users and sessions, also to the one who may do all."""
    other = samvad.acting_as(trusted("other"))
    for service, mark in ((samvad, "here"), (other, "there")):
        await service.save_user_state("asha", {"mark": mark})
        await service.save_session("s", "asha", mark=mark)
    for service, mark in ((samvad, "here"), (other, "there")):
        state = await service.get_user_state("asha")
        session = await service.get_session("s")
        assert state is not None
        assert session is not None
        assert (state.state, session.extra) == ({"mark": mark}, {"mark": mark})
        assert (await service.get_stats()).active_sessions == 1
    await other.clear_user_data("asha")
    assert await samvad.get_session("s") is not None
    assert await other.get_session("s") is None


@pytest.mark.parametrize("user_id", ["", "a/b", "..", "stats", "\ud800", "x" * 257, 7, None])
async def test_every_verb_checks_the_name_first(samvad: Samvad, user_id: Any) -> None:
    """A name that cannot be one is refused as such, at every door."""
    for verb in (
        samvad.get_user_state,
        samvad.get_user_profile,
        samvad.clear_user_data,
        samvad.get_user_sessions,
        samvad.get_session,
        samvad.end_session,
        samvad.clear_session,
    ):
        with pytest.raises(InvalidRequest):
            await verb(user_id)
    with pytest.raises(InvalidRequest):
        await samvad.save_session("s", user_id)
    with pytest.raises(InvalidRequest):
        await samvad.save_session(user_id, "asha")


# --- together ----------------------------------------------------------------------------------------------


async def test_many_clients_of_one_user(database_path: Path) -> None:
    """32 clients, 2,000 messages: none lost, none twice, seq gapless, each client's order kept, the window exact."""
    clients, messages = 32, 2_000
    told: dict[str, int] = {}

    async def client(samvad: Samvad, number: int) -> None:
        for n in range(number, messages, clients):
            content = f"{number}-{n // clients}"
            told[content] = (await samvad.append_to_user_history("asha", "user", content, id=content)).seq

    async with open_samvad(f"sqlite:///{database_path}") as samvad:
        await asyncio.gather(*[client(samvad, number) for number in range(clients)])
        before = await samvad.get_user_profile("asha")
    async with open_samvad(f"sqlite:///{database_path}") as samvad:
        profile = await samvad.get_user_profile("asha")
        assert profile == before
        assert [m.seq for m in profile.conversation_history] == list(range(messages - 99, messages + 1))
        first = await samvad.page_history("asha", after=0, limit=1_000)
        second = await samvad.page_history("asha", after=1_000, limit=1_000)
        assert (first.has_more, second.has_more) == (True, False)
        stored = [*first.messages, *second.messages]
        assert [m.seq for m in stored] == list(range(1, messages + 1))
        assert {m.content: m.seq for m in stored} == told
        assert len(told) == messages
        for number in range(clients):
            mine = [m.content for m in stored if m.content.startswith(f"{number}-")]
            assert mine == [f"{number}-{n}" for n in range(len(mine))]


async def test_a_caller_who_left_has_erased_all_the_same() -> None:
    """An erasing whose caller does not wait for the answer empties the memory beside the store as well."""
    store = FaultyStore(MemoryStore())
    async with open_samvad(store=store) as samvad:
        await samvad.save_session("s", "asha")
        samvad.interruptions.push("s", "asha", type="BARGE_IN", full_text="one two", heard_text="one")
        store.hold()
        erasing = asyncio.create_task(samvad.clear_user_data("asha"))

        async def under_way() -> bool:
            return samvad.core.lanes.operations_waiting == 1

        await wait_until_async(under_way, "the erasing is under way")
        erasing.cancel()
        store.release()

        async def forgotten() -> bool:
            return samvad.interruptions.session_count == 0

        await wait_until_async(forgotten, "the interruptions are forgotten", 5)
        assert samvad.interruptions.session_count == 0


async def test_an_unreachable_store_is_no_empty_answer() -> None:
    """What this process cannot know is unavailable, never an empty record that looks true."""
    store = FaultyStore(MemoryStore())
    async with open_samvad(store=store) as samvad:
        store.loads_fail = StoreUnavailable()
        for verb in (samvad.get_user_profile, samvad.get_user_state, samvad.get_user_active_sessions):
            with pytest.raises(StoreUnavailable):
                await verb("asha")
