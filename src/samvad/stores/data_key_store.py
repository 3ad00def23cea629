"""Where wrapped keys are kept: apart from what they seal, so that a copy of the one does not open the other.

A key store is a table of small values by name, each changed only where it is still what was read. Keys that are
destroyed must not be in it any more, nor in files that it leaves behind: who copies it keeps those copies short.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol

RINGS: Final = b"rings"  # the name of the ring keys; every other name is a hash of 32 bytes


class DataKeyEntry(NamedTuple):
    """A value, whether an erasing of it is under way, and what tells it from a later value of that name."""

    value: bytes
    erasing: bool = False
    token: Any = None


class Destroyed(NamedTuple):
    """What destroying a key found and left: the entry `before` (None: nothing was changed) and what is `there` now."""

    before: DataKeyEntry | None = None
    there: DataKeyEntry | None = None


NOTHING: Final = DataKeyEntry(b"")


class DataKeyStore(Protocol):
    """Values by name. StoreUnavailable where it cannot be asked; SetupError where it cannot be opened."""

    async def open(self) -> None:
        """Connect; make what is missing."""
        ...

    async def close(self) -> None:
        """Let everything go. Closing twice is fine."""
        ...

    async def get(self, name: bytes) -> DataKeyEntry | None:
        """The value of that name."""
        ...

    async def swap(
        self, name: bytes, old: DataKeyEntry | None, value: bytes | None, erasing: bool = False
    ) -> DataKeyEntry | None:
        """Put this value (None: nothing) in place of `old` (None: nothing); durable once answered.

        The answer is what is there now (of nothing: an entry without a value), to be `old` in the next swap; None
        where it was not `old` any more. Nothing of the old value is left in the store's files.
        """
        ...

    async def scan(
        self, *, after: bytes = b"", limit: int, erasing: bool = False
    ) -> list[tuple[bytes, DataKeyEntry]]:
        """Names behind `after` with their values, in order; with `erasing` only those of erasings under way."""
        ...


class MemoryDataKeys:
    """Keys that end with the process, as the memory store's conversations do."""

    def __init__(self) -> None:
        self._entries: dict[bytes, DataKeyEntry] = {}

    async def open(self) -> None:
        """Nothing is to be opened."""

    async def close(self) -> None:
        """Nothing is to be let go."""

    async def get(self, name: bytes) -> DataKeyEntry | None:
        """See DataKeyStore."""
        return self._entries.get(name)

    async def swap(
        self, name: bytes, old: DataKeyEntry | None, value: bytes | None, erasing: bool = False
    ) -> DataKeyEntry | None:
        """See DataKeyStore."""
        if self._entries.get(name) != old:
            return None
        if value is None:
            self._entries.pop(name, None)
            return NOTHING
        entry = self._entries[name] = DataKeyEntry(value, erasing)
        return entry

    async def scan(
        self, *, after: bytes = b"", limit: int, erasing: bool = False
    ) -> list[tuple[bytes, DataKeyEntry]]:
        """See DataKeyStore."""
        found = sorted(
            (name, entry)
            for name, entry in self._entries.items()
            if name > after and (entry.erasing or not erasing)
        )
        return found[:limit]
