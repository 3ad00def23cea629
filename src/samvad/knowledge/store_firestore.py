"""Documents in Firestore: `knowledge_base/{id}`, the text in `knowledge_base/{id}/chunks/{n}`.

A document's place in its scope and the time of its change stand in one field, `changed`, the only one that is indexed:
one range query tells what has changed in a scope since a moment. What is removed leaves a note without content, so that
other replicas hear of it. Each replica makes its own indexes of words from the documents.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from samvad import limits
from samvad.clock import Clock, rfc3339
from samvad.errors import Unreadable
from samvad.knowledge.records import (
    Document,
    DocumentPage,
    Filter,
    HeadingAt,
    Scope,
    StoredDocument,
    Vectors,
)
from samvad.knowledge.store import fits, page_of, same_among, unreadable_document
from samvad.knowledge.store_firestore_beside import FirestoreBeside, scopes_beside
from samvad.knowledge.store_firestore_chunks import chunk, chunks_below, commit, pages
from samvad.knowledge.store_firestore_marks import ScopeMarks
from samvad.stores import firestore_documents as documents
from samvad.stores.firestore_client import BoundedClient, CommitRefused
from samvad.stores.firestore_names import Names, document_id
from samvad.stores.firestore_queries import query

_COLLECTION: Final = "knowledge_base"
_CHUNK_CHARS: Final = 200_000  # at most 800,000 bytes of UTF-8: a document may have 1 MiB
_SKEW_MS: Final = 60_000  # by which the replicas' clocks may differ
_NOTE_KEPT_MS: Final = limits.REMOVAL_NOTE_KEPT_S * 1_000
_WRITES_AT_ONCE: Final = 200
_SCOPES_MAX: Final = 1_000
_EVERYTHING_AT_ONCE: Final = 200


class _Head(msgspec.Struct, array_like=True):
    """What stands in a document's own record, beside its place."""

    revision: int
    chunks: int = 0
    document: Document | None = None  # None: it was removed
    document_id: str = ""
    headings: tuple[HeadingAt, ...] = ()


class _Known:
    """What is known of a scope: its documents, and up to when."""

    def __init__(self) -> None:
        self.heads: dict[str, _Head] = {}
        self.until_ms = 0
        self.news = True  # others may have changed something, and `changed` has not told it yet


class FirestoreKnowledgeStore:
    """Documents in one Firestore database, over the client of the store of conversations."""

    name = "firestore"
    shared = True

    def __init__(self, client: BoundedClient, names: Names, clock: Clock) -> None:
        self._client = client
        self._names = names
        self._clock = clock
        self._known: dict[Scope, _Known] = {}
        self._locks: dict[Scope, asyncio.Lock] = {}
        self._revision = 0
        self._beside = FirestoreBeside(client, names, clock)
        self.marks = ScopeMarks(client, names, {_COLLECTION: _key_in, **scopes_beside()})

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        self._known.clear()
        await self.marks.close()

    # --- writing ---------------------------------------------------------------------------------------

    async def put(self, stored: StoredDocument) -> int:
        document = stored.document
        name = self._name(stored.scope, document.id)
        before = await self._head(name)
        revision, ms = self._next(before)
        pieces = [stored.text[at : at + _CHUNK_CHARS] for at in range(0, len(stored.text), _CHUNK_CHARS)]
        marking = self._marking(stored.scope)
        if before is None and len(pieces) > 1:  # cut off before all is there, the pieces are found by it
            note = _Head(revision, document_id=document.id)
            await commit(self._client, [documents.set_write(name, _fields(stored.scope, ms, note)), *marking])
        writes = [
            documents.set_write(chunk(name, revision, number), {"text": piece.encode()})
            for number, piece in enumerate(pieces)
        ]
        for write in writes[:-1]:  # one at a time: a request has a limit too
            await commit(self._client, [write])
        head = _Head(revision, len(pieces), document, document.id, stored.headings)
        write = documents.set_write(name, _fields(stored.scope, ms, head))
        await self._commit_all([*writes[-1:], write, *marking, *_gone(name, before)])
        self._note(stored.scope, document.id, head)
        if before is not None and before.document is not None and not _same_words(before.document, document):
            await self._beside.drop(name)
        return revision

    async def remove(self, scope: Scope, document_id: str) -> bool:
        name = self._name(scope, document_id)
        before = await self._head(name)
        if before is None or before.document is None:
            return False
        revision, ms = self._next(before)
        note = _Head(revision, document_id=document_id)
        write = documents.set_write(name, _fields(scope, ms, note))
        await self._commit_all([write, *self._marking(scope), *_gone(name, before)])
        self._note(scope, document_id, note)
        await self._beside.drop(name)
        return True

    async def erase(self, scope: Scope) -> int:
        removal = None
        if scope.user is not None:  # read before what is looked for: what comes later changes it
            mark = await self.marks.read(_key(scope))
            if not mark.may_have:
                self._known.pop(scope, None)
                return 0
            removal = mark.removal
        low, high = _range(scope, 0)
        found, beside = await asyncio.gather(
            self._client.query(self._names.root, query(_COLLECTION, low, high), self._client.deadline()),
            self._beside.found_of(_key(scope)),
        )
        heads = [_decode(each) for each in found]
        # A note without a name: other replicas look again, and find nothing.
        name = f"{self._names.root}/{_COLLECTION}/%x{_key(scope)}"
        names = [each.name for each in found if each.name != name]
        chunks = await chunks_below(self._client, names)
        # What names the chunks goes after them: cut off in between, they are found again.
        gone = [*beside.chunks, *chunks, *beside.names, *names]
        _, ms = self._next(None)
        note = documents.set_write(name, _fields(scope, ms, _Head(ms)))
        writes = [*[documents.delete_write(each) for each in gone], note]
        if heads:  # another replica may have put vectors of a document that was still there
            await self._commit_all(writes)
            late = await self._beside.found_of(_key(scope))
            writes = [documents.delete_write(each) for each in (*late.chunks, *late.names)]
        await self._commit_last(writes, removal)
        self._known.pop(scope, None)
        return sum(head.document is not None for head in heads)

    async def _commit_all(self, writes: Sequence[Any]) -> None:
        """In this order, a bounded number at a time."""
        for at in range(0, len(writes), _WRITES_AT_ONCE):
            await commit(self._client, writes[at : at + _WRITES_AT_ONCE])

    async def _commit_last(self, writes: Sequence[Any], removal: Any | None) -> None:
        """As `_commit_all`, and the mark with the last of them, unless something was written beside it meanwhile."""
        if removal is None:
            await self._commit_all(writes)
            return
        at = (len(writes) - 1) // _WRITES_AT_ONCE * _WRITES_AT_ONCE
        await self._commit_all(writes[:at])
        try:
            await self._client.commit_surely([*writes[at:], removal], self._client.deadline())
        except CommitRefused:
            await commit(self._client, writes[at:])

    def _marking(self, scope: Scope) -> list[Any]:
        """What marks a user as one who has something. Others are not: they may be written to all the time."""
        return [] if scope.user is None else [self.marks.write(_key(scope))]

    def _next(self, before: _Head | None) -> tuple[int, int]:
        """A revision that was never used for this document, and the time."""
        ms = self._clock.now_ms()
        self._revision = max(ms * 1_000, self._revision + 1, (before.revision + 1) if before else 0)
        return self._revision, ms

    def _note(self, scope: Scope, document_id: str, head: _Head) -> None:
        known = self._known.get(scope)
        if known is not None:
            known.heads[document_id] = head

    # --- reading ---------------------------------------------------------------------------------------

    async def _head(self, name: str) -> _Head | None:
        found = await self._client.get([name], self._client.deadline())
        document = found.documents.get(name)
        return None if document is None else _decode(document)

    async def get(self, scope: Scope, document_id: str) -> StoredDocument | None:
        name = self._name(scope, document_id)
        for _ in range(3):  # changed while it was being read: then its chunks are gone
            head = await self._head(name)
            if head is None or head.document is None:
                return None
            if head.document.unreadable:
                raise Unreadable
            names = [chunk(name, head.revision, n) for n in range(head.chunks)]
            parts = []
            for each in names:
                found = (await self._client.get([each], self._client.deadline())).documents.get(each)
                if found is None:
                    break
                parts.append(documents.fields_of(found)["text"])
            if len(parts) == len(names):
                return StoredDocument(
                    scope=scope,
                    document=head.document,
                    text=_joined(parts),
                    headings=head.headings,
                    revision=head.revision,
                )
        raise Unreadable("A document of the knowledge base has lost a part of its text; add it again.")

    async def same(self, scope: Scope, document: Document) -> Document | None:
        return same_among((await self._documents(scope)).values(), document)

    async def revisions(self, scope: Scope) -> dict[str, int]:
        await self._refresh(scope)
        self._known[scope].news = False
        heads = self._known[scope].heads
        return {name: head.revision for name, head in heads.items() if head.document is not None}

    async def scopes(self, known: Iterable[Scope]) -> tuple[list[Scope], int]:
        names = {_key(scope): scope for scope in known}
        tenants = {scope.tenant for scope in known if scope.tenant is not None}
        found: dict[str, int] = {}
        async for one in self._everything():
            document = _decode(one).document
            if document is None:
                continue
            key = documents.fields_of(one)["changed"].partition("/")[0]
            found[key] = found.get(key, 0) + 1
            if key not in names and document.user_id is not None:
                names.update({_key(s): s for s in (Scope(tenant, document.user_id) for tenant in tenants)})
        unnamed = sum(count for key, count in found.items() if key not in names)
        return [names[key] for key in found if key in names], unnamed

    async def _everything(self) -> AsyncIterator[Any]:
        """The records of all documents."""
        async for page in pages(self._client, self._names.root, _COLLECTION, _EVERYTHING_AT_ONCE):
            for one in page:
                yield one

    async def _documents(self, scope: Scope) -> dict[str, Document]:
        await self._refresh(scope)
        heads = self._known[scope].heads
        return {name: head.document for name, head in heads.items() if head.document is not None}

    async def list(
        self, scopes: Sequence[Scope], condition: Filter, *, limit: int, cursor: str | None
    ) -> DocumentPage:
        found = [
            document
            for scope in scopes
            for document in (await self._documents(scope)).values()
            if condition.admits(document)
        ]
        return page_of(found, limit, cursor)

    async def put_vectors(self, scope: Scope, vectors: Vectors) -> bool:
        name = self._name(scope, vectors.document_id)
        if not await self._fits(name, vectors):
            return False
        await self._beside.put_vectors(_key(scope), name, vectors, self._marking(scope))
        if not await self._fits(name, vectors):  # changed or removed meanwhile, by another replica
            await self._beside.drop(name)
            return False
        return True

    async def _fits(self, name: str, vectors: Vectors) -> bool:
        head = await self._head(name)
        return head is not None and head.document is not None and fits(vectors, head.document)

    async def get_vectors(self, scope: Scope, document_id: str, space: str) -> Vectors | None:
        name = self._name(scope, document_id)
        found = await self._beside.get_vectors(name)
        if found is None or found.space != space or not await self._fits(name, found):
            return None
        return found

    async def embedded(self, scope: Scope, space: str) -> set[str]:
        known = await self._documents(scope)
        return {
            each.document_id
            for each in await self._beside.heads(_key(scope))
            if each.space == space and each.document_id in known and fits(each, known[each.document_id])
        }

    async def statistics(self, scope: Scope) -> bytes | None:
        return await self._beside.statistics(_key(scope))

    async def change_statistics(self, scope: Scope, change: Callable[[bytes | None], bytes | None]) -> None:
        await self._beside.change_statistics(_key(scope), change, self._marking(scope))

    async def changed(self, scopes: Sequence[Scope]) -> Sequence[Scope]:
        found = []
        for scope in scopes:
            await self._refresh(scope)
            known = self._known[scope]
            if known.news:
                known.news = False
                found.append(scope)
        return found

    async def _refresh(self, scope: Scope) -> None:
        """Learn what others have changed in a scope."""
        async with self._locks.setdefault(scope, asyncio.Lock()):
            known = self._known.get(scope)
            now_ms = self._clock.now_ms()
            if known is not None and now_ms - known.until_ms > _NOTE_KEPT_MS // 2:
                known = None  # notes of removals may have gone meanwhile: all is read anew
                del self._known[scope]
            if known is None:
                while len(self._known) >= _SCOPES_MAX:
                    self._locks.pop(oldest := next(iter(self._known)), None)
                    del self._known[oldest]
                known = _Known()
            low, high = _range(scope, max(0, known.until_ms - _SKEW_MS))
            found = await self._client.query(
                self._names.root, query(_COLLECTION, low, high), self._client.deadline()
            )
            _learn(known, found)
            if known.until_ms == 0:
                await self._drop_notes(known, found, now_ms)
            known.until_ms = now_ms
            self._known[scope] = known

    async def _drop_notes(self, known: _Known, found: Sequence[Any], now_ms: int) -> None:
        """Remove the notes that every replica has heard of by now, unless they have become documents again."""
        old = [
            one
            for one in found
            if (head := _decode(one)).document is None
            and now_ms - head.revision // (1_000 if head.document_id else 1) > _NOTE_KEPT_MS
        ]
        for one in old[:_WRITES_AT_ONCE]:
            # Last, as pieces of what was cut off when it was written are found by it.
            below = await chunks_below(self._client, [one.name])
            await self._commit_all([documents.delete_write(each) for each in below])
            write = documents.only_if_unchanged(documents.delete_write(one.name), one.update_time)
            try:
                await self._client.commit_surely([write], self._client.deadline())
            except CommitRefused:
                continue
            known.heads.pop(_decode(one).document_id, None)

    def _name(self, scope: Scope, name: str) -> str:
        """The path of a document: of the tenant `default` under its own id, of others under a hash."""
        if scope.user is None and scope.tenant is not None:
            return f"{self._names.root}/{_COLLECTION}/{document_id(scope.tenant, name)}"
        return f"{self._names.root}/{_COLLECTION}/%h{_key(scope)}{hashlib.sha256(name.encode()).hexdigest()[:40]}"


def _same_words(one: Document, other: Document) -> bool:
    return (one.checksum, one.title) == (other.checksum, other.title)


def _learn(known: _Known, found: Sequence[Any]) -> None:
    """Take in what was read of a scope."""
    for one in found:
        head = _decode(one)
        if not head.document_id:  # the note of an erasing
            gone = [name for name, each in known.heads.items() if each.revision < head.revision * 1_000]
            for name in gone:
                del known.heads[name]
            known.news = known.news or bool(gone)
            continue
        there = known.heads.get(head.document_id)
        if there is None or there.revision < head.revision:
            known.heads[head.document_id] = head
            known.news = True


def _key(scope: Scope) -> str:
    """Names a scope, and says nothing of whose it is."""
    parts = "\0".join((scope.ownership, scope.tenant or "", scope.user or ""))
    return hashlib.sha256(parts.encode()).hexdigest()[:40]


def _gone(name: str, head: _Head | None) -> list[Any]:
    """What removes the pieces that this head tells of."""
    numbers = range(0 if head is None else head.chunks)
    return [documents.delete_write(chunk(name, head.revision, each)) for each in numbers] if head else []


def _fields(scope: Scope, ms: int, head: _Head) -> documents.Fields:
    return {"changed": f"{_key(scope)}/{ms:015d}", "body": msgspec.msgpack.encode(head)}


def _joined(parts: Sequence[bytes]) -> str:
    try:
        return "".join([part.decode() for part in parts])
    except UnicodeDecodeError:
        raise Unreadable from None


def _decode(document: Any) -> _Head:
    fields = documents.fields_of(document)
    try:
        return msgspec.msgpack.decode(fields["body"], type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError):  # damaged: the others are to be read all the same
        name, at = document.name.rpartition("/")[2], rfc3339(int(fields["changed"].rpartition("/")[2]))
        return _Head(0, document=unreadable_document(name, at), document_id=name)


def _key_in(document: Any) -> str | None:
    """Names the scope of a document; None for the note of an erasing, which nobody need remove."""
    fields = documents.fields_of(document)
    if not {"changed", "body"} <= fields.keys() or not _decode(document).document_id:
        return None
    return str(fields["changed"]).partition("/")[0]


def _range(scope: Scope, since_ms: int) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    key = _key(scope)
    return (
        ("changed", "GREATER_THAN_OR_EQUAL", f"{key}/{since_ms:015d}"),
        ("changed", "LESS_THAN", f"{key}0"),
    )
