"""Pieces of large documents: however a write ends, an erasing finds all, and a reader none that is not whole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from samvad.errors import StoreUnavailable
from samvad.knowledge.records import Scope
from samvad.knowledge.store_firestore import FirestoreKnowledgeStore
from tests.firestore.raw import everything
from tests.firestore.support import cut_off, open_store
from tests.firestore.test_document_marks import VECTORS, beside, left, note

pytestmark = pytest.mark.anyio
ASHA = Scope("default", "asha")
OTHER = msgspec.structs.replace(note(), text="Other words.")
OTHER_VECTORS = msgspec.structs.replace(VECTORS, data=b"\1\1\1\1\1\1")
_Act = Callable[[FirestoreKnowledgeStore], Awaitable[Any]]


async def put_both(documents: FirestoreKnowledgeStore) -> None:
    """A document and its vectors, each in pieces."""
    await documents.put(note())
    await documents.put_vectors(ASHA, VECTORS)


WRITES: dict[str, tuple[_Act | None, _Act]] = {
    "a document": (None, lambda documents: documents.put(note())),
    "a document anew": (put_both, lambda documents: documents.put(OTHER)),
    "vectors": (
        lambda documents: documents.put(note()),
        lambda documents: documents.put_vectors(ASHA, VECTORS),
    ),
    "vectors anew": (put_both, lambda documents: documents.put_vectors(ASHA, OTHER_VECTORS)),
    "a removal": (put_both, lambda documents: documents.remove(ASHA, "note")),
}


@pytest.mark.parametrize("what", WRITES)
async def test_what_was_cut_off_is_erased_too(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off at any call: what is read is what was there before or all that is new, and erasing leaves no piece."""
    monkeypatch.setattr("samvad.knowledge.store_firestore._CHUNK_CHARS", 2)
    monkeypatch.setattr("samvad.knowledge.store_firestore_beside._CHUNK_BYTES", 2)
    before, act = WRITES[what]
    store = await open_store()
    done, cut_at = False, 0
    while not done:
        if before is not None:
            await before(beside(store))
        try:
            with cut_off(store, cut_at):
                await act(beside(store))
            done = True
        except StoreUnavailable:
            cut_at += 1
        after = beside(store)  # the process that comes next
        found = await after.get(ASHA, "note")
        assert found is None or found.text in ("Text.", "Other words.")
        vectors = await after.get_vectors(ASHA, "note", "space")
        assert vectors is None or vectors.data in (VECTORS.data, OTHER_VECTORS.data)
        assert await after.embedded(ASHA, "space") == ({"note"} if vectors is not None else set())
        await after.erase(ASHA)
        assert [path for path in everything(store.project) if "/chunks/" in path] == []
        assert set(left(store.project)) <= {"knowledge_scopes"}
        await after.close()
    assert cut_at > 1
    await store.close()
