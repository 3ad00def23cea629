"""Where documents are kept: the KnowledgeStore protocol, and the store that keeps them in memory.

A store knows nothing of words: indexes are made from its documents, and made anew wherever they are lost.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from samvad.errors import NotFound
from samvad.knowledge.records import Document, DocumentPage, Filter, Ownership, Scope, StoredDocument, Vectors

_CURSOR_CHARS_MAX = 1_000


class KnowledgeStore(Protocol):
    """Documents by scope and id. All methods are called from one event loop; StoreUnavailable where one fails."""

    name: str
    shared: bool  # other processes may write: `changed` is to be asked before a search, now and then

    async def open(self) -> None:
        """Make ready."""
        ...

    async def close(self) -> None:
        """Let everything go. Twice is fine."""
        ...

    async def put(self, stored: StoredDocument) -> int:
        """Keep a document, instead of what was there under its scope and id; its new revision."""
        ...

    async def remove(self, scope: Scope, document_id: str) -> bool:
        """Remove a document; whether it was there."""
        ...

    async def erase(self, scope: Scope) -> int:
        """Remove all documents of a scope, so that no byte of them is left; how many there were."""
        ...

    async def get(self, scope: Scope, document_id: str) -> StoredDocument | None:
        """One document with its text; Unreadable where it is damaged."""
        ...

    async def same(self, scope: Scope, document: Document) -> Document | None:
        """The document that this one is another version of: of the same source, or else of the same words."""
        ...

    async def revisions(self, scope: Scope) -> dict[str, int]:
        """The ids of a scope's documents, and the revision of each."""
        ...

    async def scopes(self, known: Iterable[Scope]) -> tuple[list[Scope], int]:
        """The scopes that have documents, and how many documents are of none that could be named.

        A store that keeps no names of owners finds them among `known`.
        """
        ...

    async def list(
        self, scopes: Sequence[Scope], condition: Filter, *, limit: int, cursor: str | None
    ) -> DocumentPage:
        """Documents of several scopes, newest first."""
        ...

    async def put_vectors(self, scope: Scope, vectors: Vectors) -> bool:
        """Keep a document's vectors instead of those there were; false where the document is not as it was embedded."""
        ...

    async def get_vectors(self, scope: Scope, document_id: str, space: str) -> Vectors | None:
        """The vectors of a document in that space, as the document is now."""
        ...

    async def embedded(self, scope: Scope, space: str) -> set[str]:
        """The ids of a scope's documents that have vectors in that space, as they are now."""
        ...

    async def statistics(self, scope: Scope) -> bytes | None:
        """What was kept of what is asked of a scope."""
        ...

    async def change_statistics(self, scope: Scope, change: Callable[[bytes | None], bytes | None]) -> None:
        """Keep what `change` makes of it, in one step; None removes it. `change` may be called again."""
        ...

    async def changed(self, scopes: Sequence[Scope]) -> Sequence[Scope]:
        """Those of the scopes in which other processes have changed something since the store last looked."""
        ...


def sort_key(document: Document) -> tuple[str, str]:
    """Documents are listed by the time at which they were added, then by id, newest first."""
    return document.added_at, document.id


def cursor_after(document: Document) -> str:
    """Names the place behind a document in a list."""
    return base64.urlsafe_b64encode(f"{document.added_at} {document.id}".encode()).decode().rstrip("=")


def parse_cursor(cursor: str) -> tuple[str, str]:
    """The place that a cursor names: NotFound where it is none of ours."""
    try:
        if len(cursor) > _CURSOR_CHARS_MAX or not cursor.isascii():
            raise ValueError
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        added_at, space, document_id = text.partition(" ")
        if not space or not document_id:
            raise ValueError
    except (ValueError, binascii.Error):
        raise NotFound(
            "There is no such place in the list; `cursor` is the nextCursor of an earlier answer."
        ) from None
    return added_at, document_id


def same_among(there: Iterable[Document], document: Document) -> Document | None:
    """Which of the documents this one is another version of: that of its source, or else that of its words."""
    for known in there:
        if known.source == document.source and (
            document.source is not None
            or (known.checksum == document.checksum and known.title == document.title)
        ):
            return known
    return None


def unreadable_document(
    document_id: str, added_at: str, owner: Ownership = "tenant", user_id: str | None = None
) -> Document:
    """What is told of a document of which not even the record can be read."""
    return Document(
        id=document_id,
        title="",
        type="text",
        content_length=0,
        added_at=added_at,
        updated_at=added_at,
        checksum="",
        owner=owner,
        user_id=user_id,
        unreadable=True,
    )


class MemoryKnowledgeStore:
    """Documents in memory, lost with the process."""

    name = "memory"
    shared = False

    def __init__(self) -> None:
        self._kept: dict[Scope, dict[str, StoredDocument]] = {}
        self._vectors: dict[Scope, dict[str, Vectors]] = {}
        self._statistics: dict[Scope, bytes] = {}
        self._revision = 0

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def put(self, stored: StoredDocument) -> int:
        self._revision += 1
        kept = msgspec.structs.replace(stored, revision=self._revision)
        self._kept.setdefault(stored.scope, {})[stored.document.id] = kept
        return self._revision

    async def remove(self, scope: Scope, document_id: str) -> bool:
        self._vectors.get(scope, {}).pop(document_id, None)
        return self._kept.get(scope, {}).pop(document_id, None) is not None

    async def erase(self, scope: Scope) -> int:
        self._vectors.pop(scope, None)
        self._statistics.pop(scope, None)
        return len(self._kept.pop(scope, {}))

    async def get(self, scope: Scope, document_id: str) -> StoredDocument | None:
        return self._kept.get(scope, {}).get(document_id)

    async def same(self, scope: Scope, document: Document) -> Document | None:
        return same_among((stored.document for stored in self._kept.get(scope, {}).values()), document)

    async def revisions(self, scope: Scope) -> dict[str, int]:
        return {name: stored.revision for name, stored in self._kept.get(scope, {}).items()}

    async def scopes(self, known: Iterable[Scope]) -> tuple[list[Scope], int]:
        return [scope for scope, kept in self._kept.items() if kept], 0

    async def list(
        self, scopes: Sequence[Scope], condition: Filter, *, limit: int, cursor: str | None
    ) -> DocumentPage:
        found = [
            stored.document
            for scope in scopes
            for stored in self._kept.get(scope, {}).values()
            if condition.admits(stored.document)
        ]
        return page_of(found, limit, cursor)

    async def put_vectors(self, scope: Scope, vectors: Vectors) -> bool:
        there = self._kept.get(scope, {}).get(vectors.document_id)
        if there is None or not fits(vectors, there.document):
            return False
        self._vectors.setdefault(scope, {})[vectors.document_id] = vectors
        return True

    async def get_vectors(self, scope: Scope, document_id: str, space: str) -> Vectors | None:
        there = self._kept.get(scope, {}).get(document_id)
        found = self._vectors.get(scope, {}).get(document_id)
        if there is None or found is None or found.space != space or not fits(found, there.document):
            return None
        return found

    async def embedded(self, scope: Scope, space: str) -> set[str]:
        return {
            name
            for name in self._vectors.get(scope, {})
            if await self.get_vectors(scope, name, space) is not None
        }

    async def statistics(self, scope: Scope) -> bytes | None:
        return self._statistics.get(scope)

    async def change_statistics(self, scope: Scope, change: Callable[[bytes | None], bytes | None]) -> None:
        body = change(self._statistics.pop(scope, None))
        if body is not None:
            self._statistics[scope] = body

    async def changed(self, scopes: Sequence[Scope]) -> Sequence[Scope]:
        return ()


def fits(vectors: Vectors, document: Document) -> bool:
    """Whether vectors are of a document as it is now."""
    return (vectors.checksum, vectors.title) == (document.checksum, document.title)


def page_of(found: Sequence[Document], limit: int, cursor: str | None) -> DocumentPage:
    """One page of the documents that were found."""
    ordered = sorted(found, key=sort_key, reverse=True)
    count = len(ordered)
    if cursor is not None:
        behind = parse_cursor(cursor)
        ordered = [document for document in ordered if sort_key(document) < behind]
    page = tuple(ordered[:limit])
    more = len(ordered) > limit
    return DocumentPage(documents=page, count=count, next_cursor=cursor_after(page[-1]) if more else None)
