"""The rig itself: it loses what SQLite did not sync, never what it did, and its faults begin and end."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from samvad.testing.disk import (
    Created,
    Existing,
    Operation,
    RecordingDisk,
    Synced,
    SyncFailed,
    Truncated,
    Written,
)
from samvad.testing.powerloss import DiskState, PowerLoss, power_losses, scratch_directory

SEED = 20_240_601
COMMITS = 150


@pytest.fixture
def disk() -> Iterator[RecordingDisk]:
    """A disk whose syncs cost nothing: only the log matters here."""
    disk = RecordingDisk(really_sync=False)
    yield disk
    disk.heal()


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where states are written."""
    with scratch_directory() as directory:
        yield directory


def connect(
    path: Path, vfs: str | None = None, *, synchronous: str = "FULL", wal_pages: int = 8
) -> apsw.Connection:
    """A connection in WAL mode that checkpoints every `wal_pages` pages."""
    connection = apsw.Connection(str(path), vfs=vfs)
    connection.set_busy_timeout(5_000)  # a reader that is just opening may hold a lock for a moment
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {wal_pages}")
    connection.execute("CREATE TABLE IF NOT EXISTS words (n INTEGER PRIMARY KEY, body BLOB NOT NULL)")
    return connection


def say(connection: apsw.Connection, n: int, size_bytes: int = 1_500) -> None:
    """Commit word `n`."""
    connection.execute("INSERT INTO words VALUES (?, ?)", (n, bytes([n % 251]) * size_bytes))


def words(path: Path) -> tuple[set[int], str]:
    """What is found in a database file, and what SQLite says of its integrity; nothing where there is none."""
    connection = apsw.Connection(str(path))
    try:
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'words'").get:
            return set(), "ok"
        found: set[int] = set()
        for n, body in connection.execute("SELECT n, body FROM words"):
            if body is None or body != bytes([n % 251]) * len(body):
                return set(), "corrupt"
            found.add(n)
        return found, str(connection.execute("PRAGMA integrity_check").get)
    except apsw.CorruptError:
        return set(), "corrupt"
    finally:
        connection.close()


def workload(disk: RecordingDisk, path: Path, synchronous: str) -> list[int]:
    """Commit `COMMITS` words; returns the moment each was acknowledged."""
    connect(path).close()
    connection = connect(path, disk.name, synchronous=synchronous, wal_pages=40)
    acknowledged_at: list[int] = []
    for n in range(COMMITS):
        say(connection, n)
        acknowledged_at.append(disk.moment)
    connection.close()
    return acknowledged_at


def workload_with_a_reader(disk: RecordingDisk, path: Path) -> list[int]:
    """The same from an empty directory with FULL, small checkpoints and a reader in another thread."""
    connection = connect(path, disk.name)
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        reader = apsw.Connection(str(path), vfs=disk.name, flags=apsw.SQLITE_OPEN_READONLY)
        reader.set_busy_timeout(5_000)
        try:
            last = 0
            while not stop.is_set():
                count = int(str(reader.execute("SELECT count(*) FROM words").get))
                assert count >= last
                last = count
        except BaseException as error:
            failures.append(error)
        finally:
            reader.close()

    thread = threading.Thread(target=read)
    thread.start()
    acknowledged_at: list[int] = []
    try:
        for n in range(COMMITS):
            say(connection, n)
            acknowledged_at.append(disk.moment)
    finally:
        stop.set()
        thread.join()
    assert not failures
    connection.close()
    return acknowledged_at


def moments_of(acknowledged_at: list[int], end: int, count: int) -> list[int]:
    """Half the moments right at an acknowledgement, half anywhere in the log."""
    rng = random.Random(SEED)
    return [rng.choice(acknowledged_at) if i % 2 else rng.randint(0, end) for i in range(count)]


def losses(
    disk: RecordingDisk, acknowledged_at: list[int], directory: Path, count: int
) -> tuple[int, list[str], list[DiskState]]:
    """How many states lack an acknowledged word, the verdicts other than ok, the states without files."""
    lost, damaged, states = 0, [], []
    for state in power_losses(disk.log, moments_of(acknowledged_at, disk.moment, count), seed=SEED):
        found, verdict = words(state.write_to(directory) / "talk.db")
        expected = {n for n, moment in enumerate(acknowledged_at) if moment <= state.moment}
        lost += not expected <= found
        if verdict != "ok":
            damaged.append(verdict)
        states.append(DiskState(state.moment, {}, state.in_doubt, state.dropped, state.torn))
    return lost, damaged, states


def test_full_loses_nothing(disk: RecordingDisk, tmp_path: Path, scratch: Path) -> None:
    """With synchronous=FULL every acknowledged commit is in every possible disk, and none is damaged."""
    acknowledged_at = workload_with_a_reader(disk, tmp_path / "talk.db")
    lost, damaged, states = losses(disk, acknowledged_at, scratch, 600)
    assert (lost, damaged) == (0, [])
    assert sum(state.in_doubt > 0 for state in states) > 100
    assert sum(state.torn > 0 for state in states) > 20
    assert sum(state.dropped > 0 for state in states) > 100


def test_normal_is_caught_losing_commits(disk: RecordingDisk, tmp_path: Path, scratch: Path) -> None:
    """With synchronous=NORMAL acknowledged commits are lost, though no database is damaged."""
    acknowledged_at = workload(disk, tmp_path / "talk.db", "NORMAL")
    lost, damaged, _ = losses(disk, acknowledged_at, scratch, 300)
    assert lost > 150
    assert damaged == []


def test_off_is_caught_damaging_databases(disk: RecordingDisk, tmp_path: Path, scratch: Path) -> None:
    """With synchronous=OFF commits are lost and databases damaged: torn pages are really produced."""
    acknowledged_at = workload(disk, tmp_path / "talk.db", "OFF")
    lost, damaged, _ = losses(disk, acknowledged_at, scratch, 300)
    assert lost > 150
    assert len(damaged) > 20


@pytest.mark.parametrize(("synchronous", "loses"), [("EXTRA", False), ("FULL", True)])
def test_a_rollback_journal_is_followed_too(
    disk: RecordingDisk, tmp_path: Path, scratch: Path, synchronous: str, loses: bool
) -> None:
    """Without WAL only EXTRA, which syncs the directory after the journal's deletion, keeps every commit.

    https://sqlite.org/pragma.html#pragma_synchronous says so of EXTRA; the rig finds it by itself.
    """
    connection = apsw.Connection(str(tmp_path / "talk.db"), vfs=disk.name)
    connection.pragma("journal_mode", "delete")
    connection.pragma("synchronous", synchronous)
    connection.execute("CREATE TABLE words (n INTEGER PRIMARY KEY, body BLOB NOT NULL)")
    acknowledged_at = []
    for n in range(40):
        say(connection, n)
        acknowledged_at.append(disk.moment)
    connection.close()
    lost, damaged, states = losses(disk, acknowledged_at, scratch, 300)
    assert (lost > 0) == loses
    assert damaged == []
    assert any(state.dropped for state in states)


def test_the_same_seed_gives_the_same_disks(disk: RecordingDisk, tmp_path: Path) -> None:
    """A failing state can be made again from its seed."""
    workload(disk, tmp_path / "talk.db", "NORMAL")
    moments = moments_of([disk.moment], disk.moment, 40)
    once, again = (list(power_losses(disk.log, moments, seed=7)) for _ in range(2))
    assert once == again
    assert once != list(power_losses(disk.log, moments, seed=8))


def test_a_file_from_before_is_durable(disk: RecordingDisk, tmp_path: Path, scratch: Path) -> None:
    """What was on the disk before it was recorded is there in every state."""
    before = connect(tmp_path / "talk.db")
    say(before, 1)
    before.close()
    connection = connect(tmp_path / "talk.db", disk.name)
    say(connection, 2)
    acknowledged_at = disk.moment
    connection.close()
    assert isinstance(disk.log[0], Existing)
    for state in power_losses(disk.log, range(1, disk.moment + 1), seed=SEED):
        found, verdict = words(state.write_to(scratch) / "talk.db")
        assert verdict == "ok"
        assert found == {1, 2} if state.moment >= acknowledged_at else found >= {1}


def possible(log: list[Operation], draws: int = 300) -> set[bytes | None]:
    """The contents file `f` may have at the end of a log; None where it does not exist."""
    walk = PowerLoss(log)
    walk.advance(len(log))
    rng = random.Random(SEED)
    return {walk.state(rng).files.get("f") for _ in range(draws)}


def test_only_a_directory_sync_makes_a_name_durable() -> None:
    """A new file whose own data are synced may still be missing, until its directory is synced."""
    log: list[Operation] = [Created(0, "f"), Written(0, 0, b"abc"), Synced(0, 2, directory=False)]
    assert possible(log) == {None, b"abc"}
    assert possible([*log, Synced(0, 3, directory=True)]) == {b"abc"}


def test_a_write_made_during_a_sync_is_not_covered_by_it() -> None:
    """A sync that began before a write was done says nothing about it."""
    log: list[Operation] = [Existing(0, "f", b"old"), Written(0, 0, b"new"), Synced(0, 1, directory=False)]
    assert {b"old", b"new"} <= possible(log)


def test_unsynced_sectors_are_kept_independently() -> None:
    """A torn page of 4096 bytes may keep its last sectors and lose its first."""
    log: list[Operation] = [Existing(0, "f", b"o" * 4096), Written(0, 0, b"n" * 4096)]
    contents = possible(log)
    assert {b"o" * 4096, b"n" * 4096} <= contents
    assert any(c and c.startswith(b"o" * 512) and c.endswith(b"n" * 512) for c in contents)


def test_a_truncate_is_in_doubt_until_synced() -> None:
    """The old length may come back; after a sync it cannot."""
    log: list[Operation] = [Existing(0, "f", b"long"), Truncated(0, 1)]
    assert possible(log) == {b"long", b"l"}
    assert possible([*log, Synced(0, 2, directory=False)]) == {b"l"}


def test_a_failed_sync_leaves_its_writes_in_doubt_for_ever() -> None:
    """The kernel drops the dirty pages of a failed fsync: a later success does not bring them to the disk."""
    log: list[Operation] = [Existing(0, "f", b"old"), Written(0, 0, b"new"), SyncFailed(0, 2)]
    log += [Synced(0, 3, directory=False)]
    assert {b"old", b"new"} <= possible(log)
    log += [Written(0, 0, b"end"), Synced(0, 5, directory=False)]
    assert possible(log) == {b"end"}


def test_failed_syncs_cost_no_acknowledged_commit(disk: RecordingDisk, tmp_path: Path, scratch: Path) -> None:
    """Commits whose sync failed are refused; those acknowledged before, between and after are kept."""
    connection = connect(tmp_path / "talk.db", disk.name)
    acknowledged_at: dict[int, int] = {}
    refused = 0
    rng = random.Random(SEED)
    for n in range(120):
        if rng.random() < 0.3:
            disk.fail("sync", times=1, after=rng.randrange(3))
        try:
            say(connection, n)
            acknowledged_at[n] = disk.moment
        except apsw.IOError:
            refused += 1
        disk.heal()
    connection.close()
    assert refused > 5
    moments = moments_of(list(acknowledged_at.values()), disk.moment, 300)
    for state in power_losses(disk.log, moments, seed=SEED):
        found, verdict = words(state.write_to(scratch) / "talk.db")
        assert verdict == "ok"
        assert {n for n, moment in acknowledged_at.items() if moment <= state.moment} <= found


@pytest.mark.parametrize(
    ("operation", "error", "files"),
    [
        ("write", apsw.FullError, ("wal",)),
        ("write", apsw.IOError, ("wal",)),
        ("sync", apsw.IOError, ("wal",)),
    ],
)
@pytest.mark.parametrize("partial", [False, True])
def test_a_fault_raises_and_ends(
    disk: RecordingDisk,
    tmp_path: Path,
    operation: str,
    error: type[apsw.Error],
    files: tuple[str, ...],
    partial: bool,
) -> None:
    """A commit meets the fault and is not made; after `heal()` the same connection commits again."""
    connection = connect(tmp_path / "talk.db", disk.name)
    say(connection, 1)
    fault = disk.fail(operation, error, files=files, partial=partial)  # type: ignore[arg-type]
    for _ in range(3):
        with pytest.raises(error, match="simulated fault"):
            say(connection, 2)
    assert fault.fired >= 3
    assert connection.execute("SELECT count(*) FROM words").get == 1
    disk.heal()
    say(connection, 2)
    connection.close()
    assert words(tmp_path / "talk.db") == ({1, 2}, "ok")


def test_a_failed_checkpoint_looks_like_a_refused_commit_that_was_kept(
    disk: RecordingDisk, tmp_path: Path
) -> None:
    """Where only checkpoints fail, every commit is in the WAL, whatever was answered."""
    connection = connect(tmp_path / "talk.db", disk.name)
    disk.fail("write", apsw.IOError, files=("db",))
    refused = 0
    for n in range(30):
        try:
            say(connection, n)
        except apsw.IOError:
            refused += 1
    assert 0 < refused < 30
    with contextlib.suppress(apsw.IOError):
        connection.close()
    assert words(tmp_path / "talk.db") == (set(range(30)), "ok")


def test_after_and_times_count(disk: RecordingDisk, tmp_path: Path) -> None:
    """`after` operations succeed, `times` fail, then all succeed again without `heal()`."""
    connection = connect(tmp_path / "talk.db", disk.name, wal_pages=0)
    disk.fail("sync", files=("wal",), after=2, times=1)
    for n in range(2):
        say(connection, n, size_bytes=10)
    with pytest.raises(apsw.IOError) as caught:
        say(connection, 2, size_bytes=10)
    assert vars(caught.value)["extendedresult"] == apsw.SQLITE_IOERR_FSYNC
    say(connection, 2, size_bytes=10)
    connection.close()
    assert words(tmp_path / "talk.db") == ({0, 1, 2}, "ok")


def test_a_full_disk_refuses_growth_until_there_is_room(disk: RecordingDisk, tmp_path: Path) -> None:
    """At its capacity the disk refuses what would grow a file; with more room the commits go on."""
    connection = connect(tmp_path / "talk.db", disk.name, wal_pages=0)
    say(connection, 0)
    disk.capacity_bytes = disk.used_bytes + 100_000
    kept = 1
    for _ in range(3):
        say(connection, kept)
        kept += 1
    for _ in range(3):
        with pytest.raises(apsw.FullError):
            say(connection, kept, size_bytes=200_000)
    assert disk.used_bytes <= disk.capacity_bytes
    disk.capacity_bytes = None
    say(connection, kept)
    connection.close()
    assert words(tmp_path / "talk.db") == (set(range(kept + 1)), "ok")


def test_a_disk_that_cannot_be_opened(disk: RecordingDisk, tmp_path: Path) -> None:
    """An open that fails says so, and creates nothing."""
    disk.fail("open", apsw.CantOpenError, files=("db",))
    with pytest.raises(apsw.CantOpenError):
        connect(tmp_path / "talk.db", disk.name)
    assert list(tmp_path.iterdir()) == []


def test_a_slow_disk_lets_others_run(disk: RecordingDisk, tmp_path: Path) -> None:
    """While a sync is under way other threads run, and see that it is not done."""
    connection = connect(tmp_path / "talk.db", disk.name)
    disk.sync_delay_s = 0.05
    seen: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append(disk.moment)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        say(connection, 1)
        acknowledged_at = disk.moment
    finally:
        done.set()
        thread.join()
    connection.close()
    assert isinstance(disk.log[acknowledged_at - 1], Synced)
    assert acknowledged_at - 1 in seen
