"""The journal as its callers see it: order, groups, the bound, faults, one holder, nothing left behind."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from samvad.errors import (
    Overloaded,
    SamvadError,
    SetupError,
    ShuttingDown,
    StoreLocked,
    StoreUnavailable,
    TooLarge,
)
from samvad.sessions import journal_records
from samvad.sessions.journal import Journal
from samvad.sessions.journal_disk import LocalDisk
from tests.journal.disks import StillClock
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio


class SlowDisk(LocalDisk):
    """A real disk whose syncs wait until they are let go, and whose calls fail on demand."""

    def __init__(self) -> None:
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.failing: dict[str, int] = {}
        self.writes = 0
        self.syncs = 0
        self.synced: list[int] = []

    def _check(self, name: str) -> None:
        if error := self.failing.pop(name, None):
            raise OSError(error, os.strerror(error))

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        self._check("write")
        self.writes += 1
        super().write(descriptor, data, offset)

    def make_directory(self, path: Path) -> None:
        self._check("make_directory")
        super().make_directory(path)

    def allocate(self, descriptor: int, size_bytes: int) -> None:
        self._check("allocate")
        super().allocate(descriptor, size_bytes)

    def sync(self, descriptor: int) -> None:
        assert self.may_sync.wait(30)
        self._check("sync")
        super().sync(descriptor)
        self.syncs += 1
        self.synced.append(os.fstat(descriptor).st_ino)


@pytest.fixture
def disk() -> SlowDisk:
    """Where the journal lies."""
    return SlowDisk()


@pytest.fixture
async def journal(tmp_path: Path, disk: SlowDisk) -> AsyncIterator[Journal]:
    """An open journal."""
    journal = Journal(tmp_path / "journal", disk=disk)
    await journal.open()
    yield journal
    disk.may_sync.set()
    await journal.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until the writer's thread has come so far."""

    async def holds() -> bool:
        return condition()

    await wait_until_async(holds, what)


def files(journal: Journal) -> list[Path]:
    """Its segments."""
    return sorted(journal.directory.glob("*.journal"))


def count(directory: Path) -> int:
    """How many names are in a directory."""
    return len([*directory.iterdir()])


async def reopened(journal: Journal, **options: Any) -> list[tuple[int, bytes]]:
    """What the next start finds."""
    await journal.close()
    again = Journal(journal.directory, **options)
    replay = await again.open()
    await again.close()
    assert replay.damages == []
    return [(entry.number, entry.payload) for entry in replay.entries]


async def test_order(journal: Journal) -> None:
    """Numbers rise by one in the order of submission, answers come in that order, and so does the replay."""
    answers: list[tuple[int, int | SamvadError]] = []
    for index in range(2_500):
        journal.submit(b"%d" % index, lambda result, index=index: answers.append((index, result)))  # type: ignore[misc]
    last = await journal.append(b"last")
    assert [index for index, _ in answers] == list(range(2_500))
    numbers = [result for _, result in answers]
    assert numbers == list(range(last - 2_500, last))
    assert await reopened(journal) == [
        *((number, b"%d" % index) for index, number in answers),
        (last, b"last"),
    ]


async def test_group_commit(journal: Journal, disk: SlowDisk) -> None:
    """What waits while one group is synced is written with one write and one sync, and nothing is answered before."""
    disk.may_sync.clear()
    first = journal.append(b"first")
    await until(lambda: disk.writes == 2, "the segment's header and this entry are written")
    rest = [journal.append(b"%d" % index) for index in range(200)]
    assert journal.entries_waiting == 201
    await asyncio.sleep(0)
    assert not first.done()
    syncs, writes = disk.syncs, disk.writes
    disk.may_sync.set()
    await asyncio.gather(*rest)
    assert first.done()
    assert (disk.syncs - syncs, disk.writes - writes) == (2, 1)
    assert journal.entries_waiting == 0
    assert journal.groups.sizes.count == 2


async def test_an_answer_that_raises_does_not_keep_the_others(journal: Journal) -> None:
    """A callback's fault is its own."""

    def broken(_: int | SamvadError) -> None:
        raise ValueError("not mine")

    journal.submit(b"one", broken)
    cancelled = journal.append(b"two")
    cancelled.cancel()
    assert await journal.append(b"three") > 0
    assert journal.entries_held == 3


async def test_full(tmp_path: Path) -> None:
    """Beyond its bound the journal refuses at once and keeps all it has; forgetting makes room."""
    journal = Journal(tmp_path / "journal", bytes_max=10_000)
    await journal.open()
    numbers = [await journal.append(b"x" * 968) for _ in range(9)]
    waiting = journal.append(b"x" * 968)
    with pytest.raises(Overloaded, match="full"):
        await journal.append(b"x")
    numbers.append(await waiting)
    assert journal.bytes_held == 10_000
    journal.forget(numbers[0])
    journal.forget(numbers[0])
    await journal.settle()
    assert journal.bytes_held == 9_000
    numbers.append(await journal.append(b"x" * 968))
    with pytest.raises(Overloaded):
        await journal.append(b"x")
    with pytest.raises(TooLarge):
        await journal.append(b"x" * 10_000)
    assert [number for number, _ in await reopened(journal)] == numbers[1:]


async def test_an_entry_larger_than_a_segment(tmp_path: Path) -> None:
    """A segment is as large as its first group needs."""
    journal = Journal(tmp_path / "journal", segment_bytes=10_000)
    await journal.open()
    payloads = [b"a" * 50_000, b"", b"\0" * 9_000, b"b" * 7_000]
    numbers = await asyncio.gather(*(journal.append(payload) for payload in payloads))
    assert await reopened(journal) == list(zip(numbers, payloads, strict=True))


async def test_forgotten_entries_do_not_come_back_after_a_close(journal: Journal) -> None:
    """A clean close writes down what was forgotten; once all is, one small file is left."""
    numbers = [await journal.append(b"%d" % index) for index in range(10)]
    for number in numbers[:9]:
        journal.forget(number)
    assert await reopened(journal) == [(numbers[9], b"9")]
    await journal.open()
    journal.forget(numbers[9])
    assert await reopened(journal) == []
    assert [path.stat().st_size < 5_000 for path in files(journal)] == [True]


async def test_forgetting_alone_is_written_down_soon(journal: Journal) -> None:
    """Without new entries, what was forgotten is on the disk a moment later, without a sync of its own."""
    number = await journal.append(b"only")
    syncs = journal.syncs
    journal.forget(number)
    await until(lambda: not journal.entries_held, "the entry is forgotten")
    copy = journal.directory.with_name("copy")
    await journal.settle()
    assert journal.syncs == syncs
    shutil.copytree(journal.directory, copy)
    again = Journal(copy)
    assert (await again.open()).entries == []
    await again.close()


@pytest.mark.parametrize(
    ("call", "number"), [("write", errno.EIO), ("sync", errno.EIO), ("write", errno.ENOSPC)]
)
async def test_a_failed_write_or_sync(journal: Journal, disk: SlowDisk, call: str, number: int) -> None:
    """The group is refused; the file is never written or synced again; the next entry goes to a new one."""
    before = await journal.append(b"before")
    [old] = files(journal)
    inode, data = old.stat().st_ino, old.read_bytes()
    disk.failing[call] = number
    refused = [journal.append(b"refused %d" % index) for index in range(3)]
    for future in refused:
        with pytest.raises(StoreUnavailable, match=os.strerror(number)):
            await future
    assert journal.fault is not None and journal.fault[0] == os.strerror(number)
    assert call == "sync" or old.read_bytes() == data
    disk.synced.clear()
    after = await journal.append(b"after")
    assert after >= before + 4  # the numbers of the refused are used up
    assert journal.fault is None
    assert inode not in disk.synced
    assert await reopened(journal) == [(before, b"before"), (after, b"after")]


async def test_no_space_for_a_segment(journal: Journal, disk: SlowDisk) -> None:
    """Where no new segment can be made, groups are refused until there is room; no number is lost to it."""
    before = await journal.append(b"before")
    disk.failing["write"] = errno.ENOSPC
    with pytest.raises(StoreUnavailable):
        await journal.append(b"refused")
    for _ in range(3):
        disk.failing["allocate"] = errno.ENOSPC
        with pytest.raises(StoreUnavailable, match="No space"):
            await journal.append(b"refused")
    assert await journal.append(b"after") == before + 2
    await journal.settle()
    assert not list(journal.directory.glob("*.new"))
    assert len(await reopened(journal)) == 2


async def test_closing(tmp_path: Path) -> None:
    """What was submitted is written and answered, then nothing more is taken; twice is fine, and so is never opened."""
    journal = Journal(tmp_path / "journal")
    await journal.close()
    await journal.open()
    futures = [journal.append(b"%d" % index) for index in range(50)]
    closing = asyncio.gather(journal.close(), journal.close())
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown):
        await journal.append(b"late")
    await closing
    await journal.close()
    assert all(future.done() and future.result() for future in futures)
    journal.forget(1)
    assert len(await reopened(journal)) == 50


async def test_opening_and_closing_leaks_nothing(tmp_path: Path) -> None:
    """After 50 cycles there are no more descriptors, threads or files than after the first."""
    journal = Journal(tmp_path / "journal", segment_bytes=64 * 1024)

    async def cycle() -> tuple[int, int, int]:
        await journal.open()
        journal.forget(await journal.append(b"one"))
        await journal.close()
        gc.collect()
        return count(Path("/proc/self/fd")), threading.active_count(), count(journal.directory)

    before = after = await cycle()
    for _ in range(50):
        after = await cycle()
    assert after == before


async def test_one_holder(journal: Journal) -> None:
    """A second journal on the directory is told which process has it, and can have it afterwards."""
    second = Journal(journal.directory)
    with pytest.raises(StoreLocked, match=f"in use by process {os.getpid()};"):
        await second.open()
    assert await journal.append(b"undisturbed")
    await journal.close()
    assert len((await second.open()).entries) == 1
    await second.close()


async def test_a_place_that_cannot_be_used(tmp_path: Path, disk: SlowDisk) -> None:
    """What is wrong is said in one line: not a directory, no space, read-only, a newer format."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SetupError, match=r"^Cannot open the journal .*not a directory.*\.$"):
            await Journal(path).open()
    disk.failing["allocate"] = errno.ENOSPC
    with pytest.raises(SetupError, match=r"^Cannot open the journal .*no space left.*\.$"):
        await Journal(tmp_path / "journal", disk=disk).open()
    disk.failing["make_directory"] = errno.EROFS
    with pytest.raises(SetupError, match=r"^Cannot open the journal .*read-only.*\.$"):
        await Journal(tmp_path / "journal", disk=disk).open()
    journal = Journal(tmp_path / "journal", disk=disk)
    await journal.open()
    await journal.close()
    [path] = files(journal)
    header = bytearray(path.read_bytes()[: journal_records.HEADER_BYTES])
    header[9] = 2  # the version
    header[-4:] = crc32(header[:-4]).to_bytes(4, "big")
    path.write_bytes(header + path.read_bytes()[len(header) :])
    with pytest.raises(SetupError, match=r"newer Samvad \(format 2\)"):
        await journal.open()


async def test_numbers_only_rise(tmp_path: Path) -> None:
    """No number is used twice: over restarts, after all was forgotten, with the clock set back, from a backup."""
    clock = StillClock()
    clock.ms = 1_000_000
    seen: list[int] = []
    directory = tmp_path / "journal"

    async def life() -> str:
        journal = Journal(directory, clock=clock, segment_bytes=64 * 1024)
        await journal.open()
        for _ in range(3):
            seen.append(await journal.append(b"x"))
            journal.forget(seen[-1])
        await journal.close()
        return journal.replica

    replica = await life()
    clock.ms = 0
    assert await life() == replica
    backup = {path: path.read_bytes() for path in directory.glob("*.journal")}
    clock.ms = 2_000_000
    assert await life() == replica
    for path in directory.glob("*.journal"):
        path.unlink()
    for path, data in backup.items():
        path.write_bytes(data)
    clock.ms = 2_000_001
    assert await life() == replica
    assert seen == sorted(set(seen))
    assert seen[0] == 1_000_000 * 1024


async def test_a_copied_directory_gets_a_name_of_its_own(journal: Journal) -> None:
    """Two copies would use the same numbers; entries from before keep the name under which the store may know them."""
    number = await journal.append(b"before")
    copy = journal.directory.with_name("copy")
    await journal.close()
    shutil.copytree(journal.directory, copy)
    other = Journal(copy)
    replay = await other.open()
    assert other.replica != journal.replica
    assert [(entry.number, entry.replica) for entry in replay.entries] == [(number, journal.replica)]
    new = await other.append(b"after")
    await other.close()
    replay = await other.open()
    assert [(entry.number, entry.replica) for entry in replay.entries] == [
        (number, journal.replica),
        (new, other.replica),
    ]
    await other.close()


async def test_scrubbing_leaves_no_bytes(journal: Journal) -> None:
    """After scrub no file holds a byte of a forgotten entry; what is live stays."""
    canary = await journal.append(b"canary" * 10)
    live = await journal.append(b"live")
    journal.forget(canary)
    await journal.scrub()
    assert all(b"canary" not in path.read_bytes() for path in journal.directory.iterdir())
    assert await reopened(journal) == [(live, b"live")]


async def test_the_codec(tmp_path: Path) -> None:
    """What is on the disk is what the codec made; an entry that it cannot read is damage, and set aside."""

    def decode(data: bytes) -> bytes:
        if data.startswith(b"6b6579"):
            raise ValueError("no key")
        return bytes.fromhex(data.decode())

    def encode(data: bytes) -> bytes:
        return data.hex().encode()

    directory = tmp_path / "journal"
    journal = Journal(directory, encode=encode, decode=decode)
    await journal.open()
    await journal.append(b"plain words")
    await journal.append(b"key")
    await journal.close()
    assert all(b"plain" not in path.read_bytes() for path in directory.iterdir())
    replay = await journal.open()
    assert [entry.payload for entry in replay.entries] == [b"plain words"]
    assert [(damage.entries_lost_max, damage.torn) for damage in replay.damages] == [(1, False)]
    assert replay.damages[0].kept is not None and b"6b6579" in replay.damages[0].kept.read_bytes()
    assert journal.damaged == 1
    await journal.close()


async def test_measures(journal: Journal) -> None:
    """What operators see: what is held, files, syncs and the time they took."""
    assert (journal.entries_held, journal.bytes_held, journal.segments, journal.damaged) == (0, 0, 1, 0)
    await journal.append(b"12345678")
    assert (journal.entries_held, journal.bytes_held, journal.entries_waiting) == (1, 40, 0)
    assert journal.syncs == 2
    assert 0 < journal.sync_s_last < journal.sync_s_sum
    assert journal.disk_bytes > 4_000


def test_the_real_disk_syncs(tmp_path: Path) -> None:
    """A sync reaches the system, which refuses what cannot be synced."""
    disk = LocalDisk()
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            disk.sync(writing)
    finally:
        os.close(reading)
        os.close(writing)
    with pytest.raises(FileNotFoundError):
        disk.sync_directory(tmp_path / "missing")
