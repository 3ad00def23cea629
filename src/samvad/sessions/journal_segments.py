"""What a running journal knows of its segments: which entries each holds, and which of them are forgotten.

Some 13 bytes of memory an entry (5 while numbers follow one another), never the payloads.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from samvad.sessions.journal_records import DATA_AT, RECORD_BYTES, Run, runs_of

SUFFIX: Final = ".journal"
PROVISIONAL: Final = ".new"  # being written; what is found of it at the next start is removed


def segment_path(directory: Path, segment: int) -> Path:
    """The file of a segment."""
    return directory / f"{segment:016d}{SUFFIX}"


class Segment:
    """The entries of one file. `live` counts those not forgotten; `end` is where its last record ends (bytes)."""

    def __init__(self, number: int, first: int, end: int, replica: bytes) -> None:
        self.number = number
        self.first = first
        self.end = end
        self.replica = replica
        self.live = 0
        self.live_bytes = 0
        self.closed_s: float | None = None  # when it got its last record; None while it is written to
        self.unsealed = False  # a write failed; what is behind `end` was never acknowledged
        self.unreadable = False  # compacting it found damage; it stays until its entries are forgotten
        self._numbers: array[int] | None = None  # None while they follow one another from `first`
        self._sizes: array[int] = array("I")
        self._forgotten = bytearray()

    @property
    def sparse(self) -> bool:
        """Whether at least half of it is no longer needed."""
        return self.end - DATA_AT >= 2 * self.live_bytes

    @property
    def dead(self) -> int:
        """How many forgotten entries are still on the disk."""
        return len(self._sizes) - self.live

    def add(self, number: int, size_bytes: int) -> None:
        """One more entry; its number is higher than those before it."""
        if self._numbers is None and number != self.first + len(self._sizes):
            self._numbers = array("Q", range(self.first, self.first + len(self._sizes)))
        if self._numbers is not None:
            self._numbers.append(number)
        self._sizes.append(size_bytes)
        self._forgotten.append(0)
        self.live += 1
        self.live_bytes += RECORD_BYTES + size_bytes

    def _index(self, number: int) -> int | None:
        index = number - self.first if self._numbers is None else bisect_left(self._numbers, number)
        if not 0 <= index < len(self._sizes):
            return None
        return index if self._numbers is None or self._numbers[index] == number else None

    def forget(self, number: int) -> int:
        """The bytes that are free now; 0 if the entry is not here or was forgotten before."""
        index = self._index(number)
        if index is None or self._forgotten[index]:
            return 0
        self._forgotten[index] = 1
        size_bytes = RECORD_BYTES + self._sizes[index]
        self.live -= 1
        self.live_bytes -= size_bytes
        return size_bytes

    def is_live(self, number: int) -> bool:
        """Whether the entry is here and not forgotten."""
        index = self._index(number)
        return index is not None and not self._forgotten[index]

    def _all_numbers(self) -> Iterable[int]:
        return range(self.first, self.first + len(self._sizes)) if self._numbers is None else self._numbers

    def forgotten_runs(self) -> list[Run]:
        """The numbers that are forgotten but still on the disk."""
        return runs_of(n for n, gone in zip(self._all_numbers(), self._forgotten, strict=True) if gone)


class Ledger:
    """All segments in the order of their numbers, the one that is written to last."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.live = 0
        self.live_bytes = 0
        self.emptied = False  # since this was last set to False, a segment has lost its last live entry

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __len__(self) -> int:
        return len(self.segments)

    def add_segment(self, segment: Segment) -> None:
        """One more segment, behind the others."""
        self.segments.append(segment)
        self.live += segment.live
        self.live_bytes += segment.live_bytes

    def add_entry(self, number: int, size_bytes: int) -> None:
        """One more entry of the last segment."""
        self.segments[-1].add(number, size_bytes)
        self.live += 1
        self.live_bytes += RECORD_BYTES + size_bytes

    def forget(self, number: int) -> bool:
        """Whether this was news."""
        firsts = bisect_right(self.segments, number, key=lambda segment: segment.first)
        if not firsts:
            return False
        segment = self.segments[firsts - 1]
        freed = segment.forget(number)
        if not freed:
            return False
        self.live -= 1
        self.live_bytes -= freed
        self.emptied = self.emptied or not segment.live
        return True

    def replace(self, old: list[Segment], new: Segment | None) -> None:
        """Put one segment, or none, in the place of neighbours; what is live stays as it is."""
        at = self.segments.index(old[0])
        self.segments[at : at + len(old)] = [] if new is None else [new]


def worth_compacting(ledger: Ledger, closed_before_s: float, bytes_max: int) -> list[Segment]:
    """Neighbours that fit into one segment of `bytes_max`, and are sparse or at least four; or none.

    Segments closed later, and the one that is written to, are left alone: most are forgotten whole in a moment.
    """
    run: list[Segment] = []
    for segment in ledger.segments[:-1]:
        old = segment.closed_s is not None and segment.closed_s <= closed_before_s
        small = segment.sparse or segment.live_bytes * 4 <= bytes_max
        fits = sum(each.live_bytes for each in run) + segment.live_bytes <= bytes_max
        fits = fits and (not run or run[0].replica == segment.replica)
        if old and small and fits and not segment.unreadable:
            run.append(segment)
        elif _pays(run):
            break
        else:
            run = []
    return run if _pays(run) else []


def _pays(run: list[Segment]) -> bool:
    return len(run) >= 4 or any(segment.sparse for segment in run)
