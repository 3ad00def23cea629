"""Users who cannot be swept, and stores that go away in between: the others are swept, and it is counted and told."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import apsw
import pytest
from typer.testing import CliRunner

from samvad.cli import app
from samvad.errors import StoreUnavailable, TooLarge, Unavailable
from samvad.logs import user_hash
from samvad.records import MessagesAdded, UserKey
from samvad.retention.lease import CutShort
from samvad.retention.looking import Counts, engine_of
from samvad.retention.sweeper import Trouble
from samvad.runtime import Options, Samvad
from samvad.stores import sqlite_history
from samvad.stores.memory import MemoryStore
from samvad.testing.clock import VirtualClock
from samvad.testing.proxy import FaultProxy
from tests.encryption.test_damaged import PARTS, damage_sqlite
from tests.firestore.raw import google_client
from tests.firestore.support import emulator, make_store
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import drained, journaled, store_of
from tests.retention.support import DAY_S, seqs, service
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio
RULES = {
    "retain_messages": 2,
    "retain_message_age": "60d",
    "retain_sessions": "20d",
    "retain_interruptions": "20d",
    "retain_documents": "20d",
    "retain_idle_users": "90d",
}


def key(user: str) -> UserKey:
    """The key of a user."""
    return UserKey("default", user)


async def say(samvad: Samvad, user: str) -> None:
    """What most rules name: two messages too many, an old session and its interruption."""
    await samvad.append_many(user, [{"role": "user", "content": "x"}] * 4)
    await samvad.save_user_state(user, {"note": "x"})
    await samvad.save_user_profile(user, {"note": "x"})
    await samvad.save_session(f"{user}'s", user, metadata={"note": "x"})
    await samvad.record_interruption(f"{user}'s", "i", samvad.core.clock.now_ms(), b'{"fullText":"x"}')
    await samvad.end_session(f"{user}'s")


@pytest.mark.parametrize("what", PARTS)
async def test_damage_in_a_sealed_store_holds_nobody_up(tmp_path: Path, what: str) -> None:
    """Who cannot be opened is swept all the same; idle, they go like anybody."""
    clock = VirtualClock()
    async with service("sealed sqlite", clock, tmp_path, **RULES) as samvad:
        await say(samvad, "asha")
    await damage_sqlite(tmp_path / "samvad.db", what)
    async with service("sealed sqlite", clock, tmp_path, **RULES) as samvad:
        await say(samvad, "bala")
        clock.advance(21 * DAY_S)
        done = await samvad.sweeper.sweep()
        assert (done.seen, done.skipped) == (2, 0)
        assert done.counts == Counts(messages=4, sessions=2, interruptions=2)
        assert await seqs(samvad, "bala") == [3, 4]
        clock.advance(100 * DAY_S)
        done = await samvad.sweeper.sweep(trust_clock=True)
        assert (done.skipped, done.counts.users) == (0, 2)


@pytest.mark.parametrize("error", [TypeError("what is there"), apsw.CorruptError("a page")])
async def test_who_is_written_at_the_same_moment_does_not_suffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """SQLite writes many in one transaction: what one of them meets there is that one's alone."""
    async with service("sqlite", VirtualClock(), tmp_path, retain_messages=1) as samvad:
        names = [f"u{n}" for n in range(8)]
        for user in names:
            await samvad.append_many(user, [{"role": "user", "content": "x"}] * 3)
        trim = sqlite_history.trim

        def fails(connection: Any, user_no: int, before_seq: int) -> int:
            if user_no == 4:
                raise error
            return trim(connection, user_no, before_seq)

        monkeypatch.setattr(sqlite_history, "trim", fails)
        done = await samvad.sweeper.sweep()
        assert [each.key.user_id for each in done.troubles] == ["u3"]
        assert done.counts == Counts(messages=14)
        monkeypatch.undo()
        assert (await samvad.sweeper.sweep()).counts == Counts(messages=2)


async def test_who_cannot_be_read_is_passed_over_counted_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By a hash in the log, by the id to the operator who asks, in the metrics by number; with exit code 1."""
    clock, project = VirtualClock(), emulator().new_project()
    names = [f"user {n:02}" for n in range(12)]
    async with service("firestore", clock, tmp_path, project) as samvad:
        for user in names:
            await samvad.append_many(user, [{"role": "user", "content": "x"}] * 4)
    bad = ["user 03", "user 07"]

    def damage() -> None:
        with google_client(project) as client:
            client.document(f"user_profiles/{bad[0]}").update({"sessions": {"ss": "x"}})
            client.document(f"user_profiles/{bad[1]}").update({"applied": [{"secret": "canary-5521"}]})

    await asyncio.to_thread(damage)
    async with service("firestore", clock, tmp_path, project, retain_messages=1) as samvad:
        with caplog.at_level(logging.DEBUG):
            done = await samvad.sweeper.sweep()
        assert (done.seen, done.skipped, done.counts) == (12, 2, Counts(messages=30))
        assert {each.key.user_id for each in done.troubles} == set(bad)
        assert (samvad.sweeper.sweeps, samvad.sweeper.failures, samvad.sweeper.skipped) == (1, 0, 2)
        told = [each for each in caplog.records if "could not be swept" in each.message]
        assert {vars(each)["user"] for each in told} == {user_hash("default", user) for user in bad}
        for each in caplog.records:
            assert "user 03" not in repr(vars(each))
            assert "canary" not in repr(vars(each))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulator().host)
    monkeypatch.setenv("SAMVAD_RETAIN_MESSAGES", "1")
    command = ["retention", "sweep", "--json", "--trust-clock", "--store", f"firestore://{project}"]
    asked = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert asked.exit_code == 1, (asked.exception, asked.output)
    assert json.loads(asked.stdout)["usersSkipped"] == 2
    assert "user 'user 03' of tenant 'default' could not be swept" in asked.stderr


async def parked_service(folder: Path, clock: VirtualClock, **rules: Any) -> tuple[Samvad, FaultyStore]:
    """A service with a parked user, asha: `bad` of hers is refused by the store for ever."""
    memory = MemoryStore()
    await memory.open()
    inner = FaultyStore(memory)

    def refusal(commit: Any) -> TooLarge | None:
        said = [c for c in commit.changes if isinstance(c, MessagesAdded)]
        return TooLarge() if any(b'"bad"' in m.body for c in said for m in c.messages) else None

    inner.refuse = refusal
    store = journaled(inner, folder / "journal", clock=clock)
    samvad = Samvad(store, clock=clock, options=Options(listen=False, **rules))
    await samvad.open()
    for user in ("asha", "bala"):
        await samvad.append_many(user, [{"role": "user", "content": "x"}] * 4)
    await drained(samvad)
    await samvad.append_to_user_history("asha", "user", "bad")
    await samvad.append_to_user_history("asha", "user", "kept behind it")

    async def parked() -> bool:
        return store.is_parked(key("asha"))

    await wait_until_async(parked, "the lane is parked")
    return samvad, inner


async def test_who_is_parked_is_passed_over(tmp_path: Path) -> None:
    """Not one more operation waits for them afterwards; once that is decided, they are swept."""
    samvad, inner = await parked_service(tmp_path, VirtualClock(), retain_messages=2)
    waiting = store_of(samvad).flusher.entries_waiting
    for _ in range(3):
        done = await samvad.sweeper.sweep()
        assert done.troubles == [Trouble(key("asha"), "parked")]
    assert samvad.sweeper.swept == Counts(messages=2)
    assert store_of(samvad).flusher.entries_waiting == waiting
    inner.refuse = lambda commit: None
    assert store_of(samvad).flusher.retry_parked(key("asha"))
    await drained(samvad)
    done = await samvad.sweeper.sweep()
    assert (done.counts, done.skipped) == (Counts(messages=4), 0)
    assert await seqs(samvad, "asha") == [5, 6]
    await samvad.aclose()


async def test_what_is_parked_of_an_idle_user_is_not_dropped(tmp_path: Path) -> None:
    """It was acknowledged, and nobody has decided yet: neither the sweep nor an erasing under a condition drops it."""
    clock = VirtualClock()
    samvad, _ = await parked_service(tmp_path, clock, retain_idle_users="30d")
    clock.advance(40 * DAY_S)
    done = await samvad.sweeper.sweep(trust_clock=True)
    assert (done.troubles, done.counts.users) == ([Trouble(key("asha"), "parked")], 1)
    store: Any = samvad.store
    is_parked = store.is_parked
    store.is_parked = lambda user: False  # as if it was parked between the look and the write
    done = await samvad.sweeper.sweep(trust_clock=True)
    store.is_parked = is_parked
    assert (done.troubles, done.counts) == ([Trouble(key("asha"), "store_unavailable")], Counts())
    waiting = store_of(samvad).flusher.find(key("asha"))
    assert waiting is not None
    assert [type(each.commit.operation).__name__ for each in waiting.entries][:2] == ["AppendMessages"] * 2
    await samvad.aclose(drain_s=0.5)


async def test_pending_users_are_swept_with_what_is_pending(tmp_path: Path) -> None:
    """What the store has not got yet counts; what was acknowledged meanwhile stays."""
    clock = VirtualClock()
    async with service("journaled firestore", clock, tmp_path, retain_messages=3) as samvad:
        await samvad.append_many("asha", [{"role": "user", "content": "x"}] * 5)
        await drained(samvad)
        inner: Any = samvad.store.inner  # type: ignore[attr-defined]
        commit, go = inner.commit, asyncio.Event()

        async def held(wanted: Any) -> Any:
            await go.wait()
            return await commit(wanted)

        inner.commit = held
        await samvad.append_many("asha", [{"role": "user", "content": "y"}] * 4)
        sweep = asyncio.create_task(samvad.sweeper.sweep())

        async def is_asked() -> bool:
            lane = store_of(samvad).flusher.find(key("asha"))
            return lane is not None and len(lane.entries) == 2

        await wait_until_async(is_asked, "the trimming waits behind it")
        await samvad.append_to_user_history("asha", "user", "z")
        go.set()
        assert (await sweep).counts == Counts(messages=6)
        assert await seqs(samvad, "asha") == [7, 8, 9, 10]


async def test_the_store_goes_down_in_the_middle(tmp_path: Path) -> None:
    """The sweep ends and says so, nobody is passed over for it, and the next one goes on where it was."""
    clock = VirtualClock()
    async with FaultProxy("127.0.0.1", emulator().port) as proxy:
        store = make_store(
            clock=clock,
            emulator_host=proxy.address,
            call_timeout_s=3.0,
            attempt_timeout_s=1.0,
            attempts_max=2,
        )
        samvad = Samvad(
            journaled(store, tmp_path / "journal", clock=clock),
            clock=clock,
            options=Options(listen=False, retain_messages=1),
        )
        async with samvad:
            names = [f"user {n:02}" for n in range(20)]
            for user in names:
                await samvad.append_many(user, [{"role": "user", "content": "x"}] * 4)
            await drained(samvad)
            due = samvad.sweeper._looker.due

            async def looked(user: UserKey, *more: Any) -> Any:
                found = await due(user, *more)
                if user.user_id == "user 09":
                    proxy.fault = "refused"
                return found

            samvad.sweeper._looker.due = looked  # type: ignore[method-assign]
            with pytest.raises((Unavailable, CutShort)):
                await samvad.sweeper.sweep(due_s=DAY_S)
            samvad.sweeper._looker.due = due  # type: ignore[method-assign]
            assert (samvad.sweeper.failures, samvad.sweeper.skipped) == (1, 0)
            with pytest.raises((Unavailable, CutShort)):
                await samvad.sweeper.sweep(due_s=DAY_S)
            with pytest.raises((Unavailable, CutShort)):
                await samvad.sweeper.sweep(dry_run=True)
            proxy.fault = None

            async def is_back() -> bool:
                return not samvad.store.degraded  # type: ignore[attr-defined]

            await wait_until_async(is_back, "the store is back")
            await drained(samvad)
            done = await samvad.sweeper.sweep(due_s=DAY_S)
            assert (done.seen, done.skipped) == (12, 0)
            for user in names:
                assert await seqs(samvad, user) == [4]


async def test_one_user_after_the_other_that_cannot_be_reached_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that says it is up and answers nothing is not asked for a million users."""
    async with service("sqlite", VirtualClock(), tmp_path, retain_messages=1) as samvad:
        await asyncio.gather(*[samvad.append_to_user_history(f"u{n}", "user", "x") for n in range(150)])
        load, asked = samvad.store.load, []

        async def fails(user: UserKey, **more: Any) -> Any:
            asked.append(user)
            if user.user_id == "u77":
                return await load(user, **more)
            raise StoreUnavailable

        monkeypatch.setattr(samvad.store, "load", fails)
        with pytest.raises(StoreUnavailable):
            await samvad.sweeper.sweep()
        assert 100 <= len(asked) < 120
        assert samvad.sweeper.failures == 1


async def test_erased_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While their pages are looked at, and between two steps: nothing of the new life goes, nothing old stays."""
    monkeypatch.setattr("samvad.retention.sweeper.MESSAGES_PER_STEP", 50)
    clock = VirtualClock()
    async with service("sqlite", clock, tmp_path, retain_message_age="30d") as samvad:
        for _ in range(3):
            await samvad.append_many("asha", [{"role": "user", "content": "old"}] * 100)
        clock.advance(31 * DAY_S)
        go_on, left = samvad.sweeper._go_on, 0

        async def erases(sweep: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                await samvad.clear_user_data("asha")
                await samvad.append_many("asha", [{"role": "user", "content": "new"}] * 5)
            await go_on(sweep)

        monkeypatch.setattr(samvad.sweeper, "_go_on", erases)
        for moment in (2, 3, 4):  # two pages of the look, a step
            left = moment
            await samvad.sweeper.sweep(trust_clock=True)
            assert await seqs(samvad, "asha") == [1, 2, 3, 4, 5]
            await samvad.clear_user_data("asha")
            clock.set_wall_ms(clock.now_ms() - 31 * round(DAY_S * 1000))
            for _ in range(3):
                await samvad.append_many("asha", [{"role": "user", "content": "old"}] * 100)
            clock.set_wall_ms(clock.now_ms() + 31 * round(DAY_S * 1000))


async def test_documents_that_cannot_be_erased_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds something in memory of an idle user is told all the same; the next sweep finds the documents."""
    clock = VirtualClock()
    async with service("sqlite", clock, tmp_path, retain_idle_users="30d") as samvad:
        await samvad.append_to_user_history("asha", "user", "x")
        await samvad.knowledge.add_text("Notes", "about loans", user_id="asha")
        clock.advance(31 * DAY_S)
        told: list[UserKey] = []
        samvad.core.on_erased.append(told.append)

        async def fails(user: UserKey, before_ms: int) -> int:
            raise OSError("the disk")

        with monkeypatch.context() as patch:
            patch.setattr(samvad.sweeper._documents, "erase_older", fails)
            done = await samvad.sweeper.sweep(trust_clock=True)
        assert told == [key("asha")]
        assert (done.counts.users, done.skipped) == (1, 2)  # and as an owner of documents once more
        assert (await samvad.sweeper.sweep(trust_clock=True)).counts == Counts(documents=1)


async def test_a_time_that_nobody_noted_is_not_old(tmp_path: Path) -> None:
    """A state of the older layout without a time, a session whose time is gone: they stay."""
    clock, project = VirtualClock(), emulator().new_project()
    async with service("firestore", clock, tmp_path, project) as samvad:
        await samvad.save_session("s", "asha")

    def change() -> None:
        with google_client(project) as client:
            client.document("user_states/bala").set({"language": "hi"})
            client.document("sessions/s").update({"activeMs": 0})

    await asyncio.to_thread(change)
    rules = {"retain_idle_users": "30d", "retain_sessions": "30d"}
    async with service("firestore", clock, tmp_path, project, **rules) as samvad:
        done = await samvad.sweeper.sweep()
        assert (done.seen, done.counts) == (2, Counts())
        state = await samvad.get_user_state("bala")
        assert state is not None
        assert state.state["language"] == "hi"
        assert [s.id for s in await engine_of(samvad.store).sessions(key("asha"), open_after_ms=None)] == [
            "s"
        ]
