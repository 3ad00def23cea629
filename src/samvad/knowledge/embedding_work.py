"""Documents get their vectors behind everybody's back: in the background, once, and again where a service fails.

A document is found by its words as soon as it is added. Its vectors are made when the embedder has time, kept with
it, and handed to the search engine. Those of another space (another model, say) are made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

from samvad import limits
from samvad.errors import SamvadError, Unreadable
from samvad.knowledge.embedding import Asker, Embedder, knows, packed
from samvad.knowledge.passages import Passage, passages
from samvad.knowledge.records import QueryVector, Scope, StoredDocument, Vectors
from samvad.knowledge.remote import RemoteEngine
from samvad.knowledge.store import KnowledgeStore
from samvad.knowledge.worker import PutVectors

_log = logging.getLogger(__name__)
_PAUSE_S: Final = 1.0
_PAUSE_S_MAX: Final = 60.0
_LOADED_AT_ONCE: Final = 32  # documents
_SCOPES_MAX: Final = 10_000  # that account is kept of, as on the shelf
_LOADING_MAX: Final = 1_000  # scopes at a time; others with their next question


class EmbedderFailed(SamvadError):
    """The embedder gave no vectors; the documents are found by their words meanwhile."""


class EmbeddingWork:
    """Keeps the vectors of scopes in step with their documents. `readonly`: those that are there are used, no more."""

    def __init__(
        self,
        store: KnowledgeStore,
        engine: RemoteEngine,
        embedder: Embedder,
        lock: Callable[[Scope], asyncio.Lock],
        *,
        readonly: bool = False,
        asker: Asker | None = None,
    ) -> None:
        self._store = store
        self._engine = engine
        self._embedder = embedder
        self._lock = lock  # held while a scope's documents, words and vectors are made to agree
        self._asker = asker or Asker(embedder)
        self._readonly = readonly
        self._scopes_max = _SCOPES_MAX
        self._known: dict[Scope, None] = {}  # all that stand in one of those below, the last touched last
        self._loaded: dict[Scope, int] = {}  # scope: the start of the engine that has its vectors
        self._has_any: set[Scope] = set()
        self._loading: dict[Scope, asyncio.Task[None]] = {}
        self._waiting: dict[Scope, None] = {}  # in order, each once
        self._passed: dict[
            Scope, dict[str, int]
        ] = {}  # documents that are not for this embedder, by revision
        self._making = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    # --- asking ----------------------------------------------------------------------------------------

    async def vector(self, query: str, scopes: Sequence[Scope]) -> QueryVector | None:
        """Where a query stands, if any document of these scopes has a vector and the embedder answers in time."""
        if not self._has_any.intersection(scopes):
            return None
        return await self._asker.ask(query)

    @property
    def queries_failed(self) -> int:
        """How many queries the embedder did not answer, or not in time."""
        return self._asker.failures

    def follow(self, scope: Scope) -> None:
        """A scope is being asked: have its vectors in the engine soon, and made where there are none."""
        if self._loaded.get(scope) == self._engine.starts:
            self._touch(scope)
        elif scope not in self._loading and len(self._loading) < _LOADING_MAX and not self._closed:
            task = self._loading[scope] = asyncio.create_task(self._load(scope))
            task.add_done_callback(lambda done: self._loading.pop(scope, None))

    async def _load_first(self, scope: Scope) -> None:
        """Have what is there in the engine before more is made: then it can be handed over as it comes."""
        self.follow(scope)
        if (task := self._loading.get(scope)) is not None:
            await asyncio.wait([task])

    async def _load(self, scope: Scope) -> None:
        with contextlib.suppress(SamvadError):  # tried again with the next question
            await self._engine.start()
            start = self._engine.starts
            names = sorted(await self._store.embedded(scope, self._embedder.space))
            for at in range(0, len(names), _LOADED_AT_ONCE):
                async with self._lock(scope):
                    found = [
                        await self._store.get_vectors(scope, name, self._embedder.space)
                        for name in names[at : at + _LOADED_AT_ONCE]
                    ]
                    await self._hand_over(scope, [each for each in found if each is not None])
            if self._engine.starts == start:
                self._touch(scope)
                self._loaded[scope] = start
            self.changed(scope)

    async def _hand_over(self, scope: Scope, batch: list[Vectors]) -> None:
        if batch:
            await self._engine.ask(PutVectors(scope, batch))
            self._touch(scope)
            self._has_any.add(scope)

    async def loaded(self) -> None:
        """Wait until what is being loaded is there."""
        while self._loading:
            await asyncio.gather(*self._loading.values())

    # --- making ----------------------------------------------------------------------------------------

    def changed(self, scope: Scope) -> None:
        """Something in a scope may lack its vectors: have them made."""
        if self._readonly or self._closed:
            return
        self._touch(scope)
        self._waiting[scope] = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def put(self, scope: Scope, document_id: str) -> None:
        """A document was indexed anew, which made the engine forget its vectors: hand over those that still hold.

        Called with the scope's lock held.
        """
        if scope in self._has_any:
            found = await self._store.get_vectors(scope, document_id, self._embedder.space)
            if found is not None:
                await self._hand_over(scope, [found])
        self.changed(scope)

    def outdated(self, scope: Scope) -> None:
        """Documents of a scope were indexed anew: hand over their vectors with the next question."""
        self._loaded.pop(scope, None)
        self.changed(scope)

    def _touch(self, scope: Scope) -> None:
        """Account is kept of a scope; of the one that was not touched for longest, no more.

        That one is as after a start: its vectors are loaded, and made where they are missing, when it is asked.
        """
        self._known.pop(scope, None)
        self._known[scope] = None
        if len(self._known) > self._scopes_max:
            self.forget(next(iter(self._known)))

    def forget(self, scope: Scope) -> None:
        """A scope was erased."""
        self._known.pop(scope, None)
        self._loaded.pop(scope, None)
        self._waiting.pop(scope, None)
        self._has_any.discard(scope)
        self._passed.pop(scope, None)

    async def _work(self) -> None:
        pause_s = _PAUSE_S
        while self._waiting:
            scope = next(iter(self._waiting))
            try:
                await self.make(scope)
            except SamvadError as error:
                _log.warning(
                    "documents wait for their vectors (%s); trying again in %g s", error.code, pause_s
                )
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _PAUSE_S_MAX)
            else:
                pause_s = _PAUSE_S

    async def make(self, scope: Scope, tell: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Make all vectors that a scope lacks, and say how many documents got some.

        `tell` is called with how many of how many documents are done. Raises EmbedderFailed, StoreUnavailable.
        """
        async with self._making:  # what two make at once is paid for twice
            self._waiting.pop(scope, None)
            try:
                await self._load_first(scope)
                lacking = await self._lacking(scope)
                made = 0
                for number, name in enumerate(lacking):
                    tell(number, len(lacking))
                    with contextlib.suppress(Unreadable):  # it is left out of searches too, and told there
                        made += await self._make_one(scope, name)
                tell(len(lacking), len(lacking))
            except BaseException:
                self._touch(scope)
                self._waiting[scope] = None
                raise
            return made

    async def _lacking(self, scope: Scope) -> list[str]:
        wanted = await self._store.revisions(scope)
        there = await self._store.embedded(scope, self._embedder.space)
        passed = self._passed.get(scope, {})
        for name in passed.keys() - wanted.keys():  # documents that are gone
            del passed[name]
        return [
            name for name, revision in wanted.items() if name not in there and passed.get(name) != revision
        ]

    async def _make_one(self, scope: Scope, name: str) -> bool:
        stored = await self._store.get(scope, name)
        if stored is None:
            return False
        document = stored.document
        pieces = await asyncio.to_thread(passages, stored.text, stored.headings)
        if not pieces or not knows(self._embedder, document.language):
            self._touch(scope)
            self._passed.setdefault(scope, {})[name] = stored.revision
            return False
        data, dimensions = await self._embedded([_text(stored, piece) for piece in pieces])
        vectors = Vectors(
            document_id=name,
            space=self._embedder.space,
            checksum=document.checksum,
            title=document.title,
            dimensions=dimensions,
            spans=tuple((piece.start, piece.end) for piece in pieces),
            data=data,
        )
        async with self._lock(scope):
            if not await self._store.put_vectors(scope, vectors):
                return False  # it was changed or removed meanwhile
            if self._loaded.get(scope) == self._engine.starts:
                await self._hand_over(scope, [vectors])
        self._touch(scope)
        self._has_any.add(scope)
        return True

    async def _embedded(self, texts: Sequence[str]) -> tuple[bytes, int]:
        rows: list[bytes] = []
        for at in range(0, len(texts), limits.EMBED_TEXTS_MAX):
            some = texts[at : at + limits.EMBED_TEXTS_MAX]
            try:
                async with asyncio.timeout(limits.EMBED_S_MAX):
                    found = await self._embedder.embed_documents(some)
                new = [packed(vector) for vector in found]
            except (
                Exception
            ) as error:  # the top of the vendor's code: whatever it raises, it is tried again later
                raise EmbedderFailed(f"The embedder failed ({type(error).__name__}).") from error
            if len(new) != len(some):
                raise EmbedderFailed(f"The embedder gave {len(new)} vectors for {len(some)} texts.")
            rows += new
        sizes = {len(row) for row in rows}
        if len(sizes) != 1 or sizes == {0}:
            raise EmbedderFailed("The embedder gave vectors of several lengths.")
        return b"".join(rows), sizes.pop() // 4

    async def settle(self) -> None:
        """Wait until nothing waits for its vectors (or the embedder fails for good: then for ever)."""
        while self._task is not None and not self._task.done():
            await asyncio.shield(self._task)

    async def close(self) -> None:
        """Stop; what lacks its vectors gets them after the next start."""
        self._closed = True
        tasks = [task for task in (self._task, *self._loading.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._embedder.close()


def _text(stored: StoredDocument, piece: Passage) -> str:
    """A passage as it is embedded: below its document's title and its headings, which say what it is about."""
    lines = [stored.document.title, " > ".join(piece.headings), stored.text[piece.start : piece.end]]
    return "\n".join(line for line in lines if line)[: limits.EMBED_TEXT_CHARS_MAX]


__all__ = ["EmbedderFailed", "EmbeddingWork"]
