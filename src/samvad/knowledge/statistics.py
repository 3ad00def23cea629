"""What is asked of the knowledge base: which documents are cited most, which questions found nothing.

Numbers are counted in memory and added to the store now and then; a crash loses the last minute of them. A question
that found nothing is kept in its own words, cut short, only so many and for so long, with whoever asked it: those of
a user are personal data, stand in that user's scope, and go when the user is erased. As long as the operator does not
say otherwise they stay in memory: what people ask is on no disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from samvad import limits
from samvad.clock import Clock, rfc3339
from samvad.errors import SamvadError
from samvad.knowledge.records import EVERYONE, Document, Hit, Ownership, Scope

if TYPE_CHECKING:
    from samvad.knowledge.shelf import Shelf

_log = logging.getLogger(__name__)
Keeps = Literal["no", "memory", "store"]
FLUSH_S: Final = 60.0
_SCOPES_MAX: Final = 500  # in memory; then they are written at once
_DAY_MS: Final = 24 * 3600 * 1000


class Cited(msgspec.Struct, array_like=True):
    """How often a document was found by a search, and cited in an answer."""

    title: str
    found: int = 0
    cited: int = 0


class Unfound(msgspec.Struct, array_like=True):
    """A question that found nothing: how often, and when last."""

    count: int = 0
    last_ms: int = 0


class Counts(msgspec.Struct):
    """What is counted of one scope."""

    since_ms: int = 0
    searches: int = 0
    found_nothing: int = 0
    questions: int = 0
    unanswered: int = 0
    documents: dict[str, Cited] = {}
    unfound: dict[str, Unfound] = {}

    def add(self, other: Counts, now_ms: int) -> None:
        """Take in what was counted since, within the bounds."""
        self.since_ms = self.since_ms or other.since_ms
        self.searches += other.searches
        self.found_nothing += other.found_nothing
        self.questions += other.questions
        self.unanswered += other.unanswered
        for name, new in other.documents.items():
            known = self.documents.setdefault(name, Cited(new.title))
            known.title = new.title
            known.found += new.found
            known.cited += new.cited
        for text, new_question in other.unfound.items():
            question = self.unfound.setdefault(text, Unfound())
            question.count += new_question.count
            question.last_ms = max(question.last_ms, new_question.last_ms)
        self.trim(now_ms)

    def trim(self, now_ms: int) -> None:
        """Forget what is over a bound: documents that are cited least, questions that are the oldest."""
        oldest_ms = now_ms - limits.UNFOUND_DAYS_MAX * _DAY_MS
        kept = [(text, each) for text, each in self.unfound.items() if each.last_ms >= oldest_ms]
        kept.sort(key=lambda one: -one[1].last_ms)
        self.unfound = dict(kept[: limits.UNFOUND_MAX])
        if len(self.documents) > limits.COUNTED_DOCUMENTS_MAX:
            ordered = sorted(self.documents.items(), key=lambda one: (-one[1].cited, -one[1].found, one[0]))
            self.documents = dict(ordered[: limits.COUNTED_DOCUMENTS_MAX])


class Statistics:
    """Counts for all scopes. `keeps` says where questions that found nothing are kept in their words, if at all."""

    def __init__(
        self, shelf: Shelf, clock: Clock, *, keeps: Keeps = "memory", readonly: bool = False
    ) -> None:
        self._shelf = shelf
        self._clock = clock
        self._keeps = keeps
        self._remembered: OrderedDict[Scope, Counts] = OrderedDict()  # questions that are in no store
        self._readonly = readonly
        # Asked before the words of a question go into the store: whether that may be.
        self.may_keep: Callable[[Scope], Awaitable[bool]] | None = None
        self._new: dict[Scope, Counts] = {}
        self._soon = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # --- counting --------------------------------------------------------------------------------------

    def searched(self, asker: Scope, query: str, hits: Sequence[Hit]) -> None:
        """A search was answered."""
        if self._readonly:
            return
        counts = self._of(Scope(asker.tenant))
        counts.searches += 1
        counts.found_nothing += not hits
        for document in {hit.doc.id: hit.doc for hit in hits}.values():
            self._document(asker, document).found += 1
        if not hits:
            self._unfound(asker, query)
        self._start()

    def answered(self, asker: Scope, query: str, documents: Sequence[tuple[Scope, str, str]]) -> None:
        """A question was answered out of these documents (scope, id, title), or with none of them."""
        if self._readonly:
            return
        counts = self._of(Scope(asker.tenant))
        counts.questions += 1
        counts.unanswered += not documents
        for scope, name, title in dict.fromkeys(documents):
            self._cited(scope, name, title).cited += 1
        if not documents:
            self._unfound(asker, query)
        self._start()

    def _of(self, scope: Scope) -> Counts:
        counts = self._new.get(scope)
        if counts is None:
            if len(self._new) >= _SCOPES_MAX:
                self._soon.set()
            counts = self._new[scope] = Counts(since_ms=self._clock.now_ms())
        return counts

    def _document(self, asker: Scope, document: Document) -> Cited:
        return self._cited(scope_of(document.owner, asker), document.id, document.title)

    def _cited(self, scope: Scope, name: str, title: str) -> Cited:
        documents = self._of(scope).documents
        if len(documents) >= limits.COUNTED_DOCUMENTS_MAX:
            self._soon.set()
        return documents.setdefault(name, Cited(title))

    def _unfound(self, asker: Scope, query: str) -> None:
        if self._keeps == "no":
            return
        text = " ".join(query.split())[: limits.UNFOUND_CHARS_MAX]
        questions = (self._of(asker) if self._keeps == "store" else self._memory_of(asker)).unfound
        if text not in questions and len(questions) >= limits.UNFOUND_MAX:
            del questions[min(questions, key=lambda each: questions[each].last_ms)]
        question = questions.setdefault(text, Unfound())
        question.count += 1
        question.last_ms = self._clock.now_ms()
        if asker.user is not None and self._keeps == "store":
            self._soon.set()  # a user may be erased by another replica: nothing of theirs waits here

    def _memory_of(self, scope: Scope) -> Counts:
        counts = self._remembered.setdefault(scope, Counts())
        self._remembered.move_to_end(scope)
        if len(self._remembered) > _SCOPES_MAX:
            self._remembered.popitem(last=False)
        return counts

    # --- keeping ---------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._new:
            try:
                async with asyncio.timeout(FLUSH_S):
                    await self._soon.wait()
            except TimeoutError:
                pass
            await self.flush()

    async def flush(self) -> None:
        """Add to the store what was counted since the last time."""
        self._soon.clear()
        for scope in list(self._new):
            async with self._shelf.lock(scope):
                new = self._new.pop(scope, None)
                if new is None:
                    continue
                if new.unfound and self.may_keep is not None and not await self.may_keep(scope):
                    new.unfound = {}
                try:
                    await self._shelf.open()
                    there = await self._shelf.store.revisions(scope) if new.documents else {}
                    await self._shelf.store.change_statistics(scope, self._adding(new, there))
                except SamvadError as error:
                    # What a user asked does not wait: they may be erased, elsewhere, before the store is back.
                    if scope.user is None and scope not in self._new:
                        self._new[scope] = new
                    _log.warning("what is asked could not be counted: %s", error.code)
                    return

    def _adding(self, new: Counts, there: dict[str, int]) -> Callable[[bytes | None], bytes | None]:
        def change(body: bytes | None) -> bytes | None:
            counts = _decoded(body)
            counts.add(new, self._clock.now_ms())
            if new.documents:
                counts.documents = {name: each for name, each in counts.documents.items() if name in there}
            return None if counts == Counts(since_ms=counts.since_ms) else msgspec.msgpack.encode(counts)

        return change

    async def of(self, scope: Scope) -> Counts:
        """What was counted of a scope."""
        await self.flush()
        await self._shelf.open()
        counts = _decoded(await self._shelf.store.statistics(scope))
        if (remembered := self._remembered.get(scope)) is not None:
            counts.add(Counts(unfound=remembered.unfound), self._clock.now_ms())
        counts.trim(self._clock.now_ms())
        return counts

    async def forget_document(self, scope: Scope, document_id: str) -> None:
        """A document was removed: what was counted of it goes as well. Called with the scope's lock held."""
        if (new := self._new.get(scope)) is not None:
            new.documents.pop(document_id, None)
        counts = _decoded(await self._shelf.store.statistics(scope))
        if document_id in counts.documents:

            def change(body: bytes | None) -> bytes | None:
                counts = _decoded(body)
                counts.documents.pop(document_id, None)
                return msgspec.msgpack.encode(counts)

            await self._shelf.store.change_statistics(scope, change)

    async def clear(self, scope: Scope) -> None:
        """Begin to count a scope anew."""
        await self._shelf.open()
        async with self._shelf.lock(scope):
            self.forget(scope)
            await self._shelf.store.change_statistics(scope, lambda body: None)

    def forget(self, scope: Scope) -> None:
        """Drop what memory holds of a scope."""
        self._new.pop(scope, None)
        self._remembered.pop(scope, None)

    async def close(self) -> None:
        """Keep what was counted."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._new:
            await self.flush()


def scope_of(owner: Ownership, asker: Scope) -> Scope:
    """The scope that a document of this owner stands in, for one who sees it."""
    if owner == "everyone":
        return EVERYONE
    return Scope(asker.tenant, asker.user if owner == "user" else None)


def told(counts: Counts, limit: int) -> dict[str, object]:
    """What was counted of documents and questions, as callers see it: the most cited, the latest unfound."""
    cited = sorted(counts.documents.items(), key=lambda one: (-one[1].cited, -one[1].found, one[0]))
    return {
        "since": rfc3339(counts.since_ms) if counts.since_ms else None,
        "mostCited": [
            {"documentId": name, "title": each.title, "cited": each.cited, "found": each.found}
            for name, each in cited[:limit]
        ],
        "unfound": [
            {"query": text, "count": each.count, "lastAt": rfc3339(each.last_ms)}
            for text, each in list(counts.unfound.items())[:limit]
        ],
    }


def _decoded(body: bytes | None) -> Counts:
    return Counts() if body is None else msgspec.msgpack.decode(body, type=Counts)


__all__ = ["Counts", "Statistics", "scope_of", "told"]
