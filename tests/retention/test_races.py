"""What happens between the look and the write, and what millions of users must not cost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from samvad.auth import audit
from samvad.cli import app
from samvad.clock import SystemClock
from samvad.records import UserKey, UserRecord, Version
from samvad.retention.looking import Counts, engine_of
from samvad.retention.rules import DAY_MS
from samvad.runtime import open_samvad
from samvad.sessions import user_log
from samvad.sessions.operations import AppendMessages, EraseUser, NewMessage, Retain
from samvad.testing.clock import VirtualClock
from tests.journaled.support import drained, store_of
from tests.retention.support import DAY_S, LOG_RULES, both, seqs, service
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio
ASHA = UserKey("default", "asha")


def said(times: list[int]) -> UserRecord:
    """A record with a message of each of these times."""
    record = UserRecord(Version(0, 0))
    for n, at_ms in enumerate(times):
        message = NewMessage(id=None, role="user", content="x", fields={}, random=f"{n:020x}")
        record = user_log.apply(record, AppendMessages(at_ms=at_ms, messages=(message,)), LOG_RULES).record
    return record


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({}, 3),  # of an older version: as it was looked up
        ({"keep": 5}, 5),
        ({"keep": 2}, 3),  # never more than was looked up
        ({"keep": 50}, 10),
        ({"said_before_ms": 4}, 6),
        ({"said_before_ms": 9}, 3),
        ({"said_before_ms": 100}, 3),
        ({"keep": 4, "said_before_ms": 4}, 4),  # due by either is due
        ({"keep": 8, "said_before_ms": 6}, 4),
    ],
)
def test_what_moved_since_the_look_stays_by_the_rules(rule: dict[str, int], kept: int) -> None:
    """What is journaled may move down where a repetition is taken out: then a place that was looked up is too far."""
    record = said(list(range(10)))
    applied = user_log.apply(record, Retain(at_ms=20, epoch=0, before_seq=8, **rule), LOG_RULES).record
    assert [m.seq for m in applied.window] == list(range(11 - kept, 11))
    assert applied.trimmed == 10 - kept


async def test_an_interruption_that_is_on_its_way_is_a_sign_of_life(tmp_path: Path) -> None:
    """The journal has it, the store has not: the user is not idle."""
    clock = VirtualClock()
    async with service("journaled firestore", clock, tmp_path, retain_idle_users="30d") as samvad:
        await samvad.append_to_user_history("asha", "user", "x")
        await samvad.save_session("s", "asha")
        await samvad.record_interruption("s", "old", clock.now_ms(), b'{"heardText":"a"}')
        await drained(samvad)
        clock.advance(31 * DAY_S)
        inner: Any = samvad.store.inner  # type: ignore[attr-defined]
        commit, go, arrived = inner.commit, asyncio.Event(), asyncio.Event()

        async def held(wanted: Any) -> Any:
            arrived.set()
            await go.wait()
            return await commit(wanted)

        inner.commit = held
        await samvad.record_interruption("s", "new", clock.now_ms(), b'{"heardText":"a"}')
        await arrived.wait()
        sweep = asyncio.create_task(samvad.sweeper.sweep(trust_clock=True))

        async def is_settled() -> bool:
            lane = store_of(samvad).flusher.find(ASHA)
            return sweep.done() or (lane is not None and len(lane.entries) > 1)

        await wait_until_async(is_settled, "the sweep is over, or waits for an erasing")
        go.set()
        assert (await sweep).counts == Counts()
        assert [i.id for i in await samvad.recorded_interruptions("s")] == ["new", "old"]


async def test_a_document_that_is_added_after_the_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user stays whole; where it comes later still, the document stays."""
    clock = VirtualClock()
    async with service("sqlite", clock, tmp_path, retain_idle_users="30d") as samvad:
        for user in ("asha", "bala"):
            await samvad.append_to_user_history(user, "user", "x")
            await samvad.knowledge.add_text("Old", "about loans", user_id=user)
        clock.advance(31 * DAY_S)
        due, write = samvad.sweeper._looker.due, samvad.core.lanes.write

        async def looked(key: UserKey, *more: Any) -> Any:
            found = await due(key, *more)
            if key == ASHA:
                await samvad.knowledge.add_text("New", "about cards", user_id="asha")
            return found

        async def written(key: UserKey, operation: Any) -> Any:
            if isinstance(operation, EraseUser):
                await samvad.knowledge.add_text("New", "about cards", user_id=key.user_id)
            return await write(key, operation)

        monkeypatch.setattr(samvad.sweeper._looker, "due", looked)
        monkeypatch.setattr(samvad.core.lanes, "write", written)
        assert (await samvad.sweeper.sweep(trust_clock=True)).counts == Counts(
            users=1, messages=1, documents=1
        )
        monkeypatch.undo()
        assert await seqs(samvad, "asha") == [1]
        for user, titles in (("asha", {"Old", "New"}), ("bala", {"New"})):
            listed = await samvad.knowledge.list_documents(user_id=user)
            assert {each.title for each in listed.documents} == titles


async def test_a_session_used_while_a_long_history_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened and ended again between two steps, and forgotten by the cache: it is a new one, and stays."""
    monkeypatch.setattr("samvad.retention.sweeper.MESSAGES_PER_STEP", 100)
    clock = VirtualClock()
    async with service("sqlite", clock, tmp_path, retain_messages=5, retain_sessions="10d") as samvad:
        for _ in range(4):
            await samvad.append_many("asha", [{"role": "user", "content": "x"}] * 100)
        await samvad.save_session("s", "asha")
        await samvad.end_session("s")
        clock.advance(11 * DAY_S)
        go_on, steps = samvad.sweeper._go_on, 0

        async def used(sweep: Any) -> None:
            nonlocal steps
            steps += 1
            if steps == 3:
                await samvad.save_session("s", "asha", metadata={"again": 1})
                await samvad.end_session("s")
                samvad.cache.discard(ASHA)
            await go_on(sweep)

        monkeypatch.setattr(samvad.sweeper, "_go_on", used)
        assert (await samvad.sweeper.sweep(trust_clock=True)).counts == Counts(messages=395, sessions=1)
        session = await samvad.get_session("s")
        assert session is not None
        assert session.metadata == {"again": 1}


async def test_a_sweep_reads_nothing_only_to_count_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run must; a sweep is told by the store what went."""
    clock = VirtualClock()
    async with service("firestore", clock, tmp_path, retain_sessions="10d") as samvad:
        await samvad.save_session("s", "asha")
        for n in range(3):
            await samvad.record_interruption("s", f"{n}", clock.now_ms(), b'{"heardText":"a"}')
        await samvad.end_session("s")
        clock.advance(11 * DAY_S)
        asked: list[str] = []
        interruptions = samvad.store.interruptions

        async def counted(tenant: str, session_id: str, limit: int) -> Any:
            asked.append(session_id)
            return await interruptions(tenant, session_id, limit)

        monkeypatch.setattr(samvad.store, "interruptions", counted)
        wanted = Counts(sessions=1, interruptions=3)
        assert (await samvad.sweeper.sweep(dry_run=True)).counts == wanted
        assert asked == ["s"]
        assert (await samvad.sweeper.sweep(trust_clock=True)).counts == wanted
        assert asked == ["s"]


async def test_owners_of_documents_are_found_in_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database may hold more documents than memory; without a rule about documents nobody is asked."""
    monkeypatch.setattr("samvad.knowledge.store_firestore._EVERYTHING_AT_ONCE", 2)
    clock = VirtualClock()
    async with service("firestore", clock, tmp_path, retain_documents="10d") as samvad:
        for n in range(5):
            await samvad.append_to_user_history(f"u{n}", "user", "x")
            await samvad.knowledge.add_text("Notes", "about loans", user_id=f"u{n}")
        clock.advance(11 * DAY_S)
        await samvad.append_to_user_history("u0", "user", "x")
        sizes: list[int] = []
        client = engine_of(samvad.store).client
        query = client.query

        async def seen(*arguments: Any, **more: Any) -> Any:
            found = await query(*arguments, **more)
            sizes.append(sum("/knowledge_base/" in each.name for each in found))
            return found

        monkeypatch.setattr(client, "query", seen)
        assert await both(samvad) == Counts(documents=5)
        assert max(sizes) == 2
    async with service("firestore", clock, tmp_path, retain_messages=1) as samvad:
        await samvad.append_to_user_history("asha", "user", "x")
        await samvad.knowledge.add_text("Notes", "about loans", user_id="asha")
        monkeypatch.setattr(
            samvad.sweeper._documents, "owned", lambda tenants: pytest.fail("nobody wants to know")
        )
        assert (await samvad.sweeper.sweep()).counts == Counts()


def test_the_audit_log_is_written_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep of many users that is killed has told of nearly all whom it erased; memory holds few of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("samvad.cli.retention._NOTED_AT_ONCE", 2)
    monkeypatch.setenv("SAMVAD_RETAIN_IDLE_USERS", "30d")
    url = f"sqlite:///{tmp_path}/data/samvad.db"
    with open_samvad(url, clock=VirtualClock(SystemClock().now_ms() - 40 * DAY_MS)) as samvad:
        for n in range(5):
            samvad.append_to_user_history(f"u{n}", "user", "x")
    with open_samvad(url) as samvad:
        samvad.append_to_user_history("asha", "user", "x")
    directory = tmp_path / "data" / audit.DIRECTORY
    directory.mkdir()
    done = CliRunner().invoke(app, ["retention", "sweep"])
    assert done.exit_code == 0, done.output
    told = [(each.did, len(each.whom)) for each in audit.entries(directory)]
    assert sorted(told[:-1]) == [("retention erase", 1), ("retention erase", 2), ("retention erase", 2)]
    assert told[-1] == ("retention sweep", 0)
