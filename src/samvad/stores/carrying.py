"""What a store must offer beside the Store protocol so that all of it can be carried to another: backup, migrate.

Users' data go through the Store protocol itself. What is here cannot: who there is (of every tenant, also those
whom an older layout does not list), what is left of erased users, and answers kept under idempotency keys, both of
which are known by a hash of the user's id alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from samvad.records import StoredReceipt, UserKey


class StoredErasure(NamedTuple):
    """What is left of an erased user: `user_hash` (see records.user_hash), and the epoch of the next life."""

    user_hash: bytes
    epoch: int
    erased_ms: int


class Life(NamedTuple):
    """A user, which life of theirs this is, and a number in the order in which users began."""

    number: int
    user: UserKey
    epoch: int


class OwnedReceipt(NamedTuple):
    """A kept answer, the hash of the user whose data it concerns, and the life in which it was given."""

    user_hash: bytes
    epoch: int
    receipt: StoredReceipt


class KeysFound(NamedTuple):
    """Some users, and where to go on (None: these were the last)."""

    keys: list[UserKey]
    after: str | None


@runtime_checkable
class Carrying(Protocol):
    """A store of which everything can be read and written again elsewhere. Errors as for the Store protocol."""

    async def keys(self, *, after: str = "", limit: int) -> KeysFound:
        """Who there is, of all tenants, in an order that stays; `after` is what the last answer said."""
        ...

    async def erasures(self, *, after: bytes = b"", limit: int) -> list[StoredErasure]:
        """What is left of erased users, in the order of their hashes, those behind `after`."""
        ...

    async def keep_erasures(self, erasures: Sequence[StoredErasure]) -> None:
        """Take these over where the epoch is higher than what is known. Not for users who are there now."""
        ...

    async def receipts(self, *, after: bytes = b"", limit: int) -> list[OwnedReceipt]:
        """Kept answers in the order of their keys, those behind `after`."""
        ...

    async def keep_receipts(self, receipts: Sequence[OwnedReceipt]) -> None:
        """Take these over; one of the same key stays as it is."""
        ...
