"""Sweeps beside writers, other replicas, outages and kills; and that what went is in no file any more."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from typer.testing import CliRunner

from samvad.cli import app
from samvad.errors import StoreUnavailable
from samvad.records import Erased, MessagesAdded
from samvad.retention import sweeper as sweeping
from samvad.retention.lease import CutShort
from samvad.retention.looking import Counts
from samvad.stores.sqlite import SQLiteStore
from samvad.testing.clock import START_MS, VirtualClock
from samvad.testing.model import raw_message
from tests.encryption.test_at_rest import found_in
from tests.firestore.raw import everything
from tests.firestore.support import emulator
from tests.retention.support import DAY_S, ENGINES, both, seqs, service

pytestmark = pytest.mark.anyio

CANARY = "canary-91b2-मैना"


@pytest.mark.parametrize("engine", ENGINES)
async def test_appends_beside_sweeps_are_all_there(engine: str, tmp_path: Path) -> None:
    """None is lost, none is doubled, seq has no gap, and what was acknowledged last is in the window."""
    clock = VirtualClock()
    keep, users, rounds = 15, ["asha", "bala"], 6
    async with service(engine, clock, tmp_path, retain_messages=keep) as samvad:
        told: dict[str, list[str]] = {user: [] for user in users}

        async def say(user: str) -> None:
            for n in range(rounds * 8):
                text = f"{user} {n}"
                await samvad.append_to_user_history(user, "user", text)
                told[user].append(text)
                window = (await samvad.read_user(user)).window
                assert [m.seq for m in window] == list(range(window[0].seq, window[0].seq + len(window)))
                assert window[-1].seq == n + 1
                if n % 8 == 0:
                    await asyncio.sleep(0)

        async def sweep() -> Counts:
            total = Counts()
            while len(told["asha"]) + len(told["bala"]) < rounds * 16:
                total.add((await samvad.sweeper.sweep()).counts)
                await asyncio.sleep(0)
            return total

        results = await asyncio.gather(sweep(), *map(say, users))
        total = results[0]
        total.add(await both(samvad))
        for user in users:
            page = await samvad.page_history(user, limit=100)
            assert [m.content for m in page.messages] == told[user][-keep:]
            assert page.messages[-1].seq == rounds * 8
            assert page.first_seq == rounds * 8 - keep + 1
        assert total == Counts(messages=2 * (rounds * 8 - keep))


@pytest.mark.parametrize("engine", ["memory", "sqlite", "firestore", "journaled firestore"])
async def test_who_writes_before_being_erased_stays(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look says idle, then something is written: the user stays, and so do sessions and documents."""
    clock = VirtualClock()
    async with service(engine, clock, tmp_path, retain_idle_users="30d", retain_sessions="30d") as samvad:
        for user in ("asha", "bala"):
            await samvad.append_to_user_history(user, "user", "x")
            await samvad.save_session(f"{user}'s", user)
            await samvad.end_session(f"{user}'s")
        await both(samvad)
        if engine != "memory":
            await samvad.knowledge.add_text("Notes", "about loans", user_id="asha")
        clock.advance(31 * DAY_S)
        due = samvad.sweeper._looker.due

        async def looked(key: Any, *more: Any) -> Any:
            found = await due(key, *more)
            if key.user_id == "asha":
                assert found.erase
                await samvad.append_to_user_history("asha", "user", "back again")
            else:
                assert found.erase
                await samvad.save_session("bala's", "bala")
            return found

        monkeypatch.setattr(samvad.sweeper._looker, "due", looked)
        assert (await samvad.sweeper.sweep()).counts == Counts()
        monkeypatch.undo()
        assert await seqs(samvad, "asha") == [1, 2]
        session = await samvad.get_session("bala's")
        assert session is not None
        assert session.is_active
        if engine != "memory":
            assert len((await samvad.knowledge.list_documents(user_id="asha")).documents) == 1
        assert await both(samvad) == Counts(sessions=1)  # asha's, which ended long ago


async def test_a_session_that_is_used_again_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reopened between the look and the write."""
    clock = VirtualClock()
    async with service("sqlite", clock, tmp_path, retain_sessions="30d") as samvad:
        await samvad.save_session("s", "asha", metadata={"a": 1})
        await samvad.end_session("s")
        clock.advance(31 * DAY_S)
        due = samvad.sweeper._looker.due

        async def looked(*arguments: Any) -> Any:
            found = await due(*arguments)
            assert found.sessions
            await samvad.save_session("s", "asha")
            return found

        monkeypatch.setattr(samvad.sweeper._looker, "due", looked)
        assert (await samvad.sweeper.sweep()).counts == Counts()
        session = await samvad.get_session("s")
        assert session is not None
        assert session.metadata == {"a": 1}


@pytest.mark.parametrize("engine", ["firestore", "journaled firestore"])
async def test_replicas_may_sweep_at_once(engine: str, tmp_path: Path) -> None:
    """Two that do not know of each other: they remove what one would have, once, while users write at both."""
    clock = VirtualClock()
    project = emulator().new_project()
    folders = [tmp_path / "a", tmp_path / "b"]
    one, two = (service(engine, clock, each, project, retain_messages=10) for each in folders)
    users = [f"user {n}" for n in range(6)]
    async with one, two:
        for user in users:
            await one.append_many(user, [{"role": "user", "content": "old"}] * 40)
        await both(one) if engine == "firestore" else await one.store.drain(30.0)  # type: ignore[attr-defined]
        for user in users:
            await two.append_many(user, [{"role": "user", "content": "new"}] * 7)
        for samvad in (one, two):
            if engine.startswith("journaled"):
                assert await samvad.store.drain(30.0) == 0  # type: ignore[attr-defined]
            samvad.sweeper.lease = None
        dry = (await two.sweeper.sweep(dry_run=True)).counts
        swept = await asyncio.gather(one.sweeper.sweep(), two.sweeper.sweep())
        assert swept[0].counts.messages + swept[1].counts.messages == dry.messages
        for samvad in (one, two):
            for user in users:
                samvad.cache.discard(samvad._user(user))
                assert await seqs(samvad, user) == list(range(38, 48))
                assert (await samvad.page_history(user)).first_seq == 38


async def test_long_histories_go_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No commit trims more than so many messages; a sweep that is cut off in between goes on later."""
    monkeypatch.setattr(sweeping, "MESSAGES_PER_STEP", 100)
    clock = VirtualClock()
    async with service("sqlite", clock, tmp_path, retain_messages=50) as samvad:
        for _ in range(6):
            await samvad.append_many("asha", [{"role": "user", "content": "x"}] * 100)
        steps = 0

        async def go_on(_: Any) -> None:
            nonlocal steps
            steps += 1
            if steps == 3:
                raise CutShort("The store is down.")

        monkeypatch.setattr(samvad.sweeper, "_go_on", go_on)
        with pytest.raises(CutShort):
            await samvad.sweeper.sweep()
        assert samvad.sweeper.swept == Counts(messages=200)
        assert (await samvad.page_history("asha")).first_seq == 201
        monkeypatch.undo()
        assert await both(samvad) == Counts(messages=350)


async def test_the_server_sweeps_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, again and again, with rests in between; sooner after a failure, and not where told so."""
    clock = VirtualClock()
    waits: list[float] = []
    enough = asyncio.Event()
    samvad = service("sqlite", clock, tmp_path, retain_messages=1)
    sweeper = samvad.sweeper

    async def sleep(seconds: float) -> None:
        if seconds < 5:
            return  # a rest
        waits.append(seconds)
        clock.advance(seconds)
        if len(waits) == 4:
            enough.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(sweeper, "_sleep", sleep)
    fold = SQLiteStore.fold
    failing = [True]

    async def fails_once(self: SQLiteStore) -> None:
        if failing.pop() if failing else False:
            raise StoreUnavailable
        await fold(self)

    monkeypatch.setattr(SQLiteStore, "fold", fails_once)
    async with samvad:
        await samvad.append_many("asha", [{"role": "user", "content": "x"}] * 3)
        with anyio.fail_after(20):
            await enough.wait()
        assert await seqs(samvad, "asha") == [3]
    assert 300 <= waits[0] <= 3_600
    assert waits[1] == 600
    assert all(0.9 * 86_400 <= each <= 1.1 * 86_400 for each in waits[2:])
    assert (sweeper.sweeps, sweeper.failures, sweeper.swept) == (2, 1, Counts(messages=2))
    async with service("memory", clock, tmp_path, retain_messages=1, retain_every_s=0.0) as quiet:
        assert quiet._sweeping is not None
        await quiet._sweeping


@pytest.mark.parametrize("engine", ["sqlite", "journaled firestore"])
async def test_no_byte_of_it_is_left(engine: str, tmp_path: Path) -> None:
    """Not in the database, its log, or the journal, while the service runs; nor in any document of Firestore."""
    clock = VirtualClock()
    project = emulator().new_project() if engine.endswith("firestore") else None
    samvad = service(
        engine, clock, tmp_path, project, retain_messages=5, retain_interruptions="9d", retain_sessions="9d"
    )
    async with samvad:
        for n in range(3):
            said = [
                {"role": "user", "content": f"{CANARY} {n}", "id": f"{CANARY} {n} {m}"} for m in range(70)
            ]
            await samvad.append_many("asha", [*said, {"role": "user", "content": "z" * 30_000}])
        await samvad.append_many("asha", [{"role": "user", "content": f"stays {n}"} for n in range(5)])
        for name in ("open", "ended"):
            await samvad.save_session(name, "asha", metadata={"note": CANARY if name == "ended" else "stays"})
            await samvad.record_interruption(
                name, f"i {name}", clock.now_ms(), json.dumps({"fullText": CANARY}).encode()
            )
        await samvad.end_session("ended")
        if engine == "sqlite":
            assert found_in(tmp_path, CANARY)
        clock.advance(10 * DAY_S)
        await samvad.save_session("open", "asha")
        assert await both(samvad) == Counts(messages=213, sessions=1, interruptions=2)
        assert found_in(tmp_path, CANARY) == []
        if project is not None:
            assert CANARY.encode() not in repr(everything(project)).encode()
            assert "stays 4" in repr(everything(project))
        assert [m.content for m in (await samvad.page_history("asha")).messages] == [
            f"stays {n}" for n in range(5)
        ]
    assert found_in(tmp_path, CANARY) == []


def _fill(path: Path, users: int, messages: int) -> None:
    async def run() -> None:
        store = SQLiteStore(path, synchronous="OFF")
        await store.open()
        from samvad.records import Commit, UserKey, Version

        said = tuple(raw_message(n, f"m{n}", START_MS + n, CANARY) for n in range(1, messages + 1))
        commits = [
            store.commit(Commit(UserKey("default", f"user {n}"), Version(0, 0), (MessagesAdded(said),)))
            for n in range(users)
        ]
        await asyncio.gather(*commits)
        await store.close()

    asyncio.run(run())


def test_killed_in_the_middle_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill -9 at random moments: each time a part is done, wholly; the last run ends it, and no byte is left."""
    path = tmp_path / "samvad.db"
    users, messages, keep = 60, 40, 10
    _fill(path, users, messages)
    command = [sys.executable, "-m", "samvad", "retention", "sweep", "--json", "--trust-clock"]
    environ = {"SAMVAD_DATA_DIR": str(tmp_path), "SAMVAD_RETAIN_MESSAGES": str(keep), "PATH": "/usr/bin:/bin"}
    dice = random.Random(7)
    for _ in range(2):
        process = subprocess.Popen([*command], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        wanted = dice.randint(1, 20)
        while process.poll() is None:
            before = database.execute("SELECT count(*) FROM users WHERE trimmed > 0").fetchone()[0]
            if before >= wanted:
                break
        database.close()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        database = sqlite3.connect(path, timeout=10)
        rows = database.execute("SELECT seq, trimmed FROM users").fetchall()
        database.close()
        assert len(rows) == users
        assert set(rows) <= {(messages, 0), (messages, messages - keep), (0, 0)}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, command[3:])
    assert json.loads(done.stdout)["usersSeen"] == users
    again = CliRunner().invoke(app, [*command[3:], "--dry-run"])
    assert json.loads(again.stdout)["messages"] == 0
    database = sqlite3.connect(path)
    assert database.execute("SELECT DISTINCT seq, trimmed FROM users").fetchall() == [
        (messages, messages - keep)
    ]
    database.close()
    found = path.read_bytes().count(CANARY.encode())
    assert found == users * keep


async def test_what_was_looked_up_of_another_life_goes_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Erased and born again between the look and the write: nothing of the new life goes."""
    clock = VirtualClock()
    async with service("sqlite", clock, tmp_path, retain_messages=2) as samvad:
        await samvad.append_many("asha", [{"role": "user", "content": "old"}] * 9)
        due = samvad.sweeper._looker.due

        async def looked(*arguments: Any) -> Any:
            found = await due(*arguments)
            await samvad.clear_user_data("asha")
            await samvad.append_many("asha", [{"role": "user", "content": "new"}] * 5)
            return found

        monkeypatch.setattr(samvad.sweeper._looker, "due", looked)
        assert (await samvad.sweeper.sweep()).counts == Counts()
        assert await seqs(samvad, "asha") == [1, 2, 3, 4, 5]


async def test_another_replica_wrote_before_the_erasing_arrived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has something newer than what was looked at: the user stays whole, documents included."""
    clock = VirtualClock()
    project = emulator().new_project()
    folders = [tmp_path / "a", tmp_path / "b"]
    one, two = (
        service("journaled firestore", clock, each, project, retain_idle_users="30d") for each in folders
    )
    async with one, two:
        await one.append_to_user_history("asha", "user", "x")
        await one.knowledge.add_text("Notes", "about loans", user_id="asha")
        await both(one)
        clock.advance(31 * DAY_S)
        inner: Any = one.store.inner  # type: ignore[attr-defined]
        commit = inner.commit

        async def late(wanted: Any) -> Any:
            if any(isinstance(change, Erased) for change in wanted.changes):
                await two.append_to_user_history("asha", "user", "back again")
                assert await two.store.drain(30.0) == 0  # type: ignore[attr-defined]
            return await commit(wanted)

        monkeypatch.setattr(inner, "commit", late)
        assert (await one.sweeper.sweep()).counts == Counts()
        assert len((await one.knowledge.list_documents(user_id="asha")).documents) == 1
        one.cache.discard(one._user("asha"))
        assert await seqs(one, "asha") == [1, 2]


async def test_what_is_trimmed_in_the_journal_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store has not heard of it yet: no page holds it, and interruptions and sessions are gone as well."""
    clock = VirtualClock()
    rules = {"retain_messages": 3, "retain_interruptions": "9d", "retain_sessions": "9d"}
    async with service("journaled firestore", clock, tmp_path, **rules) as samvad:
        await samvad.append_many("asha", [{"role": "user", "content": "x"}] * 8)
        for name in ("open", "ended"):
            await samvad.save_session(name, "asha")
            await samvad.record_interruption(name, f"i {name}", clock.now_ms(), b'{"heardText":"a"}')
        await samvad.end_session("ended")
        clock.advance(10 * DAY_S)
        await samvad.save_session("open", "asha")
        assert await samvad.store.drain(30.0) == 0  # type: ignore[attr-defined]
        inner: Any = samvad.store.inner  # type: ignore[attr-defined]
        commit, arrived, go = inner.commit, asyncio.Event(), asyncio.Event()

        async def held(wanted: Any) -> Any:
            arrived.set()
            await go.wait()
            return await commit(wanted)

        monkeypatch.setattr(inner, "commit", held)
        sweep = asyncio.create_task(samvad.sweeper.sweep())
        await arrived.wait()
        store, user = samvad.store, samvad._user("asha")
        for after, before, limit in ((None, None, 9), (0, None, 9), (None, 7, 1), (2, 9, 9), (None, 5, 9)):
            messages, more = await store.page(
                user, after=after, before=before, limit=limit, bytes_max=1 << 30
            )
            wanted = [seq for seq in (6, 7, 8) if (after or 0) < seq < (before or 99)]
            assert ([m.seq for m in messages], more) == (wanted[-limit:], False)
        assert await store.interruptions("default", "open", 9) == []
        assert await store.session("default", "ended") is None
        go.set()
        assert (await sweep).counts == Counts(messages=5, sessions=1, interruptions=2)
        assert await seqs(samvad, "asha") == [6, 7, 8]
