"""Power loss under the whole library on SQLite: nothing acknowledged is lost, nothing comes twice or back.

A workload runs over a recording disk and notes the moment of each acknowledgement. Then the power goes, at
acknowledgements and anywhere between two operations of the disk, and each disk that could be found is opened and
compared with what had been acknowledged by then.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import apsw
import pytest

from samvad.errors import Unavailable
from samvad.records import UserKey
from samvad.runtime import Options, Samvad
from samvad.stores import sqlite_reads as reads
from samvad.stores.sqlite import SQLiteStore
from samvad.testing.disk import RecordingDisk
from samvad.testing.powerloss import DiskState, power_losses, scratch_directory
from tests.support import SOAK

pytestmark = pytest.mark.anyio

SEED = 20_240_601
USERS = 10
ERASED_USERS = 3
ROUNDS = 24
WAL_PAGES_MAX = 60
RECENT_BYTES_MAX = 3_000  # so that what was said is gathered often, and some of it is not
LIBRARY_EVERY = 100


@dataclass(slots=True)
class Said:
    """One message: when it was acknowledged (moment and seq), and between which erasures of its user."""

    body: str
    epoch_min: int
    moment: int | None = None
    seq: int | None = None
    epoch_max: int | None = None


@dataclass(slots=True)
class Step:
    """One step of something only one task writes: the value from then on, and when it was acknowledged."""

    value: object
    moment: int | None = None


@dataclass(slots=True)
class Witness:
    """What one user's devices know: every message sent, the states and sessions in their order, the erasures."""

    said: dict[str, Said] = field(default_factory=dict)
    states: list[Step] = field(default_factory=lambda: [Step(None, 0)])
    sessions: dict[str, list[Step]] = field(default_factory=dict)
    erasures_begun: int = 0
    erased_at: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Recording:
    """A finished workload."""

    disk: RecordingDisk
    witnesses: dict[str, Witness]

    def acknowledgements(self) -> list[int]:
        """Every moment at which something was acknowledged."""
        return sorted(
            {
                said.moment
                for w in self.witnesses.values()
                for said in w.said.values()
                if said.moment is not None
            }
            | {step.moment for w in self.witnesses.values() for step in w.states if step.moment is not None}
        )


class Devices:
    """All devices of one user, each a task that waits for its answer before it goes on.

    A refusal (Unavailable) is repeated with the same message id, after telling the disk to heal.
    """

    def __init__(
        self, samvad: Samvad, disk: RecordingDisk, at_once: anyio.CapacityLimiter, user_id: str, seed: int
    ) -> None:
        self.samvad = samvad
        self.disk = disk
        self.at_once = at_once
        self.user_id = user_id
        self.rng = random.Random(f"{seed}/{user_id}")
        self.witness = Witness()
        self.refusals = 0

    async def until_acknowledged(self, call: Callable[[], Awaitable[object]]) -> object:
        """Repeat a call that was refused; anything but Unavailable is a failure of the test.

        How many devices may write at once changes all the time, so that groups come in all sizes.
        """
        self.at_once.total_tokens = self.rng.choice((1, 1, 1, 2, 3, 8))
        while True:
            try:
                async with self.at_once:
                    return await call()
            except Unavailable:
                self.refusals += 1
                self.disk.heal()
                await anyio.lowlevel.checkpoint()

    async def talk(self, device: int) -> None:
        """Append one or several messages at a time."""
        for turn in range(ROUNDS):
            batch = []
            for part in range(self.rng.choice((1, 1, 2, 5))):
                text = f"{self.user_id}/{device}/{turn}/{part} " + "नमस्ते " * self.rng.choice((0, 1, 4, 4, 40))
                batch.append({"id": f"m-{device}-{turn}-{part}", "role": "user", "content": text})
            epoch_min = len(self.witness.erased_at)
            for message in batch:
                self.witness.said[message["id"]] = Said(message["content"], epoch_min)
            answer = await self.until_acknowledged(lambda: self.samvad.append_many(self.user_id, batch))  # noqa: B023
            moment = self.disk.moment
            assert isinstance(answer, list)
            for appended in answer:
                said = self.witness.said[appended.message_id]
                said.moment, said.seq = moment, appended.seq
                said.epoch_max = self.witness.erasures_begun

    async def keep_state(self, erase: bool) -> None:
        """Save the state again and again; half-way, perhaps erase the user."""
        for n in range(ROUNDS):
            step = Step(n)
            self.witness.states.append(step)
            await self.until_acknowledged(
                lambda: self.samvad.save_user_state(self.user_id, {"n": n, "filler": "x" * (n * 97 % 900)})  # noqa: B023
            )
            step.moment = self.disk.moment
            if erase and n == ROUNDS // 2:
                step = Step(None)
                self.witness.states.append(step)
                self.witness.erasures_begun += 1
                await self.until_acknowledged(lambda: self.samvad.clear_user_data(self.user_id))
                step.moment = self.disk.moment
                self.witness.erased_at.append(step.moment)

    async def come_and_go(self) -> None:
        """Open and end sessions, each under an id of its own."""
        for n in range(ROUNDS // 2):
            session_id = f"{self.user_id}-session-{n}"
            steps = self.witness.sessions[session_id] = [Step(None, 0)]
            steps.append(Step("open"))
            await self.until_acknowledged(lambda: self.samvad.save_session(session_id, self.user_id, n=n))  # noqa: B023
            steps[-1].moment = self.disk.moment
            steps.append(Step("ended"))
            await self.until_acknowledged(lambda: self.samvad.end_session(session_id))  # noqa: B023
            steps[-1].moment = self.disk.moment


async def record(
    path: Path,
    *,
    seed: int = SEED,
    synchronous: str = "FULL",
    options: Options | None = None,
    faults: bool = False,
) -> Recording:
    """Run the workload over a new recording disk, close the library, and hand over what is known."""
    disk = RecordingDisk(really_sync=False)
    # Slow enough that an answer given before its sync is noted at a moment that does not have the sync yet.
    disk.sync_delay_s = 0.0005
    store = SQLiteStore(
        path,
        vfs=disk.name,
        wal_pages_max=WAL_PAGES_MAX,
        recent_bytes_max=RECENT_BYTES_MAX,
        synchronous=synchronous,
    )
    async with Samvad(store, options=options) as samvad:
        at_once = anyio.CapacityLimiter(1)
        everyone = [Devices(samvad, disk, at_once, f"user-{n}", seed) for n in range(USERS)]
        async with anyio.create_task_group() as tasks:
            for n, devices in enumerate(everyone):
                erased = n < ERASED_USERS
                tasks.start_soon(devices.talk, 1)
                tasks.start_soon(devices.talk, 2)
                tasks.start_soon(devices.keep_state, erased)
                if not erased:
                    tasks.start_soon(devices.come_and_go)
            if faults:
                tasks.start_soon(strike, disk, seed)
    if faults:
        assert sum(devices.refusals for devices in everyone) > 10
    return Recording(disk, {devices.user_id: devices.witness for devices in everyone})


async def strike(disk: RecordingDisk, seed: int) -> None:
    """Twenty faults, one whenever the disk has gone on a little after the last was healed."""
    rng = random.Random(seed)
    for _ in range(20):
        target = disk.moment + rng.randrange(10, 30)
        while disk.moment < target:
            await anyio.lowlevel.checkpoint()
        if rng.random() < 0.5:
            disk.fail("sync", files=("wal",), after=rng.randrange(2))
        else:
            error = rng.choice((apsw.FullError, apsw.IOError))
            disk.fail("write", error, files=("wal",), after=rng.randrange(6), partial=rng.random() < 0.5)


def complaints(state: DiskState, path: Path, witnesses: dict[str, Witness]) -> Iterator[str]:
    """Everything that is wrong with one disk."""
    connection = apsw.Connection(str(path))
    try:
        verdict = connection.execute("PRAGMA integrity_check").get
        if verdict != "ok":
            yield f"integrity_check: {verdict}"
            return
        there = bool(connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'users'").get)
        for user_id, witness in witnesses.items():
            key = UserKey("default", user_id)
            if there:
                yield from wrong_with_user(connection, key, witness, state.moment)
            elif any(
                said.moment is not None and said.moment <= state.moment for said in witness.said.values()
            ):
                yield "no tables, but messages were acknowledged"
    except apsw.Error as error:
        yield f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def wrong_with_user(
    connection: apsw.Connection, key: UserKey, witness: Witness, moment: int
) -> Iterator[str]:
    """What is wrong with one user on one disk."""
    head = reads.load(connection, key, 1, 0, 100)
    messages, more = reads.page(connection, key, 0, None, 10_000, 1 << 30)
    epoch, seq_by_id = head.version.epoch, {message.id: message.seq for message in messages}
    if more or len(seq_by_id) != len(messages):
        yield f"{key.user_id}: a message is there twice"
    if [message.seq for message in messages] != list(range(1, head.seq + 1)):
        yield f"{key.user_id}: seq has a gap"
    if not sum(at <= moment for at in witness.erased_at) <= epoch <= witness.erasures_begun:
        yield f"{key.user_id}: epoch {epoch} is wrong"
    for message in messages:
        known = witness.said.get(message.id)
        if known is None or content_of(message.body) != known.body:
            yield f"{key.user_id}: {message.id} was never said like this"
    for message_id, said in witness.said.items():
        found = seq_by_id.get(message_id)
        if said.epoch_max is not None and epoch > said.epoch_max and found is not None:
            yield f"{key.user_id}: {message_id} is back from before the erasing"
        if said.moment is None or said.moment > moment:
            continue
        if epoch == said.epoch_min == said.epoch_max and found is None:
            yield f"{key.user_id}: {message_id} was acknowledged and is lost"
        if found is not None and found != said.seq:
            yield f"{key.user_id}: {message_id} was told seq {said.seq} and has {found}"
    value = None if head.state is None else json.loads(head.state.body)["n"]
    if value not in at_least(witness.states, moment):
        yield f"{key.user_id}: the state is older than acknowledged"
    sessions = {session.id: session for session in reads.sessions(connection, key, None)}
    for session_id, steps in witness.sessions.items():
        stored = sessions.get(session_id)
        now = None if stored is None else "open" if stored.ended_ms is None else "ended"
        if now not in at_least(steps, moment):
            yield f"{session_id} is {now}, older than acknowledged"


@functools.lru_cache(maxsize=50_000)
def content_of(body: bytes) -> str:
    """The content of a stored message; the same bodies come back on every disk."""
    return str(json.loads(body)["content"])


def at_least(steps: list[Step], moment: int) -> list[object]:
    """The last value acknowledged by this moment, and those after it (one task makes them all, in order)."""
    values: list[object] = []
    for step in reversed(steps):
        values.append(step.value)
        if step.moment is not None and step.moment <= moment:
            break
    return values


async def goes_on(path: Path, witnesses: dict[str, Witness]) -> Iterator[str]:
    """The library itself opens the disk, reads the same, and appends the next message."""
    wrong = []
    async with Samvad(SQLiteStore(path)) as samvad:
        for user_id in witnesses:
            before = await samvad.get_user_profile(user_id)
            appended = await samvad.append_to_user_history(user_id, "user", "after the power came back")
            if appended.seq != before.position.seq + 1:
                wrong.append(f"{user_id}: goes on with seq {appended.seq} after {before.position.seq}")
    return iter(wrong)


async def losses(recording: Recording, states: int, *, seed: int = SEED) -> list[str]:
    """What is wrong, over so many disks: one at each acknowledgement, the others anywhere in the log."""
    rng = random.Random(seed)
    end = recording.disk.moment
    moments = recording.acknowledgements()[:states]
    moments += [rng.randint(0, end) for _ in range(states - len(moments))]
    wrong = []
    with scratch_directory() as directory:
        for number, state in enumerate(power_losses(recording.disk.log, moments, seed=seed)):
            path = state.write_to(directory) / "talk.db"
            found = [*complaints(state, path, recording.witnesses)]
            if number % LIBRARY_EVERY == 0 and not found:
                found += await goes_on(path, recording.witnesses)
            wrong += [f"seed {seed}, state {number}, moment {state.moment}: {line}" for line in found]
    return wrong


async def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """5,000 disks after power loss: every acknowledged message once, gapless; nothing erased is back."""
    recording = await record(tmp_path / "talk.db")
    assert len(recording.acknowledgements()) > 150
    assert await losses(recording, 5_000) == []


async def test_faults_and_then_power_loss(tmp_path: Path) -> None:
    """Full disk, I/O errors and failed fsyncs on the way: refused writes may be there, acknowledged ones are."""
    recording = await record(tmp_path / "talk.db", faults=True)
    assert await losses(recording, 1_000) == []


@pytest.mark.parametrize(
    ("synchronous", "options"), [("NORMAL", Options()), ("FULL", Options(durability="memory"))]
)
async def test_a_store_that_answers_too_early_is_caught(
    tmp_path: Path, synchronous: str, options: Options
) -> None:
    """Without the fsync of each commit, or without waiting for it, the same check finds losses."""
    recording = await record(tmp_path / "talk.db", synchronous=synchronous, options=options)
    wrong = await losses(recording, 200)
    assert any("acknowledged and is lost" in line for line in wrong)


@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="SAMVAD_SOAK=1 asks for it")
@pytest.mark.parametrize("seed", range(10))
async def test_soak(tmp_path: Path, seed: int) -> None:
    """50,000 disks in all, half of the workloads with faults."""
    recording = await record(tmp_path / "talk.db", seed=seed, faults=seed % 2 == 1)
    assert await losses(recording, 5_000, seed=seed) == []
