"""Pieces of what is too large for one document of Firestore: documents in a collection `chunks` below it.

Their names begin with the number of the write they belong to, and the document above tells which is the current one.
A process that ends between two writes, or two that write at once, leave pieces which nothing tells of. So who removes a
document for good asks for all that is below it.

Also how documents are committed, and gone through page by page.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from samvad.errors import StoreUnavailable
from samvad.stores.firestore_client import BoundedClient, CommitRefused
from samvad.stores.firestore_queries import query

_COLLECTION: Final = "chunks"
_FOUND_AT_ONCE: Final = 200
_ASKED_AT_ONCE: Final = 16


def chunk(path: str, written: int, number: int) -> str:
    """The name of a piece of a document."""
    return f"{path}/{_COLLECTION}/{written}-{number}"


async def chunks_below(client: BoundedClient, paths: Sequence[str]) -> list[str]:
    """The names of all pieces of these documents, whoever has left them."""
    turns = asyncio.Semaphore(_ASKED_AT_ONCE)

    async def below(path: str) -> list[str]:
        async with turns:
            found = pages(client, path, _COLLECTION, _FOUND_AT_ONCE, only_names=True)
            return [each.name async for page in found for each in page]

    return [name for names in await asyncio.gather(*map(below, paths)) for name in names]


async def commit(client: BoundedClient, writes: Sequence[Any]) -> None:
    """Writes that may be done twice, and rest on nothing; StoreUnavailable where they cannot be done."""
    try:
        await client.commit_surely(writes, client.deadline())
    except CommitRefused as error:
        raise StoreUnavailable from error


async def pages(
    client: BoundedClient, parent: str, collection: str, size: int, *, only_names: bool = False
) -> AsyncIterator[list[Any]]:
    """All documents of a collection, a page at a time: there may be millions."""
    wanted = query(collection, order=[("__name__", "ASCENDING")], limit=size, only_names=only_names)
    while True:
        page = await client.query(parent, wanted, client.deadline())
        if page:
            yield page
        if len(page) < size:
            return
        wanted.ClearField("start_at")
        wanted.start_at.values.add().reference_value = page[-1].name
        wanted.start_at.before = False


__all__ = ["chunk", "chunks_below", "commit", "pages"]
