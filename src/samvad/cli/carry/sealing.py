"""What comes in clear to where it is to be encrypted: sealed on the way, exactly as a server would have sealed it.

Conversations go through a sealed store, which opens what it reads back: the checksum of each user is over what it says.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from samvad.clock import SystemClock
from samvad.errors import SetupError
from samvad.knowledge.carrying import taking_in
from samvad.knowledge.opening import has_documents
from samvad.records import ReceiptKept
from samvad.stores.carrying import OwnedReceipt
from samvad.stores.data_keys import DataKeys
from samvad.stores.encrypting import data_keys_of, has_keys
from samvad.stores.master_keys import master_keys
from samvad.stores.sealed import SealedStore
from samvad.stores.sealing import seal

_replace: Final = msgspec.structs.replace


class SealingTarget(SealedStore):
    """A sealed store into which others are carried: kept answers are sealed as well, which servers give in commits."""

    async def keep_receipts(self, receipts: Sequence[OwnedReceipt]) -> None:
        """See stores/carrying. An answer about a life whose key was destroyed is kept as erased."""
        await self.inner.keep_receipts([await self._sealed(each) for each in receipts])  # type: ignore[attr-defined]

    async def _sealed(self, owned: OwnedReceipt) -> OwnedReceipt:
        if not owned.receipt.answer:
            return owned
        key = await self.data_keys.make(owned.user_hash, owned.epoch)
        if key is None:
            return owned._replace(receipt=_replace(owned.receipt, answer=None))
        kept = seal(key, owned.user_hash, ReceiptKept(owned.receipt))
        assert isinstance(kept, ReceiptKept)
        return owned._replace(receipt=kept.receipt)


@contextlib.asynccontextmanager
async def sealing(what: str, target: Any) -> AsyncIterator[Any]:
    """`target`, an open store, for what comes from `what` in clear: it is sealed on the way where the target is, or
    is to be, encrypted (a SealingTarget), exactly as a server would have.

    SetupError without its master key, and where the target holds something in clear: that would stay, and be told as
    carried.
    """
    master_key, has = getattr(target, "master_key", None), await has_keys(target)
    if master_key is None and not has:
        yield target
        return
    if master_key is None:
        raise SetupError(
            f"{what} is not encrypted, and what it is brought to is: give its master key in SAMVAD_MASTER_KEY, "
            "and it is sealed on the way."
        )
    if not has and (await target.keys(limit=1)).keys:
        raise _in_clear(what)
    store = SealingTarget(
        target, DataKeys(data_keys_of(target), master_keys(master_key)), clock=SystemClock()
    )
    try:
        await store.open_around()
        if not store.data_keys.strict:
            raise _in_clear(what)
        if has_documents(target):
            async with taking_in(store, master_key, plain=True):
                pass  # which looks whether there are any in clear
            if not store.data_keys.documents_strict:
                raise SetupError(
                    "The knowledge base of the target holds documents in clear: seal them first, with "
                    "`samvad encryption seal-knowledge`."
                )
        yield store
    finally:
        await store.close()


def _in_clear(what: str) -> SetupError:
    """What to tell where the target holds conversations that nobody sealed."""
    return SetupError(
        f"What is brought from {what} is to be sealed, and the target holds conversations in clear, which would stay: "
        "bring it to an empty store."
    )
