"""Replicas over one database: one sweeps at a time, another goes on where it was cut off, and no clock decides that."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry
from typer.testing import CliRunner

from samvad.cli import app
from samvad.http.retention_metrics import retention_families
from samvad.retention.lease import LEASE_S, NAME, RENEW_S, CutShort, SweepLease, SweptElsewhere
from samvad.retention.looking import Counts, engine_of
from samvad.runtime import Samvad, open_samvad
from samvad.testing.clock import START_MS, VirtualClock
from tests.firestore.raw import everything
from tests.firestore.support import emulator, open_store
from tests.retention.support import DAY_S, leased, seqs, service
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio
USERS = 20


@asynccontextmanager
async def replicas(
    many: int, folder: Path, clocks: list[VirtualClock], **rules: Any
) -> AsyncIterator[list[Samvad]]:
    """Services over one database with `USERS` users of 4 messages, of which one is to stay."""
    project, written = emulator().new_project(), {}
    async with AsyncExitStack() as stack:
        found = []
        for n in range(many):
            rules = {"retain_messages": 1} | rules
            samvad = service("firestore", clocks[n % len(clocks)], folder / str(n), project, **rules)
            found.append(await stack.enter_async_context(samvad))
            leased(samvad, written)
        for n in range(USERS):
            await found[0].append_many(f"user {n:02}", [{"role": "user", "content": "x"}] * 4)
        yield found


def stopping(samvad: Samvad, after: int, then: Any) -> None:
    """Have a service await `then` once, when it has passed so many users."""
    sweeper: Any = samvad.sweeper
    go_on = sweeper._go_on

    async def stops(sweep: Any) -> None:
        if sweep.passed >= after and sweeper._go_on is stops:
            sweeper._go_on = go_on
            await then()
        await go_on(sweep)

    sweeper._go_on = stops


async def reads_of(samvad: Samvad, work: Any) -> int:
    """How many documents are read for something."""
    before: int = engine_of(samvad.store).operations.reads
    await work
    return int(engine_of(samvad.store).operations.reads - before)


async def refused(samvad: Samvad, **more: Any) -> SweptElsewhere:
    """The error of a sweep that another's stands against."""
    with pytest.raises(SweptElsewhere) as error:
        await samvad.sweeper.sweep(**more)
    return error.value


async def test_one_sweeps_at_a_time_and_the_others_pay_one_read(tmp_path: Path) -> None:
    """While it lasts, and until the next is due; a dry run looks all the same."""
    clock = VirtualClock()
    async with replicas(3, tmp_path, [clock]) as (one, two, three):

        async def meanwhile() -> None:
            assert await reads_of(two, refused(two, due_s=DAY_S)) == 1
            error = await refused(three)
            assert one.sweeper.lease.holder in error.message
            assert (error.wait_s <= LEASE_S, error.done) == (True, False)
            dry = await two.sweeper.sweep(dry_run=True)
            assert (dry.seen, dry.counts) == (USERS, Counts(messages=(USERS - 8) * 3))
            assert one.sweeper.sweeping and not two.sweeper.sweeping

        stopping(one, 8, meanwhile)
        assert (await one.sweeper.sweep()).counts == Counts(messages=USERS * 3)
        assert not one.sweeper.sweeping
        clock.advance(DAY_S / 2)
        error = await refused(two, due_s=DAY_S)
        assert error.done
        assert DAY_S / 2 - 60 <= error.wait_s <= DAY_S / 2
        assert two.sweeper.last_ms == one.sweeper.last_ms == START_MS
        assert two.sweeper.failures == three.sweeper.failures == 0
        assert (await three.sweeper.sweep()).seen == USERS  # by hand: whenever somebody wants it
        clock.advance(DAY_S)
        assert (await two.sweeper.sweep(due_s=DAY_S)).seen == USERS


async def test_of_three_who_begin_together_one_sweeps(tmp_path: Path) -> None:
    """The two others are refused, whoever is first."""
    async with replicas(3, tmp_path, [VirtualClock()]) as found:
        ended = await asyncio.gather(
            *[each.sweeper.sweep(due_s=DAY_S) for each in found], return_exceptions=True
        )
        assert sorted(type(each).__name__ for each in ended) == ["Sweep", "SweptElsewhere", "SweptElsewhere"]


async def test_who_dies_is_followed_where_it_was(tmp_path: Path) -> None:
    """Not before the lease has run out, and without looking again at those whom the dead one had passed."""
    clock = VirtualClock()
    async with replicas(2, tmp_path, [clock]) as (one, two):

        async def hangs() -> None:
            clock.advance(RENEW_S)
            await one.sweeper.lease.renew(8)
            arrived.set()
            await asyncio.Event().wait()

        arrived = asyncio.Event()
        stopping(one, 8, hangs)
        sweep = asyncio.create_task(one.sweeper.sweep(due_s=DAY_S))
        with anyio.fail_after(30):
            await arrived.wait()
        one.sweeper.lease._holding = None  # as if it was killed: nothing is written any more
        sweep.cancel()
        clock.advance(LEASE_S - 10)
        await refused(two, due_s=DAY_S)
        clock.advance(10)
        done = await two.sweeper.sweep(due_s=DAY_S)
        assert (done.seen, done.counts) == (USERS - 8, Counts(messages=(USERS - 8) * 3))
        assert two.sweeper.lease.taken_over == 1
        assert await seqs(two, "user 00") == await seqs(two, "user 19") == [4]


async def test_who_hangs_finds_that_it_was_followed(tmp_path: Path) -> None:
    """It ends without harm: what it still did was due, and the other's sweep goes on undisturbed."""
    clock = VirtualClock()
    async with replicas(2, tmp_path, [clock]) as (one, two):
        held, other = asyncio.Event(), []

        async def hangs() -> None:
            clock.advance(LEASE_S)

            async def back() -> None:
                held.set()
                await wait_until_async(sweep_ended, "the first one has found out")

            stopping(two, 16, back)
            other.append(asyncio.create_task(two.sweeper.sweep()))
            await held.wait()

        async def sweep_ended() -> bool:
            return first.done()

        stopping(one, 8, hangs)
        first = asyncio.create_task(one.sweeper.sweep())
        with pytest.raises(CutShort, match="took this sweep over"):
            await first
        assert one.sweeper.failures == 1
        assert (await other[0]).seen == USERS
        assert json.loads((await two.sweeper.lease._notes.get(NAME)).body)["state"] == "done"


@pytest.mark.parametrize("wrong_s", [-3 * DAY_S, -400.0, 400.0, 6 * DAY_S])
async def test_wrong_clocks_take_no_lease_away(tmp_path: Path, wrong_s: float) -> None:
    """How old the note is says Firestore: a replica whose clock is wrong neither takes over nor waits for ever."""
    right, wrong = VirtualClock(), VirtualClock(START_MS + round(wrong_s * 1000))
    async with replicas(2, tmp_path, [right, wrong]) as (one, two):
        for each in (one, two):  # both clocks stand still: what grows is the real age
            each.sweeper.lease = SweepLease(engine_of(each.store).notes, each.core.clock)

        async def meanwhile() -> None:
            await refused(two, trust_clock=True)

        stopping(one, 8, meanwhile)
        await one.sweeper.sweep(trust_clock=True)
        assert (await refused(two, trust_clock=True, due_s=60.0)).done
        assert (await two.sweeper.sweep(trust_clock=True)).seen == USERS
        await refused(one, trust_clock=True, due_s=60.0)


async def test_a_sweep_that_is_cut_short_is_gone_on_with(tmp_path: Path) -> None:
    """At once, by whoever comes; those who were erased are not counted twice; by hand everyone is looked at."""
    clock = VirtualClock()
    async with replicas(2, tmp_path, [clock], retain_idle_users="30d") as (one, two):
        clock.advance(31 * DAY_S)
        for n in (9, 10, 11, 12, 13, 14, 15, 16, 17, 18):
            await two.append_to_user_history(f"user {n:02}", "user", "back")

        async def fails() -> None:
            raise CutShort("The store is down.")

        stopping(one, 4, fails)  # nine idle users have gone, and seven others were looked at
        with pytest.raises(CutShort):
            await one.sweeper.sweep(due_s=DAY_S)
        assert one.sweeper.swept.users == 9
        assert (await two.sweeper.sweep(due_s=DAY_S)).seen == USERS - 16
        assert list(await two.list_users()) == [f"user {n:02}" for n in range(9, 19)]
        assert one.sweeper.swept.users + two.sweeper.swept.users == 10
        stopping(one, 8, fails)
        with pytest.raises(CutShort):
            await one.sweeper.sweep()
        assert (await two.sweeper.sweep()).seen == 10


async def test_a_server_that_stops_lets_go(tmp_path: Path) -> None:
    """Its sweep is cancelled, and another may begin at once."""
    clock = VirtualClock()
    async with replicas(2, tmp_path, [clock]) as (one, two):
        arrived = asyncio.Event()

        async def waits() -> None:
            arrived.set()
            await asyncio.Event().wait()

        stopping(one, 8, waits)
        sweep = asyncio.create_task(one.sweeper.sweep())
        await arrived.wait()
        sweep.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sweep
        assert (await two.sweeper.sweep(due_s=DAY_S)).seen == USERS - 8
        assert two.sweeper.lease.taken_over == 0


async def test_servers_sweep_once_a_day_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three on one clock, for some days: each day one sweep, of whichever, and a read now and then of the others."""
    clock = VirtualClock()
    days = 5
    wake: dict[int, tuple[float, asyncio.Event]] = {}
    async with replicas(3, tmp_path, [clock]) as found:

        def sleeper(n: int) -> Any:
            async def sleep(seconds: float) -> None:
                if seconds < 40:
                    return  # a rest
                event = asyncio.Event()
                wake[n] = (clock.monotonic_s() + seconds, event)
                await event.wait()

            return sleep

        tasks = []
        for n, each in enumerate(found):
            assert each._sweeping is not None
            each._sweeping.cancel()
            monkeypatch.setattr(each.sweeper, "_sleep", sleeper(n))
            tasks.append(asyncio.create_task(each.sweeper.run()))

        async def all_asleep() -> bool:
            return len(wake) == len(found)

        before = [engine_of(each.store).operations.reads for each in found]
        while clock.monotonic_s() < days * DAY_S:
            await wait_until_async(all_asleep, "all of them sleep")
            n = min(wake, key=lambda each: wake[each][0])
            at_s, event = wake.pop(n)
            clock.advance(max(0.0, at_s - clock.monotonic_s()))
            event.set()
        await wait_until_async(all_asleep, "all of them sleep")
        for task in tasks:
            task.cancel()
        sweeps = sum(each.sweeper.sweeps for each in found)
        assert days <= sweeps <= days + 1
        assert sum(each.sweeper.failures for each in found) == 0
        swept_reads = USERS * 4 * sweeps
        reads = sum(engine_of(each.store).operations.reads for each in found) - sum(before)
        assert reads <= swept_reads + USERS * sweeps * 3 + 3 * days * 6


async def test_no_id_stands_in_the_note(tmp_path: Path) -> None:
    """Whoever is erased must not be named there."""
    project = emulator().new_project()
    async with service("firestore", VirtualClock(), tmp_path, project, retain_messages=1) as samvad:
        await samvad.append_many("asha-7319", [{"role": "user", "content": "x"}] * 4)
        await samvad.sweeper.sweep()
    (note,) = (
        fields
        for path, fields in (await asyncio.to_thread(everything, project)).items()
        if path.startswith("upkeep/")
    )
    assert set(note) == {"body"}
    assert "asha" not in str(note)
    assert set(json.loads(note["body"])) == {"holder", "state", "beganMs", "passed", "turn"}


async def test_notes_are_swapped_by_one_alone() -> None:
    """Of many who write at once one does; what is not there, or is there already, is seen; garbage is no lease."""
    store = await open_store()
    notes = store.notes
    assert await notes.get("n") is None
    first = await asyncio.gather(*[notes.swap("n", None, b"%d" % n) for n in range(8)])
    won = [note for note in first if note is not None]
    assert len(won) == 1
    there = await notes.get("n")
    assert (there.body, there.token) == (won[0].body, won[0].token)
    second = await asyncio.gather(*[notes.swap("n", there, b"again %d" % n) for n in range(8)])
    assert sum(note is not None for note in second) == 1
    assert await notes.swap("n", there, b"late") is None

    async def has_aged() -> bool:
        return (await notes.get("n")).age_ms >= 20

    await wait_until_async(has_aged, "it grows old by itself")
    await notes.swap(NAME, None, b"garbage")
    lease = SweepLease(notes, VirtualClock())
    assert await lease.look() is None
    assert await lease.take(START_MS, DAY_S) == 0
    await store.close()


async def test_metrics_tell_who_sweeps(tmp_path: Path) -> None:
    """`samvad_retention_sweeping` is 1 at the one that does."""

    def metrics(samvad: Samvad) -> str:
        registry = CollectorRegistry()

        class Families:
            def collect(self) -> Any:
                return retention_families(samvad.sweeper)

        registry.register(Families())  # type: ignore[arg-type]
        return generate_latest(registry).decode()

    async with replicas(2, tmp_path, [VirtualClock()]) as (one, two):

        async def meanwhile() -> None:
            assert "samvad_retention_sweeping 1.0" in metrics(one)
            assert "samvad_retention_sweeping 0.0" in metrics(two)

        stopping(one, 8, meanwhile)
        await one.sweeper.sweep()
        assert "samvad_retention_sweeping 0.0" in metrics(one)
        assert "samvad_retention_taken_over_total 0.0" in metrics(two)


def test_the_command_tells_who_sweeps_and_does_not_sweep_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is killed in the middle is named; another is refused until then, and `status` says what it knows."""
    url = f"firestore://{emulator().new_project()}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulator().host)
    monkeypatch.setenv("SAMVAD_RETAIN_MESSAGES", "1")
    monkeypatch.setenv("SAMVAD_STORE", url)

    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["retention", *arguments])
        return done.exit_code, done.output

    with open_samvad(url) as samvad:
        for n in range(60):
            samvad.append_many(f"user {n}", [{"role": "user", "content": "x"}] * 3)
    assert call("status") == (0, "nobody has swept yet\n")
    command = [sys.executable, "-m", "samvad", "retention", "sweep"]

    async def killed_in_the_middle() -> None:
        store = await open_store(url.removeprefix("firestore://"))
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        while await store.notes.get(NAME) is None:
            assert process.returncode is None
        process.kill()
        await process.wait()
        await store.close()

    asyncio.run(killed_in_the_middle())
    code, told = call("status", "--json")
    status = json.loads(told)
    assert (code, status["shared"], status["state"]) == (0, True, "sweeping")
    done = CliRunner().invoke(app, ["retention", "sweep"])
    assert isinstance(done.exception, SweptElsewhere)
    assert status["holder"] in done.exception.message

    async def runs_out() -> None:
        store = await open_store(url.removeprefix("firestore://"))
        note = await store.notes.get(NAME)
        body = json.loads(note.body) | {"state": "cut short"}
        assert await store.notes.swap(NAME, note, json.dumps(body).encode())
        await store.close()

    asyncio.run(runs_out())
    assert call("sweep")[0] == 0
    assert "done, began 20" in call("status")[1]
    monkeypatch.setenv("SAMVAD_STORE", f"sqlite:///{tmp_path}/a.db")
    with open_samvad(f"sqlite:///{tmp_path}/a.db"):
        pass
    assert "one process has this store" in call("status")[1]
