"""The journal's files: the segment that is written to, and the older ones that are deleted or compacted.

Everything here blocks and belongs to the journal's one thread. An OSError of `append` means that these
entries were not acknowledged; whether they are on the disk is not known.

After a failed write or sync a file is never trusted again: the kernel may have dropped the pages and called
them clean, so that a second sync would report what is not true (https://lwn.net/Articles/752063/). The next
entries go to a new segment, which says where the acknowledged part of the abandoned one ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from samvad.clock import Clock
from samvad.sessions.journal_disk import Disk
from samvad.sessions.journal_place import place
from samvad.sessions.journal_records import (
    DATA_AT,
    ENTRY,
    FORGET,
    RECORD_BYTES,
    SEAL,
    SYNCED,
    Header,
    Run,
    record,
    runs_of,
    runs_to_bytes,
)
from samvad.sessions.journal_recovery import (
    Damage,
    Directory,
    Found,
    Replay,
    Unreadable,
    live_records,
    read_directory,
)
from samvad.sessions.journal_segments import PROVISIONAL, Ledger, Segment, segment_path, worth_compacting

_DAMAGED: Final = "damaged"
_TIDY_AGAIN_S: Final = 1.0
_NUMBERS_PER_MS: Final = 1024  # a start begins at its wall clock, so that a restored backup does not go back

_log = logging.getLogger(__name__)


class SegmentFiles:
    """A directory of segments. `compact_after_s`: how long a segment must have been full before it is compacted."""

    def __init__(
        self,
        directory: Path,
        *,
        disk: Disk,
        clock: Clock,
        bytes_max: int,
        segment_bytes: int,
        compact_after_s: float,
        decode: Callable[[bytes], bytes],
    ) -> None:
        self._directory = directory
        self._disk = disk
        self._clock = clock
        self._bytes_max = bytes_max
        self._segment_bytes = segment_bytes
        self._compact_after_s = compact_after_s
        self._decode = decode
        self.ledger = Ledger()
        self.replica = ""
        self.damaged = 0
        self.syncs = 0
        self.sync_s_last = 0.0
        self.sync_s_sum = 0.0
        self._place = b""
        self._next = 1
        self._next_segment = 1
        self._descriptor: int | None = None  # of the segment that is written to, the ledger's last
        self._header: Header | None = None
        self._synced_end = 0
        self._unlogged: list[int] = []  # forgotten, but not yet written down
        self._superseded: list[
            int
        ] = []  # segments still to be removed: their entries stand in another as well
        self._renamed = False  # the name of a compacted segment is not synced yet
        self._tidy_at_s = float("-inf")

    # --- start and end ---------------------------------------------------------------------------------

    def open(self) -> Replay:
        """Read what is there, mend it, and begin a new segment."""
        for name in self._disk.names(self._directory):
            if name.endswith(PROVISIONAL):
                self._disk.remove(self._directory / name)
        read = read_directory(
            self._disk, self._directory, segment_bytes=self._segment_bytes, decode=self._decode
        )
        self._remove(read.superseded)
        self._next = max(read.next, self._clock.now_ms() * _NUMBERS_PER_MS)
        self._next_segment = read.next_segment
        self._choose_replica(read.found)
        damages = self._mend(read)
        self._begin_segment(0)
        self._delete_forgotten()
        self.damaged = sum(not each.torn for each in damages)
        return Replay(read.entries, damages)

    def close(self) -> None:
        """Write down what was forgotten, and seal. The files are closed even where that fails (OSError)."""
        try:
            if self._descriptor is None:
                self._begin_segment(0)  # it says what was forgotten, and where the abandoned one ends
            self.write_forgotten()
            self._seal()
        finally:
            self._drop_descriptor()

    def _choose_replica(self, found: list[Found]) -> None:
        """Keep the name while the directory is where it was; a copy needs one of its own.

        Two journals of one name would use the same numbers, and the store would take one's entries for
        repetitions of the other's and skip them.
        """
        self._place = place(self._directory)
        newest = found[-1].header if found else None
        kept = newest is not None and newest.place == self._place
        replica = newest.replica if newest is not None and kept else uuid.uuid4().bytes
        self.replica = str(uuid.UUID(bytes=replica))

    def _mend(self, read: Directory) -> list[Damage]:
        """Set damaged bytes aside, then write anew what is live in segments that are not sealed and whole."""
        damages: list[Damage] = []
        for each in read.found:
            kept = [self._set_aside(damage) for damage in each.damages]
            damages += kept
            aside = all(after.kept or after.torn or not after.length_bytes for after in kept)
            newest = each is read.found[-1]
            if each.segment is None:
                if aside:
                    self._remove([each.number])
                continue
            segment = each.segment
            segment.closed_s = self._clock.monotonic_s()
            segment.unsealed = not each.whole
            if not aside:
                segment.unreadable = True
                if not segment.live:
                    continue  # left as it is, and reported again at the next start
            elif segment.unsealed and not segment.live:
                segment.end = (
                    DATA_AT  # nothing of it is needed; should it come back, nothing in it is damaged
                )
            self.ledger.add_segment(segment)
            if aside and segment.live and not each.whole:
                # What the newest one says of the others goes along: the next segment is not there yet.
                others = self.ledger.segments[:-1] if newest else []
                self._compact([segment], [run for other in others for run in other.forgotten_runs()])
        return damages

    def _set_aside(self, damage: Damage) -> Damage:
        """Copy the bytes to `damaged/`, with a note; None is kept of a torn tail."""
        if damage.torn or not damage.length_bytes:
            return damage
        folder = self._directory / _DAMAGED
        copy = folder / f"{damage.file.split('.')[0]}-{damage.offset}.bytes"
        data = self._disk.read(self._directory / damage.file)
        note = (
            f"{damage.length_bytes} bytes of {damage.file} from byte {damage.offset} could not be believed.\n"
            f"They may have held up to {damage.entries_lost_max} acknowledged entries of the journal.\n"
        )
        try:
            self._disk.make_directory(folder)
            self._write_file(copy, data[damage.offset : damage.offset + damage.length_bytes])
            self._write_file(copy.with_suffix(".txt"), note.encode())
            self._disk.sync_directory(folder)
            self._disk.sync_directory(self._directory)
        except OSError as error:
            _log.warning("cannot set aside damaged bytes of %s: %s", damage.file, error)
            return damage
        return damage._replace(kept=copy)

    # --- writing ---------------------------------------------------------------------------------------

    @property
    def _active(self) -> Segment:
        return self.ledger.segments[-1]

    def append(self, payloads: Sequence[bytes]) -> int:
        """Write entries with one write and one sync; the number of the first. On OSError none is acknowledged."""
        size = sum(map(len, payloads)) + RECORD_BYTES * len(payloads)
        self._make_room(size)
        first = self._next
        records = [(ENTRY, first + index, payload) for index, payload in enumerate(payloads)]
        self._next += len(payloads)  # used up even if this fails: they may be on the disk
        self._write(self._forget_records() + records, sync=True)
        self._unlogged = []
        for index, payload in enumerate(payloads):
            self.ledger.add_entry(first + index, len(payload))
        return first

    def forget(self, numbers: Iterable[int]) -> None:
        """These entries are not needed any more. It is written down with the next entries."""
        self._unlogged += [number for number in numbers if self.ledger.forget(number)]

    def write_forgotten(self) -> None:
        """Write down what was forgotten, without a sync: to lose it costs no more than a few repetitions."""
        if self._unlogged:
            self._make_room(0)
            self._write(self._forget_records(), sync=False)
            self._unlogged = []

    def _forget_records(self) -> list[tuple[int, int, bytes]]:
        if not self._unlogged:
            return []
        return [(FORGET, 0, runs_to_bytes(runs_of(self._unlogged)))]

    def _make_room(self, size: int) -> None:
        """See that there is a segment with room for this much, what is to be forgotten, and a seal."""
        if self._descriptor is not None and self._header is not None:
            forget = runs_to_bytes(runs_of(self._unlogged))
            needed = size + RECORD_BYTES + len(forget) + RECORD_BYTES
            if self._active.end + needed <= self._header.capacity:
                return
            self._seal()
        self._begin_segment(size)

    def _write(self, records: list[tuple[int, int, bytes]], *, sync: bool) -> None:
        header, descriptor, active = self._header, self._descriptor, self._active
        assert header is not None and descriptor is not None
        offset = active.end
        flags = SYNCED if self._synced_end == offset else 0
        parts = []
        for kind, number, payload in records:
            parts.append(record(header, offset, kind, flags, number, payload))
            offset += len(parts[-1])
            flags = 0
        try:
            self._disk.write(descriptor, b"".join(parts), active.end)
            if sync:
                self._sync(descriptor)
        except BaseException:
            self._abandon()
            raise
        active.end = offset
        if sync:
            self._synced_end = offset

    def _sync(self, descriptor: int) -> None:
        began_s = self._clock.monotonic_s()
        self._disk.sync(descriptor)
        self.sync_s_last = self._clock.monotonic_s() - began_s
        self.sync_s_sum += self.sync_s_last
        self.syncs += 1

    def _abandon(self) -> None:
        """Write no more to this segment; only what was synced before counts."""
        self._active.end = self._synced_end
        self._active.unsealed = True
        self._active.closed_s = self._clock.monotonic_s()
        self._drop_descriptor()

    def _drop_descriptor(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                self._disk.close(self._descriptor)
            self._descriptor = None

    def _seal(self) -> None:
        """End the segment. Cutting off what it did not need comes last: a file both short and unsealed was damaged."""
        self._write([(SEAL, self._next, b"")], sync=True)
        assert self._descriptor is not None
        with contextlib.suppress(OSError):
            self._disk.truncate(self._descriptor, self._active.end)
        self._active.closed_s = self._clock.monotonic_s()
        self._drop_descriptor()

    def _begin_segment(self, size: int) -> None:
        """Make the next segment, durable with its name before the first entry; it repeats what is forgotten so far."""
        ahead = self.ledger.segments[-1] if self.ledger.segments else None
        forgotten = runs_to_bytes(run for each in self.ledger for run in each.forgotten_runs())
        length = DATA_AT + (RECORD_BYTES + len(forgotten) if forgotten else 0)
        header = Header(
            segment=self._next_segment,
            first=self._next,
            capacity=max(self._segment_bytes, length + size + 2 * RECORD_BYTES),
            marker=os.urandom(8),
            replica=uuid.UUID(self.replica).bytes,
            place=self._place,
            abandoned=ahead.number if ahead and ahead.unsealed else 0,
            abandoned_end=ahead.end if ahead and ahead.unsealed else 0,
        )
        data = header.to_bytes()
        if forgotten:
            data += record(header, DATA_AT, FORGET, SYNCED, 0, forgotten)
        path = segment_path(self._directory, header.segment)
        self._descriptor = self._write_file(path, data, header.capacity)
        self._next_segment += 1
        self._header = header
        self._synced_end = length
        self._unlogged = []
        self.ledger.add_segment(Segment(header.segment, header.first, length, header.replica))

    def _write_file(
        self, path: Path, data: bytes, keep_open_at_bytes: int | None = None, *, sync_name: bool = True
    ) -> int:
        """Make a file that is there with all of `data` or not at all; its descriptor, if it is to stay open."""
        provisional = path.with_name(path.name + PROVISIONAL)
        descriptor = self._disk.create(provisional)
        try:
            if keep_open_at_bytes is not None:
                self._disk.allocate(descriptor, keep_open_at_bytes)
            self._disk.write(descriptor, data, 0)
            self._sync(descriptor)
            self._disk.rename(provisional, path)
            if sync_name:
                self._disk.sync_directory(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                self._disk.close(descriptor)
            with contextlib.suppress(OSError):
                self._disk.remove(provisional)
            raise
        if keep_open_at_bytes is None:
            self._disk.close(descriptor)
        return descriptor

    # --- keeping it small ------------------------------------------------------------------------------

    @property
    def disk_bytes(self) -> int:
        """The bytes of all segments, up to the last record of each."""
        return sum(each.end for each in self.ledger)

    def tidy(self) -> None:
        """Delete segments without live entries, and compact at most one run of sparse ones. Looks once a second."""
        now_s = self._clock.monotonic_s()
        if len(self.ledger) < 2 or self._descriptor is None:
            return
        if now_s < self._tidy_at_s and not self.ledger.emptied:
            return
        self._tidy_at_s = now_s + _TIDY_AGAIN_S
        self.ledger.emptied = False
        try:
            self._compact_abandoned()
            self._delete_forgotten()
            age_s = 0.0 if self.disk_bytes > self._bytes_max else self._compact_after_s
            if run := worth_compacting(self.ledger, now_s - age_s, self._segment_bytes):
                self._compact(run)
        except OSError as error:
            _log.warning("the journal in %s cannot be compacted: %s", self._directory, error)

    def settle(self) -> None:
        """Write down what was forgotten, and tidy up now."""
        self.write_forgotten()
        self._tidy_at_s = float("-inf")
        self.tidy()

    def scrub(self) -> None:
        """Leave no bytes of forgotten entries in any segment."""
        if self._descriptor is not None and self._active.dead:
            self._seal()
        if self._descriptor is None:
            self._begin_segment(0)
        self._compact_abandoned()
        self._delete_forgotten()
        for segment in self.ledger.segments[:-1]:
            if segment.dead:
                self._compact([segment])

    # An abandoned segment goes before the one behind it, which alone says where it ends.

    def _compact_abandoned(self) -> None:
        for segment in self.ledger.segments[:-1]:
            if segment.unsealed and segment.live and not segment.unreadable:
                self._compact([segment])

    def _delete_forgotten(self) -> None:
        self._remove_superseded()
        gone = [each for each in self.ledger.segments[:-1] if not each.live]
        abandoned = [each for each in gone if each.unsealed]
        for segment in abandoned:
            self._remove([segment.number])
        self._remove([each.number for each in gone if not each.unsealed])
        for segment in gone:
            self.ledger.replace([segment], None)

    def _remove_superseded(self) -> None:
        """Before the segment that replaces them is changed or deleted: it alone says that they do not count."""
        if self._renamed:
            self._disk.sync_directory(self._directory)
            self._renamed = False
        self._remove(self._superseded)
        self._superseded = []

    def _remove(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            with contextlib.suppress(FileNotFoundError):
                self._disk.remove(segment_path(self._directory, number))
        if numbers:
            self._disk.sync_directory(self._directory)

    def _compact(self, old: list[Segment], forgotten: Iterable[Run] = ()) -> None:
        """Write the live entries of neighbours into one file under the last one's name, then remove the others."""
        self._remove_superseded()
        try:
            headers, records, above = live_records(self._disk, self._directory, old)
        except Unreadable:
            for segment in old:
                segment.unreadable = True
            self.damaged += 1
            _log.exception("the journal in %s is damaged; it is reported at the next start", self._directory)
            return
        runs = runs_to_bytes(forgotten)
        length = DATA_AT + sum(RECORD_BYTES + len(each.payload) for each in records)
        header = Header(
            segment=old[-1].number,
            first=records[0].number,
            capacity=length + (RECORD_BYTES + len(runs) if runs else 0),
            marker=os.urandom(8),
            replica=old[-1].replica,
            place=self._place,
            compacted=True,
            next=above,
            entries=len(records),
            covers_from=old[0].number if len(old) > 1 else 0,
            abandoned=headers[0].abandoned,
            abandoned_end=headers[0].abandoned_end,
        )
        new = Segment(header.segment, header.first, header.capacity, header.replica)
        new.closed_s = old[-1].closed_s
        parts = [header.to_bytes()]
        offset = DATA_AT
        for each in records:
            parts.append(record(header, offset, ENTRY, SYNCED, each.number, each.payload))
            offset += len(parts[-1])
            new.add(each.number, len(each.payload))
        if runs:
            parts.append(record(header, offset, FORGET, SYNCED, 0, runs))
        self._write_file(segment_path(self._directory, header.segment), b"".join(parts), sync_name=False)
        self.ledger.replace(old, new)  # from here on it is this file that a start would find
        self._renamed = True
        self._superseded = [each.number for each in old[:-1]]
        self._remove_superseded()
