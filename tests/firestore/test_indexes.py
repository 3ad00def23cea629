"""firestore.indexes.json declares what the queries need: the emulator would answer them without."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest

from samvad.records import (
    Commit,
    Erased,
    InterruptionAdded,
    InterruptionsRemoved,
    InterruptionsTrimmed,
    MessagesAdded,
    ProfileSet,
    ReceiptKept,
    SessionSet,
    StateSet,
    StoredInterruption,
    StoredProfile,
    StoredReceipt,
    StoredSession,
    StoredState,
    Trimmed,
    UserKey,
    Version,
)
from samvad.stores import firestore_indexes
from samvad.stores.firestore_queries import QueryShape
from samvad.stores.firestore_queries import shape as shape_of
from samvad.testing.model import raw_message
from tests.firestore.raw import everything
from tests.firestore.support import open_store
from tests.support import REPOSITORY

pytestmark = pytest.mark.anyio
ASHA = UserKey("default", "asha")
DECLARED: dict[str, Any] = json.loads((REPOSITORY / "firestore.indexes.json").read_text())
EXEMPT = {
    (each["collectionGroup"], each["fieldPath"]) for each in DECLARED["fieldOverrides"] if not each["indexes"]
}
COMPOSITES = {
    (each["collectionGroup"], tuple((field["fieldPath"], field["order"]) for field in each["fields"]))
    for each in DECLARED["indexes"]
}


def needed(shape: QueryShape) -> tuple[set[tuple[str, str]], tuple[str, Any] | None]:
    """The single fields whose own index a query uses, or else the composite index that it needs.

    https://firebase.google.com/docs/firestore/query-data/index-overview: equalities alone are answered by
    merging single-field indexes; a range or an order beside an equality, and a sum over one, need a composite.
    """
    equal = sorted(field for field, operator in shape.filters if operator == "EQUAL")
    order = list(shape.orders)
    ranges = {field for field, operator in shape.filters if operator not in ("EQUAL", "ARRAY_CONTAINS_ANY")}
    for field in sorted(ranges - {field for field, _ in order}):
        order.insert(0, (field, "ASCENDING"))
    order += [(field, "ASCENDING") for field in shape.sums]
    if equal and order:
        return set(), (shape.collection, frozenset(equal), tuple(order))
    assert len(order) <= 1
    return {
        (shape.collection, field) for field in [*(f for f, _ in shape.filters), *(f for f, _ in order)]
    }, None


async def do_everything() -> Any:
    """A store that has made every kind of query there is."""
    store = await open_store(session_lag_s=0)
    version = Version(0, 0)
    sessions = [SessionSet(StoredSession(f"s{n}", "asha", b"{}", 1, n)) for n in range(70)]
    for changes in (
        (ProfileSet(StoredProfile(b"{}", 1, 1)), StateSet(StoredState(b"{}", 1, 1)), *sessions),
        (InterruptionAdded(StoredInterruption("i", "s69", 1, b"{}")),),
        (MessagesAdded(tuple(raw_message(n, f"m{n}", 1) for n in range(1, 10_001))),),
        (ReceiptKept(StoredReceipt(b"r" * 32, b"f" * 32, 1, b"{}")),),
        (MessagesAdded((raw_message(10_001, "new", 1),), ("new",)),),
        (InterruptionsRemoved("s69"),),
        (Trimmed(150), InterruptionsTrimmed(1)),
    ):
        version = (await store.commit(Commit(ASHA, version, changes))).version
    await store.load(ASHA, window=100, open_after_ms=0, sessions_max=9)
    await store.page(ASHA, after=0, before=None, limit=9, bytes_max=9_999)
    await store.page(ASHA, after=None, before=500, limit=9, bytes_max=9_999)
    await store.sessions(ASHA, open_after_ms=None)
    await store.interruptions("default", "s69", 3)
    await store.interruptions_before(ASHA, 1)
    await store.newest_ms()
    await store.stats("default", active_after_ms=0, open_after_ms=0)
    await store.users("default", after="", limit=9)
    changes = store.changes()
    for _ in range(2):
        await anext(changes)
    await changes.aclose()
    return store, version


async def test_every_query_has_its_index_and_every_index_its_query() -> None:
    """Each shape of query that was made is declared; nothing is declared that no query uses."""
    store, version = await do_everything()
    await store.commit(Commit(ASHA, version, (Erased(1),)))
    await store.expire(receipts_before_ms=9)
    await store.close()
    single: set[tuple[str, str]] = set()
    declared = {}
    for collection, fields in COMPOSITES:
        for split in range(1, len(fields)):
            equal = frozenset(field for field, _ in fields[:split])
            declared[collection, equal, fields[split:]] = (collection, fields)
    used = set()
    for shape in store.query_shapes:
        fields, composite = needed(shape)
        single |= fields
        if composite is not None:
            assert composite in declared, f"no index for {shape}"
            used.add(declared[composite])
    assert used == COMPOSITES
    # What the doctor asks for is what the code asks for, no more and no less.
    assert {(index.collection, index.fields) for index in firestore_indexes.COMPOSITES} == COMPOSITES
    for index in firestore_indexes.COMPOSITES:
        probe = shape_of(index.query(), tuple(index.sums()))
        _, composite = needed(probe)
        assert composite is not None
        assert declared[composite] == (index.collection, index.fields)
    assert not single & EXEMPT, "a query needs the index of a field that is exempt"
    assert len(store.query_shapes) >= 18


async def test_every_field_that_no_query_asks_for_is_exempt() -> None:
    """Of each field of each document either a query makes use or its index, which costs with each write, is off."""
    store, version = await do_everything()
    written = everything(store.project)
    await store.commit(Commit(ASHA, version, (Erased(1),)))
    written |= everything(store.project)
    await store.expire(receipts_before_ms=9)
    await store.close()
    fields = defaultdict(set)
    for path, document in written.items():
        fields[path.split("/")[-2]] |= document.keys()
    wanted: set[tuple[str, str]] = set()
    for shape in store.query_shapes:
        wanted |= needed(shape)[0]
    for collection, names in fields.items():
        for name in names:
            place = (collection, name)
            assert (place in EXEMPT) != (place in wanted), place


def test_receipts_expire_by_themselves() -> None:
    """Firestore removes receipts whose time is over."""
    lifetimes = [(e["collectionGroup"], e["fieldPath"]) for e in DECLARED["fieldOverrides"] if e.get("ttl")]
    assert lifetimes == [("receipts", "expireAt")]


def test_clients_are_denied_everything() -> None:
    """The rules allow nobody anything: only the server's service account, which rules do not bind, may."""
    rules = (REPOSITORY / "firestore.rules").read_text()
    assert rules.count("allow ") == 1
    assert "allow read, write: if false;" in rules
