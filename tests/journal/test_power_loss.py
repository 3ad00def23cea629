"""The power goes at any moment: what was acknowledged is there, and nothing is there that was not written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from samvad.sessions.journal_files import SegmentFiles
from tests.journal.disks import MemoryDisk, StillClock, reopened, segment_files
from tests.support import SOAK

SEED = 20_250_110


class Run:
    """A journal under random work; at random steps of its disk, a state that a power loss could leave is checked."""

    def __init__(self, directory: Path, seed: int, states: int, *, faults: bool) -> None:
        self.directory = directory
        self.rng = random.Random(f"work {seed}")
        self.losses = random.Random(f"losses {seed}")
        self.states = states
        self.faults = faults
        self.disk = MemoryDisk()
        self.clock = StillClock()
        self.attempted: set[bytes] = set()
        self.acknowledged: dict[int, bytes] = {}
        self.forgotten: set[int] = set()
        self.checked = self.torn = self.ghosts = 0

    def work(self) -> None:
        """Open, write, forget, tidy and close until enough states were checked."""
        self.disk.on_step = self.lose_power
        while self.checked < self.states:
            journal = segment_files(
                self.directory, self.disk, self.clock, segment_bytes=self.rng.choice([6_000, 12_000])
            )
            replay = journal.open()
            assert replay.entries_lost_max == 0
            for _ in range(60):
                self.do_something(journal)
            self.disk.heal()
            if self.rng.random() < 0.5:
                journal.close()
        assert self.torn > self.states // 40

    def do_something(self, journal: SegmentFiles) -> None:
        """One group of entries, or some upkeep."""
        self.clock.s += 1.0
        if self.faults and self.rng.random() < 0.05:
            self.disk.fail(
                self.rng.choice(["write", "sync", "create", "rename", "allocate", "sync_directory"])
            )
        number = len(self.attempted)
        try:
            match self.rng.randint(0, 9):
                case 0:
                    journal.write_forgotten()
                case 1:
                    journal.tidy()
                case 2 if self.rng.random() < 0.3:
                    journal.scrub()
                case 3 | 4:
                    live = [each for each in self.acknowledged if each not in self.forgotten]
                    gone = self.rng.sample(live, len(live) * 2 // 3)
                    self.forgotten.update(gone)
                    journal.forget(gone)
                case _:
                    count = self.rng.randint(1, 4)
                    payloads = [
                        b"%d:" % (number + index) + self.rng.randbytes(self.rng.choice([0, 9, 300, 2_000]))
                        for index in range(count)
                    ]
                    self.attempted.update(payloads)
                    first = journal.append(payloads)
                    for index, payload in enumerate(payloads):
                        assert first + index not in self.acknowledged
                        self.acknowledged[first + index] = payload
        except OSError:
            assert self.faults

    def lose_power(self, disk: MemoryDisk) -> None:
        """Check one state that could be found now."""
        in_flight = disk.steps[-1] == "sync"  # the writes are in doubt: the moments that matter most
        if self.checked >= self.states or self.losses.random() > (0.8 if in_flight else 0.1):
            return
        self.checked += 1
        journal, after, replay = reopened(self.directory, disk.state(self.losses))
        numbers = [entry.number for entry in replay.entries]
        assert numbers == sorted(set(numbers))
        found = {entry.number: entry.payload for entry in replay.entries}
        for number, payload in self.acknowledged.items():
            assert number in self.forgotten or found.get(number) == payload, f"{number} is lost"
        for number, payload in found.items():
            assert payload in self.attempted
            assert self.acknowledged.get(number, payload) == payload
        assert replay.entries_lost_max == 0
        self.torn += bool(replay.damages)
        self.ghosts += len(found.keys() - self.acknowledged.keys())
        # What is written next is not taken for anything that was there, and the damage is mended.
        assert journal.append([b"next"]) > max([*self.acknowledged, *found], default=0)
        again = reopened(self.directory, after.files)[2]
        assert [*again.entries][:-1] == replay.entries
        assert again.damages == []


@pytest.mark.parametrize("faults", [False, True], ids=["sound", "failing"])
def test_power_loss(tmp_path: Path, faults: bool) -> None:
    """1,000 states each of a sound disk, and of one whose writes and syncs fail now and then."""
    Run(tmp_path, SEED, 1_000, faults=faults).work()


def test_power_loss_while_compacting(tmp_path: Path) -> None:
    """At each step of merging segments, 40 states each: every live entry is there, and counted once."""
    rng = random.Random(SEED)
    disk, clock = MemoryDisk(), StillClock()
    live: dict[int, bytes] = {}
    journal = segment_files(tmp_path, disk, clock, compact_after_s=1.0)
    journal.open()
    for turn in range(6):
        first = journal.append([b"%d:%d" % (turn, index) * 50 for index in range(4)])
        journal.forget(range(first + 1, first + 4))
        live[first] = b"%d:0" % turn * 50
        if turn < 5:
            journal.close()
            journal = segment_files(tmp_path, disk, clock, compact_after_s=1.0)
            journal.open()
    live[journal.append([b""])] = b""  # so that what was forgotten is durable
    checked = 0

    def lose_power(disk: MemoryDisk) -> None:
        nonlocal checked
        for _ in range(40):
            checked += 1
            journal, _, replay = reopened(tmp_path, disk.state(rng))
            assert {entry.number: entry.payload for entry in replay.entries} == live
            assert journal.ledger.live == len(live)
            assert replay.entries_lost_max == 0

    clock.s += 10.0
    disk.on_step = lose_power
    before = len(disk.files)
    journal.tidy()
    disk.on_step = None
    assert len(disk.files) < before - 2
    assert checked > 400


@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="SAMVAD_SOAK=1 asks for it")
@pytest.mark.parametrize("faults", [False, True], ids=["sound", "failing"])
@pytest.mark.parametrize("seed", range(20))
def test_power_loss_soak(tmp_path: Path, faults: bool, seed: int) -> None:
    """The same with 100,000 states each."""
    Run(tmp_path, seed, 5_000, faults=faults).work()
