"""Users' records in memory: 30 minutes since last use, a bound in bytes, least recently used first to go.

A lane that has something under way (a load, a commit) is never dropped: until the store has it, memory is
the only place where it can be read.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from samvad.clock import Clock
from samvad.records import UserKey


class Cached(Protocol):
    """What the cache asks of an entry."""

    size_bytes: int
    used_s: float

    @property
    def busy(self) -> bool:
        """Whether something is under way that only memory knows."""
        ...


_E = TypeVar("_E", bound=Cached)


class RecordCache(Generic[_E]):
    """Entries by user, bounded in time (`ttl_s` since last use) and in `bytes_max`."""

    def __init__(self, clock: Clock, *, ttl_s: float, bytes_max: int) -> None:
        self._monotonic_s = clock.monotonic_s
        self._ttl_s = ttl_s
        self._bytes_max = bytes_max
        self._entries: OrderedDict[UserKey, _E] = OrderedDict()
        self.bytes_held = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._entries.values())

    def get(self, key: UserKey) -> _E | None:
        """The entry, marked as used now; None if there is none or it has outlived its time."""
        entry = self._entries.get(key)
        if entry is None:
            self.misses += 1
            return None
        now_s = self._monotonic_s()
        if now_s - entry.used_s > self._ttl_s and not entry.busy:
            self._drop(key, entry)
            self.misses += 1
            return None
        entry.used_s = now_s
        self._entries.move_to_end(key)
        self.hits += 1
        return entry

    def find(self, key: tuple[str, str]) -> _E | None:
        """The entry, if there is one; nobody has used it by this. A `UserKey` is found by its two parts as well."""
        return self._entries.get(key)  # type: ignore[call-overload, no-any-return]

    def keys(self) -> list[UserKey]:
        """Who has an entry."""
        return list(self._entries)

    def add(self, key: UserKey, entry: _E) -> None:
        """Take in a new entry."""
        entry.used_s = self._monotonic_s()
        self._entries[key] = entry
        self.bytes_held += entry.size_bytes

    def resize(self, entry: _E, size_bytes: int) -> None:
        """Note that an entry has grown or shrunk, and make room if there is too much."""
        self.bytes_held += size_bytes - entry.size_bytes
        entry.size_bytes = size_bytes
        if self.bytes_held > self._bytes_max:
            self._make_room(entry)

    def discard(self, key: UserKey) -> None:
        """Drop an entry, if it is there."""
        entry = self._entries.get(key)
        if entry is not None:
            self._drop(key, entry)

    def sweep(self) -> int:
        """Drop what has outlived its time; returns how many entries went."""
        oldest_s = self._monotonic_s() - self._ttl_s
        gone = [(k, e) for k, e in self._entries.items() if e.used_s < oldest_s and not e.busy]
        for key, entry in gone:
            self._drop(key, entry)
        return len(gone)

    def _make_room(self, keep: _E) -> None:
        excess = self.bytes_held - self._bytes_max
        doomed: list[tuple[UserKey, _E]] = []
        for key, entry in self._entries.items():
            if excess <= 0:
                break
            if entry is not keep and not entry.busy:
                doomed.append((key, entry))
                excess -= entry.size_bytes
        for key, entry in doomed:
            self._drop(key, entry)

    def _drop(self, key: UserKey, entry: _E) -> None:
        del self._entries[key]
        self.bytes_held -= entry.size_bytes
        self.evictions += 1
