"""The store of the documents and the engine that finds in them, kept in step."""

from __future__ import annotations

import asyncio
import logging
import math
import weakref
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from samvad import limits
from samvad.clock import Clock
from samvad.errors import StoreUnavailable, Unreadable
from samvad.knowledge.embedding import Embedder
from samvad.knowledge.embedding_work import EmbeddingWork
from samvad.knowledge.records import Document, Filter, Hit, KnowledgeAnswer, Scope, StoredDocument, is_of
from samvad.knowledge.remote import RemoteEngine
from samvad.knowledge.store import KnowledgeStore
from samvad.knowledge.worker import Ask, Count, Drop, Put, Remove, Revisions, Search, Unlock
from samvad.tracing import spanning

_log = logging.getLogger(__name__)
_SCOPES_MAX: Final = 10_000
_RETRIEVAL: Final = "retrieval samvad.knowledge"
_TOLD: Final = {"gen_ai.operation.name": "retrieval", "gen_ai.data_source.id": "samvad.knowledge"}
_BATCH_CHARS: Final = 200_000  # of documents indexed at a time: searches come in between


class Seals(Protocol):
    """What seals indexes, where encryption is on."""

    async def index_key(self, scope: Scope) -> bytes | None:
        """The key of a scope's index; None where nothing is kept that could be indexed."""
        ...

    def forget(self, scope: Scope) -> None:
        """Drop what memory holds of a scope's keys."""
        ...


class Shelf:
    """Documents with their indexes. An index follows its documents, and is made anew where it was lost."""

    def __init__(
        self,
        store: KnowledgeStore,
        engine: RemoteEngine,
        clock: Clock,
        embedder: Embedder | None = None,
        *,
        readonly: bool = False,
        seals: Seals | None = None,
    ) -> None:
        self.store = store
        self.engine = engine
        self.unreadable: dict[Scope, int] = {}  # how many documents are left out, as they cannot be read
        self._seals = seals
        self._unlocked: dict[Scope, int] = {}  # scope: the start of the engine that has the key
        self.embedding = (
            None if embedder is None else EmbeddingWork(store, engine, embedder, self.lock, readonly=readonly)
        )
        self._clock = clock
        self._late: set[Scope] = set()  # of which it is known that others have changed them
        self._looked_s: dict[Scope, float] = {}  # scope: when it was last asked what others had changed
        self._in_step: dict[Scope, int] = {}  # scope: the start of the engine for which that was made sure
        self.loop: asyncio.AbstractEventLoop | None = None  # that opened it, and that it belongs to
        self._opening = asyncio.Lock()
        self._locks: weakref.WeakValueDictionary[Scope, asyncio.Lock] = weakref.WeakValueDictionary()
        self._opened = False

    async def open(self) -> None:
        """Make the store ready; nothing where it is."""
        if not self._opened:
            async with self._opening:
                if not self._opened:
                    self.loop = asyncio.get_running_loop()
                    await self.store.open()
                    self._opened = True

    async def close(self) -> None:
        """Let the store and the engine go."""
        if self.embedding is not None:
            await self.embedding.close()
        await self.engine.close()
        if self._opened:
            self._opened = False
            await self.store.close()

    # --- changing --------------------------------------------------------------------------------------

    async def put(self, stored: StoredDocument) -> Document:
        """Keep a document, and have it found from now on."""
        count = await self.engine.ask(Count(stored.text, stored.headings))
        document = msgspec.structs.replace(stored.document, passages=count)
        stored = msgspec.structs.replace(stored, document=document)
        async with self.lock(stored.scope):
            revision = await self.store.put(stored)
            in_step = self._in_step.pop(stored.scope, None)
            if in_step is not None and in_step == self.engine.starts:
                await self._unlock(stored.scope)
                await self.engine.ask(Put([msgspec.structs.replace(stored, revision=revision)]))
                self._is_in_step(stored.scope, in_step)
                if self.embedding is not None:
                    await self.embedding.put(stored.scope, document.id)
            else:
                await self._follow(stored.scope)
        return document

    async def remove(self, scope: Scope, document_id: str) -> bool:
        """Remove a document from the store and the index."""
        async with self.lock(scope):
            await self._unlock(scope)  # or a sealed copy of the index would keep its words
            await self.engine.ask(Remove(scope, [document_id]))
            return await self.store.remove(scope, document_id)

    async def erase(self, scope: Scope) -> int:
        """Remove all documents of a scope, and its index."""
        await self.open()
        async with self.lock(scope):
            # The index first: what is left over if the power fails here is a document, which is indexed again.
            self._in_step.pop(scope, None)
            if self.embedding is not None:
                self.embedding.forget(scope)
            await self._drop(scope)
            return await self.store.erase(scope)

    async def _drop(self, scope: Scope) -> None:
        self._unlocked.pop(scope, None)
        self.unreadable.pop(scope, None)
        await self.engine.ask(Drop(scope))

    async def _unlock(self, scope: Scope) -> None:
        """Give the engine what seals the index of a scope, if it has not got it."""
        if self._seals is None or self._unlocked.get(scope) == self.engine.starts:
            return
        key = await self._seals.index_key(scope)
        if key is not None:
            start = self.engine.starts
            await self.engine.ask(Unlock(scope, key))
            if len(self._unlocked) > _SCOPES_MAX:
                self._unlocked.clear()
            self._unlocked[scope] = start

    async def reindex(self, scope: Scope) -> int:
        """Make an index anew; how many documents are in it."""
        await self.open()
        async with self.lock(scope):
            self._in_step.pop(scope, None)
            await self._drop(scope)
            count = await self._follow(scope)
        if self.embedding is not None:
            await self.embedding.make(scope)
        return count

    async def _leave_out(self, scope: Scope, names: Sequence[str]) -> None:
        """These documents cannot be read: they are not found, and all others are."""
        self.unreadable.pop(scope, None)
        if names:
            self.unreadable[scope] = len(names)
            await self.engine.ask(Remove(scope, list(names)))
            _log.error(
                "documents of the knowledge base cannot be read, and are left out; a list marks them",
                extra={"owner": scope.ownership, "count": len(names)},
            )

    def lock(self, scope: Scope) -> asyncio.Lock:
        """Held while a scope's documents and its index are made to agree."""
        lock = self._locks.get(scope)
        if lock is None:
            lock = self._locks[scope] = asyncio.Lock()
        return lock

    async def gone(self, erased: bytes) -> None:
        """A user of this hash was erased by another process, with their documents: their index goes here as well."""
        known = [each for each in {*self._in_step, *self._unlocked, *self._locks} if is_of(each, erased)]
        for scope in known:
            async with self.lock(scope):
                self._in_step.pop(scope, None)
                if self.embedding is not None:
                    self.embedding.forget(scope)
                await self._drop(scope)
        if not known:
            await asyncio.to_thread(self.engine.remove_files_of, erased)

    def forget(self, scope: Scope) -> None:
        """The documents of a scope were removed, here or elsewhere: what opened them goes from memory as well."""
        self._unlocked.pop(scope, None)
        if self._seals is not None:
            self._seals.forget(scope)

    # --- asking ----------------------------------------------------------------------------------------

    async def known(self, scope: Scope, document_id: str) -> Document | None:
        """The document that another of this id would take the place of; None also where it cannot be read."""
        try:
            there = await self.store.get(scope, document_id)
        except Unreadable:
            return None
        return None if there is None else there.document

    async def place(self, scopes: Sequence[Scope], document_id: str) -> Scope | None:
        """In which of these scopes a document stands, readable or not; None where it is in none."""
        await self.open()
        for scope in scopes:
            try:
                if await self.store.get(scope, document_id) is not None:
                    return scope
            except Unreadable:
                return scope
        return None

    async def search(self, query: str, scopes: Sequence[Scope], condition: Filter, limit: int) -> list[Hit]:
        """The best passages of these scopes."""
        with spanning(_RETRIEVAL, _TOLD):
            await self._ready(scopes)
            vector = None
            if self.embedding is not None:
                for scope in scopes:
                    self.embedding.follow(scope)
                vector = await self.embedding.vector(query, scopes)
            found: list[Hit] = await self.engine.ask(Search(query, list(scopes), condition, limit, vector))
        return found

    async def answer(
        self, query: str, scopes: Sequence[Scope], condition: Filter, threshold: float
    ) -> KnowledgeAnswer:
        """An answer out of these scopes."""
        with spanning(_RETRIEVAL, _TOLD):
            await self._ready(scopes)
            found: KnowledgeAnswer = await self.engine.ask(Ask(query, list(scopes), condition, threshold, 3))
        return found

    async def _ready(self, scopes: Sequence[Scope]) -> None:
        await self.open()
        await self.engine.start()
        for scope in scopes:
            if self._in_step.get(scope) != self.engine.starts:
                async with self.lock(scope):
                    if self._in_step.get(scope) != self.engine.starts:
                        await self._follow(scope)
        if self.store.shared:
            await self._hear(scopes)

    async def _hear(self, scopes: Sequence[Scope]) -> None:
        """Follow what other processes have changed, where that was not asked for some seconds."""
        now_s = self._clock.monotonic_s()
        due = [
            scope
            for scope in scopes
            if now_s - self._looked_s.get(scope, -math.inf) >= limits.KNOWLEDGE_STALE_S_MAX
        ]
        if not due:
            return
        if len(self._looked_s) > _SCOPES_MAX:
            self._looked_s.clear()
        self._looked_s |= dict.fromkeys(due, now_s)
        try:
            self._late.update(await self.store.changed(due))
            for scope in self._late.intersection(due):
                async with self.lock(scope):
                    await self._follow(scope)
        except StoreUnavailable as error:
            for scope in due:
                self._looked_s.pop(scope, None)
            _log.warning(
                "the documents cannot be reached; searches go on over what was known",
                extra={"error": type(error).__name__},
            )

    def _is_in_step(self, scope: Scope, start: int) -> None:
        if len(self._in_step) >= _SCOPES_MAX:
            self._in_step.clear()  # made sure again when they are asked for
        self._in_step[scope] = start

    async def _follow(self, scope: Scope) -> int:
        """Bring a scope's index in step with its documents; how many had to be indexed."""
        await self.engine.start()
        start = self.engine.starts
        await self._unlock(scope)
        wanted = await self.store.revisions(scope)
        there: dict[str, int] = await self.engine.ask(Revisions(scope))
        gone = [document_id for document_id in there if document_id not in wanted]
        if gone:
            await self.engine.ask(Remove(scope, gone))
        late = [name for name, revision in wanted.items() if there.get(name) != revision]
        batch: list[StoredDocument] = []
        chars = 0
        damaged: list[str] = []
        for name in late:
            try:
                stored = await self.store.get(scope, name)
            except Unreadable:
                damaged.append(name)
                continue
            if stored is None:
                continue
            batch.append(stored)
            chars += len(stored.text)
            if chars >= _BATCH_CHARS:
                await self.engine.ask(Put(batch))
                batch, chars = [], 0
        if batch:
            await self.engine.ask(Put(batch))
        await self._leave_out(scope, damaged)
        self._is_in_step(scope, start)
        self._late.discard(scope)
        self._looked_s[scope] = self._clock.monotonic_s()
        if late and self.embedding is not None:
            self.embedding.outdated(scope)
        return len(late)
