"""Bits flip and files are cut: every acknowledged entry comes back as it was written, or its loss is reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from samvad.sessions.journal_records import COPY_AT, DATA_AT, HEADER_BYTES, RECORD_BYTES
from samvad.sessions.journal_recovery import Replay, read_directory
from tests.journal.disks import MemoryDisk, StillClock, reopened, segment_files
from tests.support import SOAK

FLIPS = 4_000
CUTS = 2_000
ENDINGS = ["closed", "killed"]


class Written:
    """A journal of 64 KiB in several segments: what was acknowledged, and the files."""

    def __init__(self, directory: Path, ending: str) -> None:
        self.directory = directory
        self.ending = ending
        self.acknowledged: dict[int, bytes] = {}
        self.live: dict[int, bytes] = {}
        disk = MemoryDisk()
        journal = segment_files(directory, disk, StillClock(), segment_bytes=16 * 1024)
        journal.open()
        number = 0
        while sum(map(len, disk.files.values())) < 60 * 1024:
            group = [b"<%d> " % (number + index) + b"text " * (5 + 9 * index) for index in range(4)]
            group.append(b"")
            first = journal.append(group)
            self.acknowledged |= {first + index: payload for index, payload in enumerate(group)}
            number += len(group)
            journal.forget([first + 1])
            if number == 100:  # a segment of few live entries, to be compacted
                journal.forget(list(self.acknowledged)[10:90])
        for _ in range(3):
            journal.settle()
        if ending == "closed":
            journal.close()
        self.files = {path: data for path, data in disk.files.items() if path.suffix == ".journal"}
        replay = self.read(self.files)
        assert replay.damages == []
        self.live = {entry.number: entry.payload for entry in replay.entries}
        assert len(self.live) > 100 and self.live.items() < self.acknowledged.items()

    def read(self, files: dict[Path, bytes]) -> Replay:
        """What a start would find."""
        found = read_directory(
            MemoryDisk(files), self.directory, segment_bytes=16 * 1024, decode=lambda data: data
        )
        return Replay(found.entries, [damage for each in found.found for damage in each.damages])

    def complaint(self, replay: Replay, *, unused: bool = False) -> str | None:
        """What is wrong with what was found, if anything."""
        numbers = [entry.number for entry in replay.entries]
        if numbers != sorted(set(numbers)):
            return "not in order, or twice"
        for entry in replay.entries:
            if self.acknowledged.get(entry.number) != entry.payload:
                return f"entry {entry.number} was never written like this"
        missing = self.live.keys() - set(numbers)
        if missing and not replay.damages:
            return f"{len(missing)} entries were lost silently"
        if len(missing) > sum(damage.entries_lost_max for damage in replay.damages):
            return f"{len(missing)} entries are lost, more than reported"
        if not replay.damages and not unused:
            return "the damage was not noticed"
        return None


@pytest.fixture(scope="module", params=ENDINGS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A journal that was closed, and one whose process was killed."""
    return Written(tmp_path_factory.mktemp("journal"), request.param)


def unused(at: int) -> bool:
    """Whether nothing is kept at this byte: it lies between the two copies of the header."""
    return HEADER_BYTES <= at < COPY_AT


def flip_complaints(written: Written, flips: Iterable[tuple[Path, int]]) -> Iterator[str]:
    """Flip one bit at a time, and say what went wrong."""
    for path, bit in flips:
        data = bytearray(written.files[path])
        data[bit // 8] ^= 1 << bit % 8
        replay = written.read(written.files | {path: bytes(data)})
        if complaint := written.complaint(replay, unused=unused(bit // 8)):
            yield f"bit {bit} of {path.name}: {complaint}"


def all_bits(written: Written) -> list[tuple[Path, int]]:
    """Every bit of the journal."""
    return [(path, bit) for path, data in written.files.items() for bit in range(len(data) * 8)]


def test_flipped_bits(written: Written) -> None:
    """4,000 bits evenly spread, each flipped: nothing wrong is believed, nothing is lost silently."""
    bits = all_bits(written)
    assert list(flip_complaints(written, bits[:: len(bits) // FLIPS])) == []


def test_flipped_bits_of_headers(written: Written) -> None:
    """Every bit of a segment's header, and of its first record's: the oldest segment, and the one written to last."""
    path = min(written.files) if written.ending == "closed" else max(written.files)
    places = [*range(HEADER_BYTES), *range(COPY_AT, DATA_AT + RECORD_BYTES)]
    flips = [(path, byte * 8 + bit) for byte in places for bit in range(8)]
    assert list(flip_complaints(written, flips)) == []


def cut_complaints(written: Written, cuts: Iterable[tuple[Path, int]]) -> Iterator[str]:
    """Cut one file at a time to a length, and say what went wrong."""
    for path, length in cuts:
        replay = written.read(written.files | {path: written.files[path][:length]})
        if complaint := written.complaint(replay):
            yield f"{path.name} cut to {length} bytes: {complaint}"


def all_cuts(written: Written) -> list[tuple[Path, int]]:
    """Every length of every file."""
    return [(path, length) for path, data in written.files.items() for length in range(len(data))]


def test_cut_files(written: Written) -> None:
    """2,000 lengths evenly spread, and those where a record ends: a file that was cut is always noticed."""
    cuts = all_cuts(written)
    sample = cuts[:: len(cuts) // CUTS]
    for path, data in written.files.items():
        marker = data[DATA_AT : DATA_AT + 8]
        sample += [(path, at) for at in range(DATA_AT, len(data)) if data.startswith(marker, at)]
    assert len(sample) > CUTS
    assert list(cut_complaints(written, sample)) == []


@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="SAMVAD_SOAK=1 asks for it")
def test_every_bit_and_every_length_soak(written: Written) -> None:
    """Each of more than 500,000 bits flipped, each file cut to each length."""
    assert list(flip_complaints(written, all_bits(written))) == []
    assert list(cut_complaints(written, all_cuts(written))) == []


def test_a_damaged_payload_costs_one_entry(written: Written) -> None:
    """A wrong payload under a right header: exactly this entry is missing, and the report says so."""
    path = min(written.files)
    number, payload = next(
        (n, p) for n, p in written.live.items() if len(p) > 50 and p in written.files[path]
    )
    data = written.files[path].replace(payload, payload[:-1] + b"!")
    replay = written.read(written.files | {path: data})
    assert written.live.keys() - {entry.number for entry in replay.entries} == {number}
    assert [(damage.entries_lost_max, damage.torn) for damage in replay.damages] == [(1, False)]


def test_damage_is_set_aside_and_reported_once(written: Written) -> None:
    """A start copies what it does not believe, mends the segment, and the next start finds nothing wrong."""
    for bit in [5, (DATA_AT + 3) * 8, (DATA_AT + 77) * 8]:
        for path in written.files:
            data = bytearray(written.files[path])
            data[bit // 8] ^= 1 << bit % 8
            journal, disk, replay = reopened(written.directory, written.files | {path: bytes(data)})
            assert written.complaint(replay) is None
            for damage in replay.damages:
                assert damage.torn or (damage.kept is not None and damage.kept in disk.files)
                if damage.kept:
                    assert (
                        disk.files[damage.kept] == data[damage.offset : damage.offset + damage.length_bytes]
                    )
                    assert damage.file in disk.files[damage.kept.with_suffix(".txt")].decode()
            journal.close()
            assert disk.descriptors == 0
            again = reopened(written.directory, disk.files)[2]
            assert again == Replay(replay.entries, [])


def test_without_room_for_a_copy_nothing_is_removed(written: Written) -> None:
    """Where damage cannot be set aside, the segment stays as it is, and is reported again."""
    path = min(written.files)
    data = bytearray(written.files[path])
    data[DATA_AT + 40] ^= 1
    disk = MemoryDisk(written.files | {path: bytes(data)})
    disk.fail("make_directory")
    journal = segment_files(written.directory, disk, StillClock())
    replay = journal.open()
    assert replay.damages and replay.damages[0].kept is None
    assert disk.files[path] == bytes(data)
    journal.append([b"more"])
    assert written.read(disk.files).damages == replay.damages


def test_forged_records_are_not_believed(tmp_path: Path) -> None:
    """A payload that is a copy of the journal's own bytes is a payload, even where the record around it is damaged."""
    disk = MemoryDisk()
    journal = segment_files(tmp_path, disk, StillClock(), segment_bytes=64 * 1024)
    journal.open()
    journal.append([b"the first", b"the second"])
    [path] = disk.files
    stolen = disk.files[path][DATA_AT:].rstrip(b"\0")
    journal.append([stolen, b"the last"])
    data = bytearray(disk.files[path])
    data[data.index(stolen, DATA_AT + 1) - 1] ^= 1  # the header of the record that carries the forged ones
    replay = reopened(tmp_path, {path: bytes(data)})[2]
    assert [entry.payload for entry in replay.entries] == [b"the first", b"the second", b"the last"]
    assert replay.damages[0].entries_lost_max == 1


def test_a_segment_under_another_name_is_not_believed(tmp_path: Path) -> None:
    """A file that was renamed is damage as a whole: its records prove another position."""
    disk = MemoryDisk()
    journal = segment_files(tmp_path, disk, StillClock())
    journal.open()
    journal.append([b"one"])
    journal.close()
    [(path, data)] = disk.files.items()
    replay = reopened(tmp_path, {path.with_name("0000000000000007.journal"): data})[2]
    assert replay.entries == []
    assert replay.entries_lost_max >= 1


def test_a_torn_tail_is_cut_off_quietly(tmp_path: Path) -> None:
    """What a crash left of the last write is reported as torn, not copied, and counts as no damage."""
    disk = MemoryDisk()
    journal = segment_files(tmp_path, disk, StillClock())
    journal.open()
    journal.append([b"acknowledged"])
    [path] = disk.files
    end = len(disk.files[path].rstrip(b"\0"))
    journal.append([b"in flight, and longer than a sector" * 20])
    data = disk.files[path]
    data = data[: end + 40] + bytes(len(data) - end - 40)
    journal, disk, replay = reopened(tmp_path, {path: data})
    assert [entry.payload for entry in replay.entries] == [b"acknowledged"]
    assert [(damage.torn, damage.kept, damage.entries_lost_max) for damage in replay.damages] == [
        (True, None, 1)
    ]
    assert replay.entries_lost_max == 0
    assert journal.damaged == 0
    assert not [name for name in disk.files if "damaged" in str(name)]
