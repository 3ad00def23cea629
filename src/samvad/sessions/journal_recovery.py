"""Reading a journal's directory at the start: what is still to be done, and what is damaged.

Nothing is changed here. Segments are read from the newest to the oldest, because the newest says what was
forgotten in all of them, and where the one ahead of it ends.
"""

from __future__ import annotations

import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from samvad.errors import SetupError
from samvad.sessions.journal_disk import Disk
from samvad.sessions.journal_records import (
    COPY_AT,
    DATA_AT,
    ENTRY,
    FORGET,
    HEADER_BYTES,
    RECORD_BYTES,
    Gap,
    Header,
    NewerFormat,
    Record,
    Run,
    Scan,
    read_header,
    runs_from_bytes,
    scan,
)
from samvad.sessions.journal_segments import SUFFIX, Segment, segment_path


class Entry(NamedTuple):
    """One entry that is not forgotten yet. The store knows it as (`replica`, `number`)."""

    number: int
    payload: bytes
    replica: str


class Damage(NamedTuple):
    """Bytes of a segment that could not be believed.

    `entries_lost_max` bounds the entries lost that were not forgotten before. `torn` says that a crash in the
    middle of a write explains it: then none of them was acknowledged, unless the disk failed as well. `kept`
    is the copy that was set aside (None for a torn tail, and where no copy could be made).
    """

    file: str
    offset: int
    length_bytes: int
    entries_lost_max: int
    torn: bool
    kept: Path | None = None


class Replay(NamedTuple):
    """What was found at the start: entries in the order of their numbers, and what was damaged."""

    entries: list[Entry]
    damages: list[Damage]

    @property
    def entries_lost_max(self) -> int:
        """How many acknowledged entries may be gone; 0 also where a crash has torn what was never acknowledged."""
        return sum(each.entries_lost_max for each in self.damages if not each.torn)


class Runs:
    """Numbers as ordered runs that do not touch."""

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, count in sorted(runs):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], start + count)
            else:
                self._starts.append(start)
                self._ends.append(start + count)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    def __iter__(self) -> Iterator[Run]:
        return ((start, end - start) for start, end in zip(self._starts, self._ends, strict=True))

    def count(self, low: int, high: int) -> int:
        """How many numbers from `low` up to but not including `high` are in the runs."""
        at = max(bisect_right(self._starts, low) - 1, 0)
        total = 0
        while at < len(self._starts) and self._starts[at] < high:
            total += max(min(high, self._ends[at]) - max(low, self._starts[at]), 0)
            at += 1
        return total


class Found(NamedTuple):
    """A segment file as it was found. `segment` is None where its header is gone and nothing of it can be read."""

    number: int
    header: Header | None
    segment: Segment | None
    damages: list[Damage]
    whole: bool  # sealed and undamaged: it can stay as it is


class Directory(NamedTuple):
    """All that was found."""

    found: list[Found]  # by segment number
    superseded: list[int]  # segments whose entries stand in a compacted one as well
    entries: list[Entry]
    forgotten: Runs
    next: int  # above every number that any segment can hold
    next_segment: int


def segment_numbers(disk: Disk, directory: Path) -> list[int]:
    """The segments in a directory, in order."""
    names = [name.removesuffix(SUFFIX) for name in disk.names(directory) if name.endswith(SUFFIX)]
    return sorted(int(name) for name in names if name.isdecimal() and len(name) == 16)


def read_directory(
    disk: Disk, directory: Path, *, segment_bytes: int, decode: Callable[[bytes], bytes]
) -> Directory:
    """Read every segment. OSError if a file cannot be read; SetupError if a newer version wrote it."""
    numbers = segment_numbers(disk, directory)
    headers = {number: _header(disk, directory, number) for number in numbers}
    superseded = [
        number
        for number in numbers
        if any(h and h.covers_from and h.covers_from <= number < h.segment for h, _ in headers.values())
    ]
    numbers = [number for number in numbers if number not in superseded]
    reader = _Reader(disk, directory, segment_bytes, decode)
    found: list[Found] = []
    following: Header | None = None
    for number in reversed(numbers):
        header, bad_copies = headers[number]
        last = number == numbers[-1]
        found.append(reader.read(number, header, bad_copies, following, last=last))
        following = header
    entries = {entry.number: entry for entry in reversed(reader.entries)}
    return Directory(
        found[::-1],
        superseded,
        [entries[number] for number in sorted(entries)],
        Runs(reader.forgotten),
        reader.next,
        max([*numbers, *superseded], default=0) + 1,
    )


def _header(disk: Disk, directory: Path, number: int) -> tuple[Header | None, list[int]]:
    path = segment_path(directory, number)
    try:
        header, bad_copies = read_header(disk.read(path, DATA_AT))
    except NewerFormat as error:
        raise SetupError(
            f"The journal {path} was written by a newer Samvad ({error}); update this one."
        ) from None
    if header is not None and header.segment != number:
        return None, [0, COPY_AT]  # renamed by somebody: its records prove another position
    return header, bad_copies


class _Reader:
    """Gathers what the segments hold, newest first."""

    def __init__(
        self, disk: Disk, directory: Path, segment_bytes: int, decode: Callable[[bytes], bytes]
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._decode = decode
        self.entries: list[Entry] = []
        self.forgotten: list[Run] = []
        self.next = 1

    def read(
        self,
        number: int,
        header: Header | None,
        bad_copies: list[int],
        following: Header | None,
        *,
        last: bool,
    ) -> Found:
        path = segment_path(self._directory, number)
        data = self._disk.read(path)
        if header is None:
            lost_max = max(len(data), self._segment_bytes) // RECORD_BYTES
            return Found(number, None, None, [Damage(path.name, 0, len(data), lost_max, False)], False)
        ends_at = None
        if following is not None and following.abandoned == number and not header.compacted:
            ends_at = following.abandoned_end  # compacted, it has been written anew since
        above = None if last else (following.first if following else self.next)
        result = scan(data, header, end=ends_at, following=above)
        self.next = max(self.next, result.next)
        self.forgotten += [
            run for each in result.records if each.kind == FORGET for run in runs_from_bytes(each.payload)
        ]
        forgotten = Runs(self.forgotten)
        damages = [Damage(path.name, at, HEADER_BYTES, 0, False) for at in bad_copies]
        damages += [self._damage(path.name, gap, forgotten) for gap in result.gaps]
        segment = Segment(number, header.first, result.end, header.replica)
        damages += self._take(path.name, header, segment, result, forgotten)
        return Found(number, header, segment, damages, result.whole and not damages)

    def _damage(self, name: str, gap: Gap, forgotten: Runs) -> Damage:
        lost_max = gap.lost_max
        if gap.numbers is not None:
            lost_max = min(lost_max, gap.numbers[1] - gap.numbers[0] - forgotten.count(*gap.numbers))
        return Damage(name, gap.offset, gap.end - gap.offset, lost_max, gap.torn)

    def _take(
        self, name: str, header: Header, segment: Segment, result: Scan, forgotten: Runs
    ) -> list[Damage]:
        """Add the entries of a segment, in falling order like the segments; those that cannot be decoded are damage."""
        replica = str(uuid.UUID(bytes=header.replica))
        damages: list[Damage] = []
        taken: list[Entry] = []
        for each in result.records:
            if each.kind != ENTRY:
                continue
            segment.add(each.number, len(each.payload))
            if each.number in forgotten:
                segment.forget(each.number)
                continue
            try:
                payload = self._decode(each.payload)
            except ValueError:
                damages.append(Damage(name, each.offset, each.end - each.offset, 1, False))
                segment.forget(each.number)
                continue
            taken.append(Entry(each.number, payload, replica))
        self.entries += reversed(taken)
        return damages


class Unreadable(OSError):
    """A segment does not hold what was written into it."""


def live_records(disk: Disk, directory: Path, old: list[Segment]) -> tuple[list[Header], list[Record], int]:
    """The headers and live entries of segments as the disk has them, and a number above all ever in them.

    Unreadable where an entry is missing.
    """
    headers: list[Header] = []
    records: list[Record] = []
    above = 0
    for segment in old:
        data = disk.read(segment_path(directory, segment.number))
        header, _ = read_header(data)
        if header is None:
            raise Unreadable(f"segment {segment.number} has no header any more")
        result = scan(data, header, end=segment.end, following=None)
        live = [each for each in result.records if each.kind == ENTRY and segment.is_live(each.number)]
        if len(live) != segment.live:
            raise Unreadable(f"segment {segment.number} has {len(live)} of {segment.live} entries")
        headers.append(header)
        records += live
        above = max(above, result.next)
    return headers, records, above
