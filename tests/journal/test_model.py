"""Any order of appending, forgetting, compacting, failing, closing and being killed agrees with a plain dictionary."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.journal.disks import MemoryDisk, StillClock, segment_files
from tests.support import SOAK

CALLS = ["write", "sync", "create", "allocate", "rename", "remove", "sync_directory", "truncate", "read"]


class JournalMachine(RuleBasedStateMachine):
    """`live` is the model: what was acknowledged and not forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.directory = Path(self.folder.name)
        self.disk = MemoryDisk()
        self.clock = StillClock()
        self.live: dict[int, bytes] = {}
        self.forgotten: dict[int, bytes] = {}  # they may come back, but only after a kill or a fault
        self.refused: set[bytes] = set()
        self.written = 0
        self.highest = 0
        self.faulty = False
        self.sure = True  # nothing that was forgotten can come back
        self.journal = segment_files(self.directory, self.disk, self.clock, segment_bytes=5_000)
        self.journal.open()

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(sizes=st.lists(st.sampled_from([0, 1, 40, 700, 3_000]), min_size=1, max_size=5))
    def append(self, sizes: list[int]) -> None:
        """A group is acknowledged as a whole, with numbers that rise by one, or refused as a whole."""
        self.clock.s += 1
        payloads = [b"entry %d;" % (self.written + index) + b"." * size for index, size in enumerate(sizes)]
        self.written += len(payloads)
        try:
            first = self.journal.append(payloads)
        except OSError:
            assert self.faulty
            self.refused.update(payloads)
            return
        assert first > self.highest
        self.live |= {first + index: payload for index, payload in enumerate(payloads)}
        self.highest = first + len(payloads) - 1

    @precondition(lambda self: self.live)
    @rule(data=st.data(), share=st.floats(0, 1))
    def forget(self, data: st.DataObject, share: float) -> None:
        """Some are forgotten; again, or unknown, makes no difference."""
        numbers = sorted(self.live)
        kept = data.draw(st.sampled_from(numbers))
        gone = [number for number in numbers[: int(len(numbers) * share)] if number != kept]
        self.journal.forget([*gone, *gone, 0, self.highest + 1])
        self.forgotten |= {number: self.live.pop(number) for number in gone}
        self.sure = self.sure and not gone

    @rule()
    def settle(self) -> None:
        """What was forgotten is written down; segments are deleted and compacted."""
        try:
            self.journal.settle()
        except OSError:
            assert self.faulty
        else:
            self.sure = True

    @rule()
    def scrub(self) -> None:
        """No byte of a forgotten or refused entry is left."""
        try:
            self.journal.scrub()
        except OSError:
            assert self.faulty
            return
        if not self.faulty:
            everything = b"".join(data for path, data in self.disk.files.items() if path.suffix == ".journal")
            assert all(payload not in everything for payload in [*self.forgotten.values(), *self.refused])
            self.forgotten.clear()
            self.refused.clear()

    @rule(call=st.sampled_from(CALLS))
    def fail(self, call: str) -> None:
        """The next such call fails, if there is one before it is mended."""
        self.disk.fail(call)
        self.faulty = True
        self.sure = False

    @rule()
    def heal(self) -> None:
        """The disk works again."""
        self.disk.heal()
        self.faulty = False

    @rule(killed=st.booleans(), ms=st.integers(-1_000, 1_000), segment_bytes=st.sampled_from([5_000, 9_000]))
    def restart(self, killed: bool, ms: int, segment_bytes: int) -> None:
        """All that is live comes back, exactly and in order."""
        self.disk.heal()
        replica = self.journal.replica
        if not killed:
            self.journal.close()
            self.sure = self.sure or not self.faulty
            assert self.disk.descriptors == 0
        self.faulty = False
        self.disk._open.clear()
        self.clock.ms = max(0, self.clock.ms + ms)
        self.journal = segment_files(self.directory, self.disk, self.clock, segment_bytes=segment_bytes)
        replay = self.journal.open()
        assert self.journal.replica == replica
        assert all(damage.torn for damage in replay.damages)
        assert [entry.number for entry in replay.entries] == sorted(
            {entry.number for entry in replay.entries}
        )
        found = {entry.number: entry.payload for entry in replay.entries}
        assert self.live.items() <= found.items()
        for number in found.keys() - self.live.keys():
            if number in self.forgotten:
                assert not self.sure and found[number] == self.forgotten[number]
            else:
                assert found[number] in self.refused
        self.live = found
        self.forgotten = {number: self.forgotten[number] for number in self.forgotten.keys() - found.keys()}
        self.refused -= set(found.values())
        self.highest = max([self.highest, *found])
        self.sure = False

    @invariant()
    def the_count_is_right(self) -> None:
        """What is held is what is live."""
        assert self.journal.ledger.live == len(self.live)
        assert self.journal.ledger.live_bytes == sum(32 + len(payload) for payload in self.live.values())
        assert self.journal.ledger.live == sum(segment.live for segment in self.journal.ledger)
        assert self.disk.descriptors <= 1


class TestJournal(JournalMachine.TestCase):  # type: ignore[misc,valid-type]
    """150 histories."""

    settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="SAMVAD_SOAK=1 asks for it")
class TestJournalSoak(JournalMachine.TestCase):  # type: ignore[misc,valid-type]
    """5,000 longer ones."""

    settings = settings(max_examples=5_000, stateful_step_count=60, deadline=None)


def test_a_stuck_entry_does_not_keep_the_rest(tmp_path: Path) -> None:
    """One entry in each hundred is never forgotten: files and bytes stay near what is live, restarts included."""
    disk, clock = MemoryDisk(), StillClock()
    journal = segment_files(tmp_path, disk, clock, segment_bytes=20_000, compact_after_s=30.0)
    journal.open()
    stuck: dict[int, bytes] = {}
    for turn in range(300):
        clock.s += 10
        first = journal.append([b"%d %d " % (turn, index) + b"x" * 200 for index in range(100)])
        stuck[first + 50] = b"%d 50 " % turn + b"x" * 200
        journal.forget(number for number in range(first, first + 100) if number != first + 50)
        journal.tidy()
        if turn % 100 == 99:
            journal.close()
            journal = segment_files(tmp_path, disk, clock, segment_bytes=20_000, compact_after_s=30.0)
            assert {entry.number: entry.payload for entry in journal.open().entries} == stuck
    assert sum(map(len, disk.files.values())) < 3 * journal.ledger.live_bytes + 10 * 20_000
    assert len(disk.files) < 40


@pytest.mark.parametrize("call", ["write", "sync", "create", "rename", "remove", "sync_directory", "read"])
def test_a_fault_while_compacting_loses_nothing(tmp_path: Path, call: str) -> None:
    """Whatever fails while segments are compacted or deleted, all that is live is there, and later it succeeds."""
    disk, clock = MemoryDisk(), StillClock()
    journal = segment_files(tmp_path, disk, clock)
    journal.open()
    live: dict[int, bytes] = {}
    for turn in range(40):
        first = journal.append([b"%d" % turn + b"." * 500] * 4)
        live[first] = b"%d" % turn + b"." * 500
        journal.forget(range(first + 1, first + 4))
    journal.write_forgotten()
    disk.fail(call)
    journal.tidy()
    killed = MemoryDisk(disk.files)
    replay = segment_files(tmp_path, killed, clock).open()
    assert {entry.number: entry.payload for entry in replay.entries} == live
    before = journal.disk_bytes
    for _ in range(40):
        clock.s += 5
        journal.tidy()
    assert journal.disk_bytes < before // 2
    journal.close()
    replay = segment_files(tmp_path, disk, clock).open()
    assert {entry.number: entry.payload for entry in replay.entries} == live and not replay.damages


@pytest.mark.parametrize("live", [0, 2])
def test_a_start_that_is_cut_short(tmp_path: Path, live: int) -> None:
    """Killed at each step of a start that mends what faults and a kill have left, the next start finds the same.

    Once, the newest segment was written anew without what it said of the abandoned one ahead of it; a kill
    before that one was deleted then made its refused entry look like a lost one.
    """
    disk = MemoryDisk()
    journal = segment_files(tmp_path, disk, StillClock())
    journal.open()
    first = journal.append([b"in the abandoned segment"] * 2)
    disk.fail("write")
    with pytest.raises(OSError, match="write failed"):
        journal.append([b"refused" * 100])
    after = journal.append([b"after"])
    journal.forget(range(first + live, first + 2))
    journal.write_forgotten()
    expected = [*range(first, first + live), after]
    killed_at: list[dict[Path, bytes]] = []
    start = MemoryDisk(disk.files)
    start.on_step = lambda disk: killed_at.append(disk.files)
    segment_files(tmp_path, start, StillClock()).open()
    assert len(killed_at) > 10
    for files in [disk.files, *killed_at, start.files]:
        replay = segment_files(tmp_path, MemoryDisk(files), StillClock()).open()
        assert [entry.number for entry in replay.entries] == expected
        assert all(damage.torn for damage in replay.damages)
