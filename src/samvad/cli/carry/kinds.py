"""What is carried beside users: a list of kinds, each a table that is read in pieces and kept in pieces.

Whoever adds a kind of data to Samvad that does not belong to a user's record adds it here, and it is in backups and
migrations from then on. Erasures are not in the list: they must be known before anything else is written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple

from samvad.cli.carry import documents
from samvad.cli.carry.lines import DocumentsLine, ErasuresLine, ReceiptsLine
from samvad.records import StoredReceipt
from samvad.stores.carrying import OwnedReceipt, StoredErasure

PER_PIECE: Final = 200


class Kind(NamedTuple):
    """One kind: its name in the totals, its lines, and how they are read, kept, counted and found again.

    `read` gives lines from a store. `keep` writes one into a store, given the epochs of erased users by hash; doing
    it twice is harmless. `missing` says how many of a line's items a store does not have as they are there.
    """

    name: str
    line: Any
    read: Callable[[Any], AsyncIterator[Any]]
    keep: Callable[[Any, Any, dict[bytes, int]], Awaitable[None]]
    missing: Callable[[Any, Any], Awaitable[int]]

    def count(self, line: Any) -> int:
        """How many items a line holds."""
        return len(getattr(line, self.name))


async def _read_receipts(store: Any) -> AsyncIterator[ReceiptsLine]:
    after = b""
    while found := await store.receipts(after=after, limit=PER_PIECE):
        after = found[-1].receipt.key
        yield ReceiptsLine(
            [(o.hex(), epoch, r.key.hex(), r.fingerprint.hex(), r.at_ms, r.answer) for o, epoch, r in found]
        )


async def _keep_receipts(store: Any, line: ReceiptsLine, erased: dict[bytes, int]) -> None:
    """An answer about a life that was ended by an erasing is kept as erased: the key stays used."""
    kept = []
    for owner, epoch, key, fingerprint, at_ms, answer in line.receipts:
        owner_hash = bytes.fromhex(owner)
        if erased.get(owner_hash, 0) > epoch:
            answer = None
        receipt = StoredReceipt(bytes.fromhex(key), bytes.fromhex(fingerprint), at_ms, answer)
        kept.append(OwnedReceipt(owner_hash, epoch, receipt))
    await store.keep_receipts(kept)


async def _missing_receipts(store: Any, line: ReceiptsLine) -> int:
    missing = 0
    for _, _, key, fingerprint, _, _ in line.receipts:
        there = await store.receipt(bytes.fromhex(key))
        missing += there is None or there.fingerprint != bytes.fromhex(fingerprint)
    return missing


KINDS: Final = (
    Kind("documents", DocumentsLine, documents.read, documents.keep, documents.missing),
    Kind("receipts", ReceiptsLine, _read_receipts, _keep_receipts, _missing_receipts),
)


async def read_erasures(store: Any) -> AsyncIterator[ErasuresLine]:
    """What is left of erased users, in lines."""
    after = b""
    while found := await store.erasures(after=after, limit=PER_PIECE):
        after = found[-1].user_hash
        yield ErasuresLine([(each.user_hash.hex(), each.epoch, each.erased_ms) for each in found])


def erasures_in(line: ErasuresLine) -> list[StoredErasure]:
    """The erasures of a line."""
    return [StoredErasure(bytes.fromhex(hashed), epoch, at_ms) for hashed, epoch, at_ms in line.erasures]
