"""The documents of users, as far as retention is concerned with them. Those that are shared belong to no user."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from samvad.clock import parse_rfc3339
from samvad.records import UserKey

if TYPE_CHECKING:
    from samvad.knowledge.base import KnowledgeBase

_PER_PAGE: Final = 100


class OwnedDocument(NamedTuple):
    """A document of a user: when it was added, and when it was last changed."""

    id: str
    added_ms: int
    written_ms: int


class Documents:
    """What a knowledge base holds of users. `base` gives it, or None where there are no documents at all."""

    def __init__(self, base: Callable[[], KnowledgeBase | None]) -> None:
        self._base = base

    async def of(self, key: UserKey) -> list[OwnedDocument]:
        """A user's documents."""
        base = self._base()
        if base is None:
            return []
        from samvad.knowledge.records import Scope
        from samvad.knowledge.taking import condition

        await base.core.shelf.open()
        found: list[OwnedDocument] = []
        cursor: str | None = None
        while True:
            page = await base.core.shelf.store.list(
                [Scope(*key)], condition(None, (), None), limit=_PER_PAGE, cursor=cursor
            )
            for each in page.documents:
                times = parse_rfc3339(each.added_at), parse_rfc3339(each.updated_at)
                found.append(OwnedDocument(each.id, times[0], max(times)))
            cursor = page.next_cursor
            if cursor is None:
                return found

    async def written_ms(self, key: UserKey) -> int:
        """When a document of the user was last added or changed; 0 where there is none."""
        return max([each.written_ms for each in await self.of(key)], default=0)

    async def count(self, key: UserKey) -> int:
        """How many documents a user has."""
        return len(await self.of(key))

    async def owned(self, tenants: set[str]) -> AsyncIterator[tuple[UserKey, list[OwnedDocument]]]:
        """Everyone in these tenants who has documents, with what they have."""
        base = self._base()
        if base is None:
            return
        from samvad.knowledge.records import Scope

        await base.core.shelf.open()
        scopes, _ = await base.core.shelf.store.scopes([Scope(tenant) for tenant in tenants])
        for scope in scopes:
            if scope.tenant is not None and scope.user is not None:
                key = UserKey(scope.tenant, scope.user)
                documents = await self.of(key)
                if documents:
                    yield key, documents

    async def remove(self, key: UserKey, document_id: str) -> bool:
        """Remove one document, from the index as well."""
        base = self._base()
        if base is None:
            return False
        from samvad.knowledge.records import Scope

        async with base.core.writing:
            there = await base.core.shelf.remove(Scope(*key), document_id)
            await base.core.statistics.forget_document(Scope(*key), document_id)
        return there

    async def erase_older(self, key: UserKey, before_ms: int) -> int:
        """Remove everything of a user, or, where a document is not from before that moment, the others; how many."""
        base = self._base()
        if base is None:
            return 0
        found = await self.of(key)
        old = [each for each in found if each.written_ms < before_ms]
        if len(old) == len(found):
            await base.erase_user(*key)
            return len(found)
        return sum([await self.remove(key, each.id) for each in old])
