"""What is sealed, opened on the way, so that it is sealed anew where it arrives: under new keys for everybody.

A seal that cannot be opened ends it: what is left of a user is not carried as if it were all.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from samvad.clock import SystemClock
from samvad.errors import SetupError, Unreadable
from samvad.records import StoredMessage, UserKey
from samvad.stores.carrying import OwnedReceipt
from samvad.stores.data_keys import DataKeys
from samvad.stores.encrypting import data_keys_of, has_keys, rings_entry
from samvad.stores.master_keys import master_keys
from samvad.stores.sealed import SealedStore
from samvad.stores.sealed_opening import Opened
from samvad.stores.sealing import Keys
from samvad.stores.wrapped_keys import ring_ids


class _AllOfIt(Opened):
    """Opens what a store holds, or raises Unreadable."""

    def note(self, user: UserKey | None, kind: str) -> None:
        whose = "somebody" if user is None else repr(user.user_id)
        raise Unreadable(
            f"What is stored of {whose} ({kind}) was changed by somebody else, or its key is another: nothing further "
            "is carried. Restore it, or erase that user, and run it again."
        )

    def messages(
        self, keys: Keys, user: UserKey, messages: Sequence[StoredMessage], last: bool
    ) -> tuple[StoredMessage, ...]:
        gone = self.messages_gone
        found = super().messages(keys, user, messages, last)
        if self.messages_gone != gone:
            self.note(user, "message")
        return found


class OpenedSource(SealedStore):
    """A sealed store from which others are carried: kept answers are opened as well, of which servers ask for one."""

    async def receipts(self, *, after: bytes = b"", limit: int) -> list[OwnedReceipt]:
        """See stores/carrying."""
        found = await self.inner.receipts(after=after, limit=limit)  # type: ignore[attr-defined]
        return [await self._opened(each) for each in found]

    async def _opened(self, owned: OwnedReceipt) -> OwnedReceipt:
        if not owned.receipt.answer:
            return owned
        there = await self.receipt(owned.receipt.key)
        answer = None if there is None else there.answer
        return owned._replace(receipt=msgspec.structs.replace(owned.receipt, answer=answer))


@contextlib.asynccontextmanager
async def opening(source: Any, target: Any) -> AsyncIterator[OpenedSource]:
    """`source`, an open store that holds what is sealed, with all of it opened as it is read.

    SetupError where it is not encrypted, without its master key, and where `target` has its keys already: what is there
    would stay under them.
    """
    master_key = getattr(source, "master_key", None)
    if not await has_keys(source):
        raise SetupError("FROM is not encrypted: leave --new-keys out, and it is sealed on the way.")
    if master_key is None:
        raise SetupError(
            "Give the master key in SAMVAD_MASTER_KEY: what is to be sealed anew is opened for that."
        )
    store = OpenedSource(source, DataKeys(data_keys_of(source), master_keys(master_key)), clock=SystemClock())
    store.opened = _AllOfIt(store.data_keys)
    try:
        await store.open_around()
        if await has_keys(target) and await _rings(source) & await _rings(target):
            raise SetupError(
                "TO has the keys of FROM already, and what is there would stay under them: name another."
            )
        yield store
    finally:
        await store.close()


async def _rings(store: Any) -> frozenset[bytes]:
    entry = await rings_entry(store)
    return frozenset() if entry is None else ring_ids(entry.value)
