"""What no head tells of, an erasing on Firestore finds all the same: whoever writes it leaves a mark of it."""

from __future__ import annotations

import asyncio

import pytest

from samvad.errors import StoreUnavailable
from samvad.records import (
    ANY_VERSION,
    Commit,
    Erased,
    MessagesAdded,
    ReceiptKept,
    StoredReceipt,
    Version,
    user_hash,
)
from samvad.stores.carrying import OwnedReceipt
from samvad.testing.model import raw_message
from samvad.testing.proxy import FaultProxy
from tests.firestore.raw import everything
from tests.firestore.support import emulator, open_store
from tests.firestore.test_erasing import ASHA, CANARY, left_of_asha, session

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kept", ["before the user came", "by an erasing", "from another store"])
async def test_answers_that_no_head_tells_of_go(kept: str) -> None:
    """A mark tells of them. It goes when they have: what is left to be asked is bounded."""
    store = await open_store()
    receipt = StoredReceipt(b"k" * 32, b"f" * 32, 5, CANARY.encode())
    version = Version(0, 0)
    if kept == "before the user came":
        await store.commit(Commit(ASHA, ANY_VERSION, (ReceiptKept(receipt),)))
    elif kept == "by an erasing":
        version = (await store.commit(Commit(ASHA, version, (session("a"),)))).version
        changes = (Erased(5), ReceiptKept(receipt))
        version = (await store.commit(Commit(ASHA, version, changes))).version
    version = (await store.commit(Commit(ASHA, version, (session("a"),)))).version
    if kept == "from another store":
        await store.keep_receipts([OwnedReceipt(user_hash(ASHA), version.epoch, receipt)])
    assert await store.receipt(receipt.key) == receipt
    await store.commit(Commit(ASHA, version, (Erased(9),)))
    assert (await store.receipt(receipt.key)).answer is None
    assert left_of_asha(store.project) == []
    assert any(path.startswith("strays/") for path in everything(store.project))
    assert await store.expire(receipts_before_ms=6) == 1
    assert not any(path.startswith("strays/") for path in everything(store.project))
    await store.close()


@pytest.mark.parametrize("is_there", [False, True])
async def test_segments_that_no_head_tells_of_go(is_there: bool) -> None:
    """The process ends between the segments of a batch that is too large for one request and the batch itself."""
    async with FaultProxy("127.0.0.1", emulator().port) as proxy:
        store = await open_store(emulator_host=proxy.address, call_timeout_s=0.5)
        version = Version(0, 0)
        if is_there:
            version = (await store.commit(Commit(ASHA, version, (session("a"),)))).version
        writes = store.operations.writes
        large = [raw_message(n, f"{n}", 1, CANARY * 5_000) for n in range(1, 121)]
        saying = asyncio.ensure_future(store.commit(Commit(ASHA, version, (MessagesAdded(tuple(large)),))))
        while store.operations.writes == writes:  # noqa: ASYNC110 (the others follow at once)
            await asyncio.sleep(0)
        proxy.fault = "refused"
        with pytest.raises(StoreUnavailable):
            await saying
        await store.close()
    again = await open_store(store.project)
    assert any("/history/" in path for path in left_of_asha(store.project))
    version = (await again.commit(Commit(ASHA, version, (session("b"),)))).version
    committed = await again.commit(Commit(ASHA, version, (Erased(9),)))
    assert (committed.removed.messages, committed.pending) == (0, False)
    assert left_of_asha(store.project) == []
    await again.close()
