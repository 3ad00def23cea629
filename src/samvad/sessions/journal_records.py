"""The journal's format on disk: segments of records, each of which proves that it belongs where it stands.

A segment is a file. Its header (120 bytes) stands at 0 and again at 4096, so that one bad sector does not
take the segment; records follow from byte 4216. All integers are big-endian.

    header   magic 8 | version u16 | flags u16 | segment u64 | first u64 | next u64 | entries u64 | capacity u64
             | marker 8 | replica 16 | place 16 | covers_from u64 | abandoned u64 | abandoned_end u64 | crc u32
    record   marker 8 | length u32 | kind u8 | flags u8 | 0 u16 | number u64 | payload crc u32 | crc u32 | payload

A segment that is written to has its full `capacity` from the start and reads as zeros behind the last record:
a file that is shorter, and not sealed, was cut. The numbers of its entries follow one another from `first`. A
seal ends it, when it is full or the journal is closed. A compacted segment (flag) was written at once: its
numbers have gaps, so the header counts its entries, and its capacity is its exact size.

`marker` is random, anew for each file, and a record's `crc` covers its own position (segment, offset) beside
the header fields and the payload's crc. So a record that was moved, left over from another file, or written
by somebody into a message is not believed. Where a record is damaged, reading goes on at the next marker with
a right `crc`. A length is only believed under a right `crc`; so a damaged payload costs one entry, of known
number, and nothing behind it.

CRC-32 finds every flipped bit and every burst of up to 32 (zlib's polynomial, IEEE 802.3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple
from zlib import crc32

VERSION: Final = 1
COPY_AT: Final = 4096  # where the header's second copy stands
SYNCED: Final = 1  # flag of a record: all in front of it was synced before it was written

ENTRY: Final = 1
FORGET: Final = 2  # payload: runs of numbers, (start u64, count u32) each
SEAL: Final = 3  # `number` is the next one; nothing follows

_MAGIC: Final = b"SamvadJ\n"
_COMPACTED: Final = 1
_HEADER: Final = struct.Struct(">8sHHQQQQQ8s16s16sQQQ")
_RECORD: Final = struct.Struct(">8sIBBHQI")
_POSITION: Final = struct.Struct(">QQ")
_RUN: Final = struct.Struct(">QI")
_CRC_BYTES: Final = 4

HEADER_BYTES: Final = _HEADER.size + _CRC_BYTES
RECORD_BYTES: Final = _RECORD.size + _CRC_BYTES  # without its payload
DATA_AT: Final = COPY_AT + HEADER_BYTES

Run = tuple[int, int]  # the first number, and how many follow one another


class NewerFormat(ValueError):
    """The segment was written by a newer version."""


class Header(NamedTuple):
    """What a segment says of itself."""

    segment: int
    first: int  # the lowest number that an entry may have
    capacity: int  # bytes that the file must have
    marker: bytes
    replica: bytes
    place: bytes  # where the journal was then, see journal_place
    compacted: bool = False
    next: int = 0  # compacted: above its highest number
    entries: int = 0  # compacted: how many there are
    covers_from: int = 0  # compacted: it replaces the segments from here to its own number; 0 is none
    abandoned: int = 0  # the segment ahead of this one, if it was not sealed; 0 is none
    abandoned_end: int = 0  # and where the acknowledged part of it ends

    def to_bytes(self) -> bytes:
        """Both copies with what lies between them: the first 4216 bytes of the file."""
        fields = _HEADER.pack(
            _MAGIC,
            VERSION,
            _COMPACTED if self.compacted else 0,
            self.segment,
            self.first,
            self.next,
            self.entries,
            self.capacity,
            self.marker,
            self.replica,
            self.place,
            self.covers_from,
            self.abandoned,
            self.abandoned_end,
        )
        copy = fields + crc32(fields).to_bytes(_CRC_BYTES, "big")
        return copy.ljust(COPY_AT, b"\0") + copy


def _header_at(data: bytes, offset: int) -> Header | None:
    copy = data[offset : offset + HEADER_BYTES]
    if len(copy) < HEADER_BYTES or copy[:8] != _MAGIC:
        return None
    if crc32(copy[:-_CRC_BYTES]) != int.from_bytes(copy[-_CRC_BYTES:], "big"):
        return None
    fields = _HEADER.unpack(copy[:-_CRC_BYTES])
    _, version, flags, segment, first, next_number, entries, capacity, marker, replica, place = fields[:11]
    if version > VERSION:
        raise NewerFormat(f"format {version}")
    return Header(
        segment,
        first,
        capacity,
        marker,
        replica,
        place,
        bool(flags & _COMPACTED),
        next_number,
        entries,
        *fields[11:],
    )


def read_header(data: bytes) -> tuple[Header | None, list[int]]:
    """The header of a segment, and at which offsets a copy of it is damaged. NewerFormat if it cannot be read here."""
    copies = {offset: _header_at(data, offset) for offset in (0, COPY_AT)}
    good = [copy for copy in copies.values() if copy is not None]
    return (good[0] if good else None), [offset for offset, copy in copies.items() if copy is None]


def record(header: Header, offset: int, kind: int, flags: int, number: int, payload: bytes) -> bytes:
    """A record as it stands at `offset` of the segment, and nowhere else."""
    fields = _RECORD.pack(header.marker, len(payload), kind, flags, 0, number, crc32(payload))
    crc = crc32(fields, crc32(_POSITION.pack(header.segment, offset)))
    return fields + crc.to_bytes(_CRC_BYTES, "big") + payload


def runs_of(numbers: Iterable[int]) -> list[Run]:
    """Numbers as runs, in order."""
    runs: list[Run] = []
    for number in sorted(numbers):
        if runs and number <= sum(runs[-1]):
            start, count = runs[-1]
            runs[-1] = (start, max(count, number - start + 1))
        else:
            runs.append((number, 1))
    return runs


def runs_to_bytes(runs: Iterable[Run]) -> bytes:
    """The payload of a FORGET record."""
    return b"".join(_RUN.pack(start, count) for start, count in runs)


def runs_from_bytes(payload: bytes) -> list[Run]:
    """The runs of a FORGET record."""
    return list(_RUN.iter_unpack(payload))


class Record(NamedTuple):
    """A record that was read and believed."""

    offset: int
    kind: int
    flags: int
    number: int
    payload: bytes

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + RECORD_BYTES + len(self.payload)


class Gap(NamedTuple):
    """Bytes that are no record and not unused either."""

    offset: int
    end: int
    lost_max: int  # entries, at the most
    numbers: tuple[int, int] | None  # these numbers may be among the lost: from, and up to but not including
    torn: bool  # nothing behind it was acknowledged: a crash in the middle of a write explains it


class Scan(NamedTuple):
    """All that a segment holds."""

    records: list[Record]
    gaps: list[Gap]
    whole: bool  # sealed, or compacted and of full length
    end: int  # behind the last record
    next: int  # above every number that the segment can hold


def _record_at(data: bytes, offset: int, header: Header) -> tuple[Record, bool] | None:
    """The record that stands at `offset`, and whether its payload is right; None if no header is to be believed."""
    payload_at = offset + RECORD_BYTES
    if payload_at > len(data):
        return None
    fields = data[offset : payload_at - _CRC_BYTES]
    marker, length, kind, flags, _, number, payload_crc = _RECORD.unpack(fields)
    if marker != header.marker:
        return None
    crc = int.from_bytes(data[payload_at - _CRC_BYTES : payload_at], "big")
    if crc != crc32(fields, crc32(_POSITION.pack(header.segment, offset))):
        return None
    payload = data[payload_at : payload_at + length]
    good = len(payload) == length and crc32(payload) == payload_crc
    return Record(offset, kind, flags, number, payload), good


def _next_record(data: bytes, after: int, header: Header) -> int | None:
    """Where reading can go on: the first offset behind `after` at which a record's header is to be believed."""
    while (at := data.find(header.marker, after + 1)) >= 0:
        if _record_at(data, at, header) is not None:
            return at
        after = at
    return None


def scan(data: bytes, header: Header, *, end: int | None, following: int | None) -> Scan:
    """Read a segment's records, and tell what cannot be.

    `end` is where a later segment says that this one ends (it was abandoned there), and `following` the
    lowest number of the segment behind it; None for the last one, in which a crash may have torn a write.
    """
    if end is not None:
        data = data[:end]
    used = len(data.rstrip(b"\0"))  # may cut into a payload that ends in zeros; never more than one record
    records: list[Record] = []
    holes: list[tuple[int, int, int | None, int]] = []  # offset, end, the number if known, records in front
    offset = DATA_AT
    sealed = False
    while offset < used and not sealed:
        found = _record_at(data, offset, header)
        if found is None:
            resume = _next_record(data, offset, header)
            hole_end = used if resume is None else resume
            holes.append((offset, max(hole_end, offset + 1), None, len(records)))
            offset = holes[-1][1]
            continue
        each, good = found
        stated_end = offset + RECORD_BYTES + int.from_bytes(data[offset + 8 : offset + 12], "big")
        if good:
            records.append(each)
            sealed = each.kind == SEAL
        else:
            lost = each.number if each.kind == ENTRY else -1
            holes.append((offset, min(stated_end, len(data)), lost, len(records)))
        offset = stated_end
    full = len(data) >= (header.capacity if end is None else end)
    whole = sealed or (header.compacted and full)
    if not sealed and not full:
        holes.append((len(data), len(data), None, len(records)))
    gaps = _gaps(header, records, holes, following, whole=whole, last=following is None and full)
    highest = _above(header, records, sealed=sealed)
    return Scan(records, gaps, whole, min(offset, len(data)), highest)


def _above(header: Header, records: list[Record], *, sealed: bool) -> int:
    if header.compacted:
        return header.next
    if sealed:
        return records[-1].number
    return header.first + header.capacity // RECORD_BYTES + 1  # no more would fit


def _gaps(
    header: Header,
    records: list[Record],
    holes: list[tuple[int, int, int | None, int]],
    following: int | None,
    *,
    whole: bool,
    last: bool,
) -> list[Gap]:
    """How many entries each hole can have held, and whether a crash explains it."""
    entries = sum(each.kind == ENTRY for each in records)
    gaps = []
    for offset, end, number, position in holes:
        cut = offset == end
        numbers: tuple[int, int] | None = None
        lost_max = ((header.capacity - offset) if cut else (end - offset)) // RECORD_BYTES + 1
        if number is not None:
            numbers = (number, number + 1) if number >= 0 else (0, 0)
        elif not header.compacted:
            below = [each.number for each in records[:position] if each.kind == ENTRY]
            above = [each.number for each in records[position:] if each.kind in {ENTRY, SEAL}]
            low = below[-1] + 1 if below else header.first
            high = above[0] if above else following
            if high is not None:
                numbers = (low, max(low, high))
        else:
            lost_max = min(lost_max, max(header.entries - entries, 0))
        if numbers is not None:
            lost_max = min(lost_max, numbers[1] - numbers[0])
        synced_later = any(each.flags & SYNCED for each in records[position:])
        gaps.append(Gap(offset, end, lost_max, numbers, last and not whole and not cut and not synced_later))
    return gaps
