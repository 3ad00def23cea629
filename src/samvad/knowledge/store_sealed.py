"""A store of documents that keeps no content in clear: any of the others, with `sealing` around what goes in and out.

Each owner (everyone, a tenant, a user) has a key of its own among the keys of the store of conversations. Removing all
documents of a user destroys the key first. Should the process end in between, the next one finishes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

from samvad.clock import Clock
from samvad.errors import SamvadError, StoreUnavailable, Unavailable, Unreadable
from samvad.knowledge import sealing
from samvad.knowledge.records import Document, DocumentPage, Filter, Scope, StoredDocument, Vectors
from samvad.knowledge.sealing import ScopeKey
from samvad.knowledge.store import KnowledgeStore, page_of
from samvad.stores.data_key_store import DataKeyEntry
from samvad.stores.data_keys import DataKey, DataKeys
from samvad.stores.sealing import KeyMissing, Keys

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_GENERATION: Final = 0  # of a key: each that follows a destroyed one has another id
_KEYS_HELD_MAX: Final = 10_000
_LARGE_CHARS: Final = 100_000  # what is longer is sealed and opened beside the event loop
_OPENED_AT_ONCE: Final = 200  # heads, some 20 µs each
_ABANDONED_AFTER_S: Final = 30.0  # an erasing that no replica has finished by then is finished here
_PURPOSES: Final = (b"samvad knowledge lookup", b"samvad knowledge index")


class SealedKnowledgeStore:
    """`inner` with everything that callers gave sealed, by the keys of `data_keys`, which are open."""

    def __init__(
        self, inner: KnowledgeStore, data_keys: DataKeys, clock: Clock, *, readonly: bool = False
    ) -> None:
        self.inner = inner
        self.name = inner.name
        self.shared = inner.shared
        self._data_keys = data_keys
        self._clock = clock
        self._readonly = readonly
        self._strict = False
        self._held: OrderedDict[Scope, ScopeKey] = OrderedDict()
        self._seen_erasing_s: dict[Scope, float] = {}

    # --- life ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        await self.inner.open()
        strict = self._data_keys.documents_strict
        if strict is None:
            found, strangers = await self.inner.scopes(())
            strict = not found and not strangers
            if not self._readonly:
                await self._data_keys.believe(plain_documents=not strict)
        self._strict = strict
        if not self._readonly:
            await self._finish_erasings()

    async def close(self) -> None:
        self._held.clear()
        await self.inner.close()

    # --- keys ------------------------------------------------------------------------------------------

    async def _key(self, scope: Scope, *, fresh: bool = False) -> ScopeKey | None:
        """The key that seals what is kept of a scope now; None where there is none yet."""
        held = self._held.get(scope)
        if held is not None and not fresh:
            self._held.move_to_end(scope)
            return held
        hashed = sealing.hash_of(scope)
        found = (await self._data_keys.keys_of(hashed, fresh=fresh)).get(_GENERATION)
        if found is None:
            self._held.pop(scope, None)
            return None
        return (
            held if held is not None and held.key.key_id == found.key_id else await self._hold(scope, found)
        )

    async def _hold(self, scope: Scope, key: DataKey) -> ScopeKey | None:
        try:
            lookup, of_index = await self._data_keys.derived(sealing.hash_of(scope), key, _PURPOSES)
        except KeyError:  # destroyed since
            self.forget(scope)
            return None
        held = self._held[scope] = ScopeKey(key, lookup, of_index)
        while len(self._held) > _KEYS_HELD_MAX:
            self._held.popitem(last=False)
        return held

    async def _key_to_write(self, scope: Scope) -> ScopeKey:
        """The key for what is to be kept, made now if there is none. StoreUnavailable during an erasing."""
        fresh = self.shared and scope.user is not None  # another replica may have erased them
        key = await self._key(scope, fresh=fresh)
        if key is None:
            made = await self._data_keys.make(sealing.hash_of(scope), _GENERATION)
            key = None if made is None else await self._hold(scope, made)
        if key is not None:
            self._seen_erasing_s.pop(scope, None)
            return key
        now_s = self._clock.monotonic_s()
        if not self.shared or now_s - self._seen_erasing_s.setdefault(scope, now_s) > _ABANDONED_AFTER_S:
            await self._finish(scope)
        raise StoreUnavailable("The documents of this owner are being removed; try again soon.")

    async def index_key(self, scope: Scope) -> bytes | None:
        """The key that seals a scope's index; None where nothing is kept that could be indexed."""
        key = await self._key(scope)
        if key is None and not self._readonly and await self.inner.revisions(scope):
            key = await self._key_to_write(scope)
        return None if key is None else key.of_index

    def forget(self, scope: Scope) -> None:
        """Drop a scope's key from memory: its documents were removed, here or elsewhere."""
        self._held.pop(scope, None)
        self._data_keys.forget(sealing.hash_of(scope), _GENERATION)

    async def _open_with(self, scope: Scope, work: Callable[[Keys], _T]) -> _T:
        """Open with a scope's keys: the ones in memory, else the newest. Unreadable where the key is gone."""
        hashed = sealing.hash_of(scope)
        try:
            return work(await self._data_keys.keys_of(hashed))
        except KeyMissing:
            pass
        try:
            return work(await self._data_keys.keys_of(hashed, fresh=True))
        except KeyMissing:
            raise Unreadable(
                "The key of what is stored here was destroyed, or is not in this store."
            ) from None

    # --- writing ---------------------------------------------------------------------------------------

    async def put(self, stored: StoredDocument) -> int:
        key = await self._key_to_write(stored.scope)
        revision = await self.inner.put(await _beside_if_large(stored.text, sealing.sealed, key, stored))
        if self.shared and stored.scope.user is not None:
            there = await self._key(stored.scope, fresh=True)
            if there is None or there.key.key_id != key.key.key_id:  # all of theirs was removed meanwhile
                await self.inner.remove(stored.scope, stored.document.id)
                raise StoreUnavailable("The documents of this owner are being removed; try again soon.")
        return revision

    async def remove(self, scope: Scope, document_id: str) -> bool:
        return await self.inner.remove(scope, document_id)

    async def erase(self, scope: Scope) -> int:
        """As the protocol says. A user's key goes first; a tenant's stays, as its backups are to be of use."""
        if scope.user is None:
            return await self.inner.erase(scope)
        owner = sealing.owner_of(scope)
        there = (await self._data_keys.destroy(owner, _GENERATION)).there
        if there is not None:
            return await self._finish(scope, there)
        count = await self.inner.erase(scope)  # there was no key, and so nothing says that an erasing goes on
        self.forget(scope)
        return count

    async def _finish(self, scope: Scope, there: DataKeyEntry | None = None) -> int:
        count = await self.inner.erase(scope)
        await self._data_keys.erased(sealing.owner_of(scope), _GENERATION, numbers_return=True, there=there)
        self.forget(scope)
        return count

    async def _finish_erasings(self) -> None:
        """Remove the documents of which the keys are destroyed already."""
        for owner, _ in await self._data_keys.erasing():
            scope = sealing.scope_of_owner(owner)
            if scope is None:
                continue
            try:
                await self._finish(scope)
            except Unavailable as error:
                _log.warning("a removal of documents is not finished yet", extra={"code": error.code})

    async def put_vectors(self, scope: Scope, vectors: Vectors) -> bool:
        key = await self._key_to_write(scope)
        if await self.inner.put_vectors(scope, sealing.sealed_vectors(key, scope, vectors)):
            return True
        if self._strict:
            return False
        # Perhaps a document from before encryption was on: its words stand in clear, its vectors need not.
        return await self.inner.put_vectors(
            scope, sealing.sealed_vectors(key, scope, vectors, of_sealed=False)
        )

    async def change_statistics(self, scope: Scope, change: Callable[[bytes | None], bytes | None]) -> None:
        key = await self._key_to_write(scope)
        keys = await self._data_keys.keys_of(sealing.hash_of(scope))

        def sealed_change(body: bytes | None) -> bytes | None:
            changed = change(self._opened_statistics(keys, scope, body))
            return None if changed is None else sealing.sealed_statistics(key, scope, changed)

        await self.inner.change_statistics(scope, sealed_change)

    # --- reading ---------------------------------------------------------------------------------------

    async def get(self, scope: Scope, document_id: str) -> StoredDocument | None:
        """As the protocol says; Unreadable where it was damaged or altered, or its key is gone."""
        kept = await self.inner.get(scope, document_id)
        if kept is None:
            return None
        if kept.document.id != document_id:
            raise Unreadable
        if not sealing.is_sealed(kept.document):
            self._believe(kept.document)
            return kept
        hashed = sealing.hash_of(scope)
        await self._data_keys.keys_of(hashed)
        if len(kept.text) < _LARGE_CHARS:
            return await self._open_with(scope, lambda keys: sealing.opened(keys, kept))
        await self._open_with(scope, lambda keys: sealing.opened_head(keys, scope, kept.document))
        return await asyncio.to_thread(sealing.opened, await self._data_keys.keys_of(hashed), kept)

    def _believe(self, document: Document) -> None:
        if document.unreadable or self._strict:
            raise Unreadable("Something is stored here that is not sealed, and is not believed.")

    async def _opened(self, scope: Scope, kept: Document) -> Document:
        """A document without its text; marked where it cannot be opened."""
        try:
            if sealing.is_sealed(kept):
                return await self._open_with(scope, lambda keys: sealing.opened_head(keys, scope, kept))
            self._believe(kept)
        except Unreadable:
            return sealing.unreadable(kept)
        return kept

    async def same(self, scope: Scope, document: Document) -> Document | None:
        key = await self._key(scope)
        if key is not None:
            found = await self.inner.same(scope, sealing.in_clear(document, key.lookup))
            if found is not None:
                return await self._opened(scope, found)
        if self._strict:
            return None
        return await self.inner.same(scope, document)  # from before encryption was on

    async def scopes(self, known: Iterable[Scope]) -> tuple[list[Scope], int]:
        return await self.inner.scopes(known)

    async def list(
        self, scopes: Sequence[Scope], condition: Filter, *, limit: int, cursor: str | None
    ) -> DocumentPage:
        if condition == Filter():
            page = await self.inner.list(scopes, condition, limit=limit, cursor=cursor)
            return DocumentPage(
                documents=tuple(await self._all_opened(scopes, page.documents)),
                count=page.count,
                next_cursor=page.next_cursor,
            )
        every = await self.inner.list(scopes, Filter(), limit=1 << 30, cursor=None)
        opened = await self._all_opened(scopes, every.documents)
        found = [each for each in opened if not each.unreadable and condition.admits(each)]
        return page_of(found, limit, cursor)

    async def _all_opened(self, scopes: Sequence[Scope], kept: Sequence[Document]) -> Sequence[Document]:
        of = {(scope.ownership, scope.user): scope for scope in scopes}
        opened = []
        for number, each in enumerate(kept, 1):
            scope = of.get((each.owner, each.user_id))
            opened.append(sealing.unreadable(each) if scope is None else await self._opened(scope, each))
            if number % _OPENED_AT_ONCE == 0:
                await asyncio.sleep(0)
        return opened

    async def get_vectors(self, scope: Scope, document_id: str, space: str) -> Vectors | None:
        kept = await self.inner.get_vectors(scope, document_id, space)
        if kept is None:
            return None
        if not sealing.vectors_are_sealed(kept):
            return None if self._strict else kept
        try:
            return await self._open_with(scope, lambda keys: sealing.opened_vectors(keys, scope, kept))
        except Unreadable:
            _log.warning("the vectors of a document cannot be read; it is found by its words alone")
            return None

    async def statistics(self, scope: Scope) -> bytes | None:
        body = await self.inner.statistics(scope)
        keys = await self._data_keys.keys_of(sealing.hash_of(scope))
        return self._opened_statistics(keys, scope, body)

    def _opened_statistics(self, keys: Keys, scope: Scope, body: bytes | None) -> bytes | None:
        if body is None or not sealing.statistics_are_sealed(body):
            return None if self._strict else body
        try:
            return sealing.opened_statistics(keys, scope, body)
        except (KeyMissing, Unreadable):
            _log.warning("what was counted of an owner's documents cannot be read, and begins anew")
            return None

    # --- what holds no content --------------------------------------------------------------------------

    async def revisions(self, scope: Scope) -> dict[str, int]:
        return await self.inner.revisions(scope)

    async def embedded(self, scope: Scope, space: str) -> set[str]:
        return await self.inner.embedded(scope, space)

    async def changed(self, scopes: Sequence[Scope]) -> Sequence[Scope]:
        return await self.inner.changed(scopes)

    # --- turning it on ---------------------------------------------------------------------------------

    async def seal_plain(self, known: Iterable[Scope], tell: Callable[[int], None]) -> tuple[int, int]:
        """Seal what is from before encryption was on; how many documents were sealed now, and how many before.

        Then nothing that is not sealed is believed any more. `tell` is called with how many are done. SamvadError
        where documents belong to nobody known. Can be cut off and begun again.
        """
        found, strangers = await self.inner.scopes(known)
        if strangers:
            raise SamvadError(
                f"{strangers} documents are of owners who are not known here; nothing was sealed."
            )
        done = there = 0
        for scope in found:
            for document_id in sorted(await self.inner.revisions(scope)):
                stored = await self.inner.get(scope, document_id)
                if stored is None or sealing.is_sealed(stored.document):
                    there += stored is not None
                    continue
                await self.put(stored)
                tell(done := done + 1)
            await self.change_statistics(scope, lambda body: body)
        await self._data_keys.believe(plain_documents=False)
        self._strict = True
        return done, there


async def _beside_if_large(text: str, work: Callable[[ScopeKey, StoredDocument], _T], *given: object) -> _T:
    if len(text) < _LARGE_CHARS:
        return work(*given)  # type: ignore[arg-type]
    answer: Awaitable[_T] = asyncio.to_thread(work, *given)  # type: ignore[arg-type]
    return await answer
