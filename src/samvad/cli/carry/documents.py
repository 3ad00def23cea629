"""The documents of the knowledge base as lines: read, kept and found again, each with a checksum of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from samvad.archive.reading import head_of
from samvad.cli.carry.lines import DocumentsLine
from samvad.cli.carry.reading import keys_of
from samvad.errors import SetupError
from samvad.records import UserKey, user_hash


async def read(store: Any) -> AsyncIterator[DocumentsLine]:
    """Every document beside a store, one in a line. SamvadError where it is not known whose one is."""
    from samvad.knowledge.carrying import checksum, every_document

    users = [key async for keys in keys_of(store) for key in keys]
    async for stored in every_document(store, users):
        tenant, user = stored.scope
        epoch = 0
        if tenant is not None and user is not None:
            epoch = (await head_of(store, UserKey(tenant, user))).version.epoch
        headings = [(each.start, each.end, each.level, each.text) for each in stored.headings]
        record = msgspec.Raw(msgspec.json.encode(stored.document))
        yield DocumentsLine([(tenant, user, epoch, record, headings, stored.text, checksum(stored))])


async def keep(store: Any, line: DocumentsLine, erased: dict[bytes, int]) -> None:
    """Keep the documents of a line beside a store, but for those of users who were erased since.

    SetupError where the store has something else under the same id: nothing is overwritten.
    """
    from samvad.knowledge.carrying import kept

    stored, epochs = _stored(line)
    async with _beside(store, stored) as documents:
        for each, epoch in zip(stored, epochs, strict=True):
            if await _is_over(store, each.scope, epoch, erased):
                continue
            if not await kept(documents, each):
                raise SetupError(
                    f"The knowledge base has another document {each.document.id!r} already: remove one of the two."
                )


async def missing(store: Any, line: DocumentsLine) -> int:
    """How many of the documents of a line are not beside a store as they are in it."""
    from samvad.knowledge.carrying import checksum

    stored, epochs = _stored(line)
    count = 0
    async with _beside(store, stored) as documents:
        for each, epoch in zip(stored, epochs, strict=True):
            if not await _is_over(store, each.scope, epoch, {}):
                there = await documents.get(each.scope, each.document.id)
                count += there is None or checksum(there) != checksum(each)
    return count


def _beside(store: Any, stored: list[Any]) -> Any:
    """The documents beside a store, for those of a line: one, as `read` gives them."""
    from samvad.knowledge.carrying import taking_in
    from samvad.knowledge.sealing import is_sealed

    plain = not all(is_sealed(each.document) for each in stored)
    return taking_in(store, getattr(store, "master_key", None), plain=plain)


def _stored(line: DocumentsLine) -> tuple[list[Any], list[int]]:
    """The documents of a line, and the lives of their users; SetupError where one is not what its checksum says."""
    from samvad.knowledge.carrying import checksum
    from samvad.knowledge.records import Document, HeadingAt, Scope, StoredDocument

    found = []
    for tenant, user, _, record, headings, text, sha256 in line.documents:
        stored = StoredDocument(
            scope=Scope(tenant, user),
            document=msgspec.json.decode(record, type=Document),
            text=text,
            headings=tuple([HeadingAt(*each) for each in headings]),
        )
        if checksum(stored) != sha256:
            raise SetupError(
                f"The document {stored.document.id!r} was altered: it does not have its own checksum."
            )
        found.append(stored)
    return found, [each[2] for each in line.documents]


async def _is_over(store: Any, scope: Any, epoch: int, erased: dict[bytes, int]) -> bool:
    """Whether this life of the document's user was ended by an erasing."""
    tenant, user = scope
    if tenant is None or user is None:
        return False
    key = UserKey(tenant, user)
    return max(erased.get(user_hash(key), 0), (await head_of(store, key)).version.epoch) > epoch
