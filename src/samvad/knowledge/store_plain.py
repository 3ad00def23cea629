"""A store of documents where encryption is off: sealed ones, that a backup may have brought, are told as unreadable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from samvad.errors import Unreadable
from samvad.knowledge.records import Document, DocumentPage, Filter, Scope, StoredDocument
from samvad.knowledge.sealing import is_sealed, unreadable
from samvad.knowledge.store import KnowledgeStore


class PlainKnowledgeStore:
    """`inner` as it is, but that no seal is taken for a text."""

    def __init__(self, inner: KnowledgeStore) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def get(self, scope: Scope, document_id: str) -> StoredDocument | None:
        """As the protocol says; Unreadable where it is sealed."""
        kept = await self.inner.get(scope, document_id)
        if kept is not None and is_sealed(kept.document):
            raise Unreadable("What is stored here is encrypted, and its keys are not here.")
        return kept

    async def same(self, scope: Scope, document: Document) -> Document | None:
        """As the protocol says."""
        found = await self.inner.same(scope, document)
        return None if found is None else _told(found)

    async def list(
        self, scopes: Sequence[Scope], condition: Filter, *, limit: int, cursor: str | None
    ) -> DocumentPage:
        """As the protocol says."""
        page = await self.inner.list(scopes, condition, limit=limit, cursor=cursor)
        return msgspec.structs.replace(page, documents=tuple([_told(each) for each in page.documents]))


def _told(document: Document) -> Document:
    return unreadable(document) if is_sealed(document) else document
