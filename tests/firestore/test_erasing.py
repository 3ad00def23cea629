"""Erasing on Firestore: the fence holds whatever happens behind it, and the purge comes to its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from samvad.errors import StaleVersion
from samvad.records import (
    ANY_VERSION,
    Commit,
    Erased,
    InterruptionAdded,
    MessagesAdded,
    ProfileSet,
    ReceiptKept,
    Removed,
    SessionSet,
    StateSet,
    StoredInterruption,
    StoredProfile,
    StoredReceipt,
    StoredSession,
    StoredState,
    UserKey,
    Version,
)
from samvad.testing.model import raw_message
from samvad.testing.proxy import FaultProxy
from tests.firestore.raw import everything
from tests.firestore.support import emulator, open_store

pytestmark = pytest.mark.anyio
ASHA = UserKey("default", "asha")
BALA = UserKey("default", "bala")
CANARY = "canary-7f3a"
EVERYTHING: dict[str, int] = {"window": 100, "open_after_ms": -1, "sessions_max": 9}


async def fill(store: Any, user: UserKey, version: Version, canary: str, session: str = "s") -> Version:
    """300 messages, state, profile, session, interruptions and a receipt, all of which hold the canary."""
    body = b'{"x":"%s"}' % canary.encode()
    changes = (
        ProfileSet(StoredProfile(body, 1, 1)),
        StateSet(StoredState(body, 1, 1)),
        SessionSet(StoredSession(session, user.user_id, body, 1, 1)),
        *(InterruptionAdded(StoredInterruption(f"i{n}", session, n, body)) for n in range(3)),
        MessagesAdded(tuple(raw_message(seq, f"{canary} {seq}", 1, canary) for seq in range(1, 301))),
        ReceiptKept(StoredReceipt(user.user_id[0].encode() * 32, b"f" * 32, 1, body)),
    )
    return (await store.commit(Commit(user, version, changes))).version


async def test_nothing_of_an_erased_user_is_in_any_document() -> None:
    """Every document of the database, byte by byte: neither the canary nor the user's id."""
    store = await open_store()
    version = await fill(store, ASHA, Version(0, 0), CANARY)
    await fill(store, BALA, Version(0, 0), "hers", "t")
    committed = await store.commit(Commit(ASHA, version, (Erased(9),)))
    assert committed.removed == Removed(True, True, sessions=1, messages=300, interruptions=3)
    for path, fields in everything(store.project).items():
        assert CANARY not in repr((path, fields))
        assert "asha" not in repr((path, fields))
    assert (await store.load(BALA, **EVERYTHING)).seq == 300
    await store.close()


async def test_the_next_process_finishes_a_purge() -> None:
    """The line is cut behind the fence: nothing is to be seen from then on, and upkeep removes the rest."""
    async with FaultProxy("127.0.0.1", emulator().port) as proxy:
        store = await open_store(emulator_host=proxy.address, call_timeout_s=0.5)
        version = await fill(store, ASHA, Version(0, 0), CANARY)
        deletes = store.operations.deletes
        erasing = asyncio.ensure_future(store.commit(Commit(ASHA, version, (Erased(9),))))
        while store.operations.deletes == deletes:  # noqa: ASYNC110 (the purge follows the fence at once)
            await asyncio.sleep(0)
        proxy.fault = "refused"
        committed = await erasing
        assert (committed.removed.messages, committed.pending) == (
            300,
            True,
        )  # nobody is told that it is done
        await store.close()
    assert any(CANARY in repr(fields) for fields in everything(store.project).values())

    again = await open_store(store.project)
    assert (await again.load(ASHA, **EVERYTHING)).version == Version(1, 0)
    assert await again.page(ASHA, after=0, before=None, limit=9, bytes_max=9) == ([], False)
    assert await again.session("default", "s") is None
    assert await again.sessions(ASHA, open_after_ms=None) == []
    assert await again.interruptions("default", "s", 9) == []
    # A new life and another user come before the purge; it leaves both alone.
    await fill(again, BALA, Version(0, 0), "hers", "s")
    await again.commit(Commit(ASHA, Version(1, 0), (MessagesAdded((raw_message(1, "new", 1),)),)))
    await again.expire(receipts_before_ms=0)
    assert not any(CANARY in repr(fields) for fields in everything(store.project).values())
    assert not any(path.startswith("purges/") for path in everything(store.project))
    assert [m.id for m in (await again.load(ASHA, **EVERYTHING)).window] == ["new"]
    kept = await again.session("default", "s")
    assert kept is not None
    assert kept.user_id == "bala"
    assert len(await again.interruptions("default", "s", 9)) == 3
    await again.close()


async def test_a_replica_that_knew_the_user_before_cannot_bring_it_back() -> None:
    """Whatever version another replica holds, of a user who was there or was not: it is refused, and writes nothing."""
    one = await open_store()
    two = await open_store(one.project)
    assert (await two.load(ASHA, **EVERYTHING)).version == Version(0, 0)  # and keeps that in memory
    version = await fill(one, ASHA, Version(0, 0), CANARY)
    await one.commit(Commit(ASHA, version, (Erased(9),)))
    message = MessagesAdded((raw_message(1, "late", 1, CANARY),))
    for expected in (Version(0, 0), version, Version(0, 2)):
        with pytest.raises(StaleVersion):
            await two.commit(Commit(ASHA, expected, (message,)))
    assert not any(CANARY in repr(fields) for fields in everything(one.project).values())
    await two.commit(Commit(ASHA, Version(1, 0), (message,)))
    for store in (one, two):
        assert (await store.load(ASHA, **EVERYTHING)).version == Version(1, 1)
        await store.close()


async def test_a_receipt_belongs_to_the_life_in_which_it_is_kept() -> None:
    """A replica that did not hear of an erasing keeps a receipt by itself: the next erasing finds its answer."""
    one = await open_store()
    two = await open_store(one.project)
    version = await fill(one, ASHA, Version(0, 0), "first")
    await two.load(ASHA, **EVERYTHING)
    await one.commit(Commit(ASHA, version, (Erased(1),)))
    version = await fill(one, ASHA, Version(1, 0), "second")
    kept = ReceiptKept(StoredReceipt(b"k" * 32, b"f" * 32, 1, CANARY.encode()))
    assert (await two.commit(Commit(ASHA, ANY_VERSION, (kept,)))).version == version
    assert await one.receipt(b"k" * 32) == kept.receipt
    await one.commit(Commit(ASHA, version, (Erased(2),)))
    assert not any(CANARY in repr(fields) for fields in everything(one.project).values())
    await one.close()
    await two.close()


async def test_erasing_races_with_writers_of_other_replicas() -> None:
    """Appends on one replica while the other erases: each is in the old life or in the new one, in neither twice."""
    one = await open_store()
    two = await open_store(one.project)
    for _ in range(10):
        record = await one.load(ASHA, **EVERYTHING)
        seq = record.seq + 1
        message = MessagesAdded((raw_message(seq, f"{record.version}", 1),))
        added, erased = await asyncio.gather(
            two.commit(Commit(ASHA, record.version, (message,))),
            one.commit(Commit(ASHA, record.version, (Erased(1),))),
            return_exceptions=True,
        )
        assert isinstance(added, StaleVersion) != isinstance(erased, StaleVersion)
        after = await two.load(ASHA, **EVERYTHING)
        if isinstance(erased, StaleVersion):
            assert (after.version.epoch, after.seq) == (record.version.epoch, seq)
        else:
            assert after.version == Version(record.version.epoch + 1, 0)
    await one.close()
    await two.close()
