"""Marks of who has documents in Firestore: `knowledge_scopes/{scope}`, so that erasing anybody else asks for no query.

Whoever writes anything of a user's writes the mark in the same commit, each time with another token: so an erasing that
removes a mark as it read it removes none beside which something was written since. A mark without anything beside it
does no harm. That there is no mark says something only once all that was there before has been gone through, which
`knowledge_scopes/throughout` tells.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from samvad.errors import SamvadError
from samvad.knowledge.store_firestore_chunks import commit, pages
from samvad.stores import firestore_documents as documents
from samvad.stores.firestore_client import BoundedClient
from samvad.stores.firestore_names import Names

_log = logging.getLogger(__name__)
_COLLECTION: Final = "knowledge_scopes"
_THROUGHOUT: Final = "throughout"
_AT_ONCE: Final = 200
KeyOf = Callable[[Any], str | None]


class Mark(NamedTuple):
    """What is known of a scope: whether it may have something, and what removes its mark, if it has one."""

    may_have: bool
    removal: Any | None


class ScopeMarks:
    """Marks in one Firestore database. `sources` tells how to find the scopes of what is there: collection and key."""

    def __init__(self, client: BoundedClient, names: Names, sources: dict[str, KeyOf]) -> None:
        self._client = client
        self._names = names
        self._sources = sources
        self.marking: asyncio.Task[None] | None = None
        """Going through what was there before, once an erasing has asked for that."""

    def write(self, key: str) -> Any:
        """What marks a scope, for the commit that writes something of it."""
        return documents.set_write(self._path(key), {"token": os.urandom(8)})

    async def read(self, key: str) -> Mark:
        """The mark of a scope. Where its absence would say nothing, that is mended beside what goes on."""
        path, throughout = self._path(key), self._path(_THROUGHOUT)
        found = (await self._client.get([path, throughout], self._client.deadline())).documents
        mark, whole = found.get(path), found.get(throughout) is not None
        if not whole and (self.marking is None or self.marking.done()):
            self.marking = asyncio.create_task(self._mark_quietly())
        if mark is None:
            return Mark(may_have=not whole, removal=None)
        removal = documents.only_if_unchanged(documents.delete_write(path), mark.update_time)
        return Mark(may_have=True, removal=removal)

    async def close(self) -> None:
        """End what goes on; the next process begins it anew."""
        if self.marking is not None:
            self.marking.cancel()
            await asyncio.gather(self.marking, return_exceptions=True)

    async def _mark_quietly(self) -> None:
        try:
            await self.mark_all()
        except SamvadError as error:  # the next erasing begins it anew
            _log.warning("who has documents is not marked throughout yet", extra={"code": error.code})

    async def mark_all(self) -> None:
        """Mark all scopes that have something, and after that the database. Can be cut off and begun again."""
        for collection, key_of in self._sources.items():
            async for page in pages(self._client, self._names.root, collection, _AT_ONCE):
                keys = {key for each in page if (key := key_of(each)) is not None}
                if keys:
                    await commit(self._client, [self.write(key) for key in sorted(keys)])
        await commit(self._client, [self.write(_THROUGHOUT)])

    def _path(self, key: str) -> str:
        return f"{self._names.root}/{_COLLECTION}/{key}"


__all__ = ["Mark", "ScopeMarks"]
