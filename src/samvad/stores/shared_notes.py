"""What a store that several processes share may offer beside the Store protocol: small notes that all of them see."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol


class SharedNote(NamedTuple):
    """A note, how long ago it was written by the clock of the store, and what `swap` knows it by."""

    body: bytes
    age_ms: int
    token: Any


class SharedNotes(Protocol):
    """Notes by name. Both methods raise StoreUnavailable where the store cannot be reached."""

    async def get(self, name: str) -> SharedNote | None:
        """The note; None where there is none."""
        ...

    async def swap(self, name: str, old: SharedNote | None, body: bytes) -> SharedNote | None:
        """Write the note if it still is `old`; None, and nothing written, where it is not. `body` is never the same."""
        ...
