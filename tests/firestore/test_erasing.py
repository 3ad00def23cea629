"""Erasing on Firestore: the fence holds whatever happens behind it, and the purge comes to its end."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

from samvad.clock import SystemClock
from samvad.errors import StaleVersion, StoreUnavailable
from samvad.records import (
    ANY_VERSION,
    Commit,
    Erased,
    InterruptionAdded,
    MessagesAdded,
    ProfileSet,
    ReceiptKept,
    Removed,
    SessionRemoved,
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
from samvad.stores.data_key_store import RINGS
from samvad.stores.data_keys import DataKeys
from samvad.stores.firestore_data_keys import FirestoreDataKeys
from samvad.stores.master_keys import LocalMasterKey
from samvad.stores.memory import MemoryStore
from samvad.stores.sealed import SealedStore
from samvad.testing.model import raw_message
from samvad.testing.proxy import FaultProxy
from tests.firestore.raw import everything, google_client
from tests.firestore.support import emulator, open_store

pytestmark = pytest.mark.anyio
ASHA = UserKey("default", "asha")
BALA = UserKey("default", "bala")
CANARY = "canary-7f3a"
EVERYTHING: dict[str, int] = {"window": 100, "open_after_ms": -1, "sessions_max": 9}
MANY = 230  # more of a kind than go with a fence


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


def session(name: str, ended_ms: int | None = None) -> SessionSet:
    """A session of Asha's."""
    return SessionSet(StoredSession(name, "asha", b"{}", 1, 1, ended_ms))


def interrupted(name: str, number: int = 0) -> InterruptionAdded:
    """An interruption in a session."""
    return InterruptionAdded(StoredInterruption(f"i{number}", name, 1, b"{}"))


def spent(store: Any, before: tuple[int, ...] = (0, 0, 0, 0)) -> tuple[int, ...]:
    """Calls made, documents read, written and deleted since."""
    done = store.operations
    counts = (done.calls, done.reads, done.writes, done.deletes)
    return tuple(now - then for now, then in zip(counts, before, strict=True))


def left_of_asha(project: str) -> list[str]:
    """What there is in a database beside the erasing itself, receipts without an answer, and what is Bala's."""
    with google_client(project) as google:
        found = [each for collection in google.collections() for each in collection.stream()]
        found += google.collection_group("history").stream()
        return [
            each.reference.path
            for each in found
            if not (
                each.reference.path.startswith(("erasures/", "strays/"))
                or each.to_dict().get("answered") is False
                or "bala" in repr(each.to_dict())
            )
        ]


async def test_what_an_erasing_asks_for() -> None:
    """Where the head says what there is, nothing is asked for, and all goes in one commit.

    Sessions that have ended and interruptions are looked for once, and go with the fence as well. Answers are looked
    for behind it, side by side with segments, and go with the note.
    """
    store = await open_store()
    said = MessagesAdded((raw_message(1, "1", 1),))
    state, profile = StateSet(StoredState(b"{}", 1, 1)), ProfileSet(StoredProfile(b"{}", 1, 1))
    kept = ReceiptKept(StoredReceipt(b"r" * 32, b"f" * 32, 1, b"{}"))
    # The erasure is written; head, state, and two marks of strays are deleted with it, which are not there.
    for epoch, (changes, wanted) in enumerate(
        (
            ((said, state, profile), (1, 0, 1, 4)),
            ((said, session("a"), session("b")), (1, 0, 1, 6)),
            ((session("a"), session("a", 2), session("b")), (2, 2, 1, 6)),
            ((session("a"), interrupted("a"), interrupted("a", 1)), (2, 2, 1, 7)),
            ((session("a"), SessionRemoved("a"), kept), (4, 2, 3, 3)),
            ((MessagesAdded(tuple(raw_message(n, f"{n}", 1) for n in range(1, 301))),), (1, 0, 1, 6)),
            # Of more segments than it lists a head does not tell.
            ((MessagesAdded(tuple(raw_message(n, f"{n}", 1) for n in range(1, 7_001))),), (4, 70, 2, 72)),
        )
    ):
        version = (await store.commit(Commit(ASHA, Version(epoch, 0), changes))).version
        before = spent(store)
        await store.commit(Commit(ASHA, version, (Erased(9),)))
        assert spent(store, before) == wanted, changes
        assert left_of_asha(store.project) == []
    await store.close()


async def test_what_destroying_the_key_asks_for() -> None:
    """Three calls more: the keys are read, the user's is destroyed, and after the rest nothing is left of the name.

    What was written there is known to who wrote it, and is not read again.
    """
    inner = await open_store()
    master = LocalMasterKey(os.urandom(32))
    keys = DataKeys(FirestoreDataKeys(inner.client, inner.names), [master])
    store = SealedStore(inner, keys, clock=SystemClock())
    await store.open_around()
    version = (await store.commit(Commit(ASHA, Version(0, 0), (session("s"),)))).version
    before = spent(inner)
    await store.commit(Commit(ASHA, version, (Erased(9),)))
    assert spent(inner, before) == (4, 1, 2, 6)
    assert left_of_asha(inner.project) == [f"data_keys/{RINGS.hex()}"]
    await store.close()


async def test_what_the_head_tells_of_a_life_is_what_there_is() -> None:
    """Sessions and interruptions begun, ended and removed at random in 60 lives: each erasing finds what the model has.

    Two replicas write, each of which knows of the other's only by the head.
    """
    choose = random.Random(5)
    one, model = await open_store(), MemoryStore()
    two = await open_store(one.project)
    await model.open()
    version = Version(0, 0)
    for _ in range(60):
        for _ in range(choose.randrange(1, 5)):
            name = f"s{choose.randrange(3)}"
            kinds = (session(name), session(name, 2), SessionRemoved(name), interrupted(name))
            commit = Commit(ASHA, version, (choose.choices(kinds, (6, 1, 1, 1))[0],))
            version = (await choose.choice((one, two)).commit(commit)).version
            assert (await model.commit(commit)).version == version
        commit = Commit(ASHA, version, (Erased(9),))
        erased = await choose.choice((one, two)).commit(commit)
        assert erased == await model.commit(commit)
        version = erased.version
        assert left_of_asha(one.project) == []
    await one.close()
    await two.close()


async def test_what_an_earlier_version_wrote_is_looked_for() -> None:
    """It says nothing of ended sessions and interruptions, and its token takes the place of who did: all is found."""
    store = await open_store()
    version = (await store.commit(Commit(ASHA, Version(0, 0), (session("a"),)))).version
    other = await open_store(store.project)
    changes = (session("b", 2), interrupted("a"))
    version = (await other.commit(Commit(ASHA, version, changes))).version
    await other.close()
    with google_client(store.project) as google:
        head = google.document("user_profiles/asha")
        tokens = [{name: each[name] for name in ("revision", "token")} for each in head.get().get("tokens")]
        head.update({"tokens": tokens})
    # And what is not known stays so, whoever writes next.
    version = (await store.commit(Commit(ASHA, version, (session("c"),)))).version
    committed = await store.commit(Commit(ASHA, version, (Erased(9),)))
    assert committed.removed == Removed(sessions=3, interruptions=1)
    assert left_of_asha(store.project) == []
    await store.close()


async def test_a_fence_whose_answer_is_lost_was_all() -> None:
    """The line breaks while the only commit is answered: it is looked whether it was done, and it is told as it was."""
    async with FaultProxy("127.0.0.1", emulator().port) as proxy:
        store = await open_store(emulator_host=proxy.address, call_timeout_s=30.0)
        for epoch, after_bytes in enumerate(range(0, 200, 10)):
            version = (await store.commit(Commit(ASHA, Version(epoch, 0), (session("a"),)))).version
            proxy.cut_reply(after_bytes)
            committed = await store.commit(Commit(ASHA, version, (Erased(9),)))
            assert committed.version == Version(epoch + 1, 0)
            assert (committed.removed, committed.pending) == (Removed(sessions=1), False)
            assert left_of_asha(store.project) == []
        assert proxy.cuts > 0
        await store.close()


async def fill_with_many(store: Any) -> Version:
    """More of everything than one batch of an erasing takes; and what is always purged behind the fence."""
    body = b'{"x":"%s"}' % CANARY.encode()
    version = Version(0, 0)
    for changes in (
        [session(f"s{n}", None if n % 2 else 2) for n in range(MANY)],
        [interrupted("s0", n) for n in range(MANY)],
        [MessagesAdded(tuple(raw_message(n, f"{n}", 1, CANARY) for n in range(1, 301)))],
        [ReceiptKept(StoredReceipt(bytes([n]) * 32, b"f" * 32, 1, body)) for n in range(MANY)],
    ):
        version = (await store.commit(Commit(ASHA, version, tuple(changes)))).version
    return version


async def test_more_than_goes_with_a_fence() -> None:
    """All is counted, and all goes."""
    store = await open_store()
    version = await fill_with_many(store)
    committed = await store.commit(Commit(ASHA, version, (Erased(9),)))
    assert committed.removed == Removed(sessions=MANY, messages=300, interruptions=MANY)
    assert not committed.pending
    assert left_of_asha(store.project) == []
    await store.close()


async def test_a_session_id_that_is_taken_while_a_purge_looks() -> None:
    """What was the erased user's when it was found, and is another's when it is to be deleted, stays."""
    store = await open_store()
    beside = await open_store(store.project)
    sessions = [session(f"s{n}", 2) for n in range(MANY)]
    version = (await store.commit(Commit(ASHA, Version(0, 0), tuple(sessions)))).version
    query = store.client.query
    taken: list[list[str]] = []

    async def then_taken(parent: str, wanted: Any, deadline: float) -> Any:
        found = await query(parent, wanted, deadline)
        if wanted.from_[0].collection_id == "sessions":
            taken.append([document.name.rpartition("/")[2] for document in found])
            if len(taken) == 2:  # the first was before the fence
                hers = [SessionSet(StoredSession(name, "bala", b"{}", 1, 1)) for name in taken[1]]
                await beside.commit(Commit(BALA, Version(0, 0), tuple(hers)))
        return found

    store.client.query = then_taken
    committed = await store.commit(Commit(ASHA, version, (Erased(9),)))
    assert (committed.removed.sessions, committed.pending) == (MANY, False)
    assert {each.id for each in await beside.sessions(BALA, open_after_ms=None)} == set(taken[1])
    assert len(taken[1]) == MANY - 200
    assert left_of_asha(store.project) == []
    await store.close()
    await beside.close()


async def test_an_erasing_that_is_cut_short_at_any_call_is_finished() -> None:
    """Before the fence nothing is gone; after it nothing is read, and the sweeps of two replicas remove the rest.

    Both go on at once, while another user takes all the sessions' ids: hers stay.
    """
    calls = 0
    cut = True
    while cut:
        calls += 1
        async with FaultProxy("127.0.0.1", emulator().port) as proxy:
            store = await open_store(emulator_host=proxy.address, call_timeout_s=0.5)
            version = await fill_with_many(store)
            last = store.operations.calls + calls
            erasing = asyncio.ensure_future(store.commit(Commit(ASHA, version, (Erased(9),))))
            while store.operations.calls < last and not erasing.done():  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0)
            cut = not erasing.done()
            proxy.fault = "refused"
            (committed,) = await asyncio.gather(erasing, return_exceptions=True)
            cut = cut and getattr(committed, "pending", True)
            await store.close()
        again, beside = await open_store(store.project), await open_store(store.project)
        record = await again.load(ASHA, **EVERYTHING)
        if record.version.epoch == 0:
            assert isinstance(committed, StoreUnavailable)
            assert (record.version, record.seq) == (version, 300)
            assert len(await again.sessions(ASHA, open_after_ms=None)) == MANY
            assert len(await again.interruptions("default", "s0", 999)) == MANY
        else:
            assert record.version == Version(1, 0)
            hers = [SessionSet(StoredSession(f"s{n}", "bala", b"{}", 1, 1)) for n in range(MANY)]
            await asyncio.gather(
                again.expire(receipts_before_ms=0),
                beside.expire(receipts_before_ms=0),
                beside.commit(Commit(BALA, Version(0, 0), tuple(hers))),
            )
            assert left_of_asha(store.project) == []
            assert len(await again.sessions(BALA, open_after_ms=None)) == MANY
        await again.close()
        await beside.close()
    assert calls > 6
