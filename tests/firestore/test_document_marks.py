"""Marks of who has documents: without one, erasing asks for no query; nothing is ever left without one."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from samvad.errors import StoreUnavailable
from samvad.knowledge.carrying import kept
from samvad.knowledge.records import Document, Scope, StoredDocument, Vectors
from samvad.knowledge.store_firestore import FirestoreKnowledgeStore
from samvad.knowledge.store_sealed import SealedKnowledgeStore
from samvad.stores.data_keys import DataKeys
from samvad.stores.firestore_data_keys import FirestoreDataKeys
from samvad.stores.master_keys import LocalMasterKey
from samvad.testing.clock import VirtualClock
from tests.firestore.raw import everything, google_client
from tests.firestore.support import cut_off, open_store
from tests.firestore.test_erasing import spent

pytestmark = pytest.mark.anyio
ASHA = Scope("default", "asha")
NOBODY = Scope("default", "nobody")
VECTORS = Vectors("note", "space", "c", "Note", 1, ((0, 5),), b"\0\0\0\0")


def note(user: str = "asha", name: str = "note") -> StoredDocument:
    """A document of a user's."""
    at = "2025-01-10T10:00:00Z"
    document = Document(
        id=name,
        title="Note",
        type="text",
        content_length=5,
        added_at=at,
        updated_at=at,
        checksum="c",
        owner="user",
        user_id=user,
    )
    return StoredDocument(scope=Scope("default", user), document=document, text="Text.")


def beside(store: Any) -> FirestoreKnowledgeStore:
    """The documents beside a store."""
    return FirestoreKnowledgeStore(store.client, store.names, VirtualClock())


def left(project: str) -> list[str]:
    """The documents that are there, without notes of erasings and what tells that all is marked."""
    found = [path.partition("/") for path in everything(project)]
    return sorted(each[0] for each in found if not each[2].startswith("%x") and each[2] != "throughout")


def marks(project: str) -> int:
    """How many scopes are marked."""
    return left(project).count("knowledge_scopes")


def unmark(project: str, *, but: str = "") -> None:
    """As a version left it that knew of no marks; `but` stays."""
    with google_client(project) as google:
        for each in google.collection("knowledge_scopes").list_documents():
            if each.id != but:
                each.delete()


async def test_what_erasing_documents_asks_for() -> None:
    """One get where there are none, as soon as all is marked; until then what there was is looked for."""
    store = await open_store()
    documents = beside(store)
    assert await documents.erase(ASHA) == 0
    assert documents.marks.marking is not None
    await documents.marks.marking
    before, shapes = spent(store), len(store.client.shapes)
    for scope in (ASHA, NOBODY):
        assert await documents.erase(scope) == 0
    assert spent(store, before) == (2, 4, 0, 0)
    assert len(store.client.shapes) == shapes
    await documents.put(note())
    await documents.put_vectors(ASHA, VECTORS)
    await documents.change_statistics(ASHA, lambda _: b"asked")
    before = spent(store)
    assert await documents.erase(ASHA) == 1
    # The mark, two queries, the pieces below what they found, a commit; vectors that came later, and a commit.
    assert spent(store, before)[0] == 8
    assert left(store.project) == []
    before = spent(store)
    assert await documents.erase(ASHA) == 0
    assert spent(store, before) == (1, 2, 0, 0)
    await documents.close()
    await store.close()


async def put_note(documents: FirestoreKnowledgeStore, _: str) -> None:
    await documents.put(note())


async def carry_note(documents: FirestoreKnowledgeStore, _: str) -> None:
    """As `samvad migrate` and `samvad restore` bring it."""
    assert await kept(documents, note())


async def put_statistics(documents: FirestoreKnowledgeStore, _: str) -> None:
    await documents.change_statistics(ASHA, lambda _: b"asked")


async def put_vectors(documents: FirestoreKnowledgeStore, project: str) -> None:
    """As if the mark had gone since they were seen to be wanted."""
    await documents.put(note())
    unmark(project, but="throughout")
    await documents.put_vectors(ASHA, VECTORS)


async def remove_note(documents: FirestoreKnowledgeStore, project: str) -> None:
    """As if the mark had gone since the document was seen; its id stays in the note."""
    await documents.put(note())
    unmark(project, but="throughout")
    await documents.remove(ASHA, "note")


@pytest.mark.parametrize("change", [put_note, carry_note, put_statistics, put_vectors, remove_note])
async def test_whatever_is_written_is_marked(
    change: Callable[[FirestoreKnowledgeStore, str], Awaitable[None]],
) -> None:
    """Also again after another replica has removed it all, which this one has not heard of."""
    store = await open_store()
    documents = beside(store)
    await documents.marks.mark_all()
    other = await open_store(store.project)
    elsewhere = beside(other)
    for _ in range(2):
        await change(documents, store.project)
        assert marks(store.project) == 1
        await elsewhere.erase(ASHA)
        assert left(store.project) == []
    await store.close()
    await other.close()


@pytest.mark.parametrize("what", ["documents", "vectors", "statistics", "removal"])
async def test_what_was_there_before_is_marked_first(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off at any call it is not told to be whole, and erasing looks; begun again, nobody is missed."""
    monkeypatch.setattr("samvad.knowledge.store_firestore_marks._AT_ONCE", 2)
    store = await open_store()
    documents = beside(store)
    for user in ("asha", "bala", "chitra"):
        await documents.put(note(user))
        await documents.put_vectors(Scope("default", user), VECTORS)
        await documents.change_statistics(Scope("default", user), lambda _: b"asked")
        if what == "removal":
            await documents.remove(Scope("default", user), "note")
    holds = {
        "documents": "knowledge_base",
        "vectors": "knowledge_vectors",
        "statistics": "knowledge_statistics",
    }
    with google_client(store.project) as google:
        for collection in set(holds.values()) - {holds.get(what, "knowledge_base")}:
            google.recursive_delete(google.collection(collection))
    unmark(store.project)
    cut_at = 0
    while True:
        try:
            with cut_off(store, cut_at):
                await documents.marks.mark_all()
        except StoreUnavailable:
            assert not any(path.endswith("/throughout") for path in everything(store.project))
            cut_at += 1
        else:
            break
        if cut_at == 1:  # not even begun: what is there is found all the same
            await documents.erase(Scope("default", "chitra"))
            assert documents.marks.marking is not None
            await documents.marks.marking
            unmark(store.project)
    assert cut_at > 4
    assert marks(store.project) == 2
    for user in ("asha", "bala"):
        await documents.erase(Scope("default", user))
    assert [each for each in left(store.project) if each in (*holds.values(), "knowledge_scopes")] == []
    await documents.close()
    await store.close()


@pytest.mark.parametrize("moment", ["get", "query", "commit"])
@pytest.mark.parametrize("had_some", [True, False])
async def test_what_is_put_while_a_user_is_erased_is_gone_or_marked(moment: str, had_some: bool) -> None:
    """Before the mark is read, between that and the looking, and before what was found goes: the next one gets it."""
    for after in (False, True):
        store = await open_store()
        other = await open_store(store.project)
        here, there = beside(store), beside(other)
        await here.marks.mark_all()
        if had_some:
            await here.put(note(name="first"))
        call, done = getattr(store.client, moment), False

        async def meanwhile(
            *arguments: Any,
            call: Any = call,
            there: FirestoreKnowledgeStore = there,
            after: bool = after,
            **options: Any,
        ) -> Any:
            nonlocal done
            first, done = not done, True
            if first and not after:
                await there.put(note())
            answer = await call(*arguments, **options)
            if first and after:
                await there.put(note())
            return answer

        setattr(store.client, moment, meanwhile)
        await here.erase(ASHA)
        setattr(store.client, moment, call)
        if not done:  # nothing was there to be looked for
            await there.put(note())
        assert "knowledge_base" not in left(store.project) or marks(store.project) == 1
        await here.erase(ASHA)
        assert [each for each in left(store.project) if each != "knowledge_scopes"] == []
        await here.erase(ASHA)
        assert left(store.project) == []
        await store.close()
        await other.close()


async def test_sealed_documents_are_marked_too() -> None:
    """With a key it is the same store below: marked when put, and nothing is left."""
    store = await open_store()
    keys = DataKeys(FirestoreDataKeys(store.client, store.names), [LocalMasterKey(os.urandom(32))])
    await keys.open()
    inner = beside(store)
    documents = SealedKnowledgeStore(inner, keys, VirtualClock())
    await documents.open()
    await inner.marks.mark_all()
    await documents.put(note())
    assert marks(store.project) == 1
    assert await documents.erase(ASHA) == 1
    assert {each for each in left(store.project) if each.startswith("knowledge")} == set()
    await documents.close()
    await keys.close()
    await store.close()
