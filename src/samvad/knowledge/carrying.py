"""Reading all documents beside a store, and keeping them beside another: for backups and migrations.

What is made from documents (indexes, vectors) is not carried: it is made anew. Nor is what was counted of searches.
Sealed documents are carried as they are, without any key. Others are sealed as they come into a store that has keys.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import msgspec

from samvad.clock import SystemClock
from samvad.errors import SamvadError, SetupError
from samvad.knowledge.opening import documents_beside, documents_path
from samvad.knowledge.records import EVERYONE, Scope, StoredDocument
from samvad.knowledge.sealing import hash_of
from samvad.knowledge.store import KnowledgeStore
from samvad.records import UserKey
from samvad.stores.encrypting import NO_KEY, data_keys_around, data_keys_of, has_keys


def scopes_of(users: Iterable[UserKey]) -> dict[Scope, None]:
    """Whose documents there may be where these users are: everyone's, the tenants', and the users' own."""
    found = {EVERYONE: None, Scope("default"): None}
    for user in users:
        found[Scope(user.tenant)] = None
        found[Scope(user.tenant, user.user_id)] = None
    return found


@contextlib.asynccontextmanager
async def beside(store: Any) -> AsyncIterator[KnowledgeStore]:
    """The documents beside a store of conversations that is open, as they are kept there."""
    documents = documents_beside(store, SystemClock())
    await documents.open()
    try:
        yield documents
    finally:
        await documents.close()


@contextlib.asynccontextmanager
async def taking_in(store: Any, master_key: str | None, *, plain: bool) -> AsyncIterator[KnowledgeStore]:
    """As `beside`, for documents that are to be kept there; `plain`: of those that are not sealed.

    Where the store has keys, such documents are sealed. SetupError if that is so and the master key is not given.
    """
    async with beside(store) as documents:
        data_keys = data_keys_around(store)
        if not plain or (data_keys is None and not await has_keys(store)):
            yield documents
            return
        if data_keys is None and master_key is None:
            raise SetupError(NO_KEY.format("the store"))
        from samvad.knowledge.store_sealed import SealedKnowledgeStore
        from samvad.stores.data_keys import DataKeys
        from samvad.stores.master_keys import master_keys

        async with contextlib.AsyncExitStack() as until_here:
            if data_keys is None:
                data_keys = DataKeys(data_keys_of(store), master_keys(str(master_key)))
                until_here.push_async_callback(data_keys.close)
                await data_keys.open()
            sealed = SealedKnowledgeStore(documents, data_keys, SystemClock())
            await sealed.open()
            yield sealed


async def every_document(store: Any, users: Iterable[UserKey]) -> AsyncIterator[StoredDocument]:
    """All documents beside a store of conversations that is open. SamvadError where one belongs to nobody known.

    Firestore does not name the tenant of a document: there `users`, who have a record, say it.
    """
    path = getattr(store, "path", None)
    if isinstance(path, Path) and not documents_path(path).exists():
        return
    # Of a store that opens what it reads, documents are opened as well.
    async with taking_in(store, None, plain=data_keys_around(store) is not None) as documents:
        found, strangers = await documents.scopes(scopes_of(users))
        if strangers:
            raise SamvadError(
                f"{strangers} documents of the knowledge base are of a tenant of whom nothing else is in this store: "
                "whose they are is not known, and they cannot be carried."
            )
        for scope in found:
            for document_id in sorted(await documents.revisions(scope)):
                stored = await documents.get(scope, document_id)
                if stored is not None:  # else it was removed meanwhile
                    yield stored


async def erase(store: Any, user: UserKey) -> None:
    """Remove the documents of a user beside a store that is open, and first their key, without any master key."""
    path = getattr(store, "path", None)
    if isinstance(path, Path) and not documents_path(path).exists():
        return
    scope = Scope(user.tenant, user.user_id)
    async with beside(store) as documents:
        if data_keys_around(store) is not None or await has_keys(store):
            keys = data_keys_of(getattr(store, "inner", store))
            await keys.open()
            try:
                while (entry := await keys.get(hash_of(scope))) is not None:
                    await keys.swap(hash_of(scope), entry, None)
            finally:
                await keys.close()
        await documents.erase(scope)


async def kept(documents: KnowledgeStore, stored: StoredDocument) -> bool:
    """See that a store has a document, without overwriting another of that id; whether it has it now."""
    there = await documents.get(stored.scope, stored.document.id)
    if there is None:
        await documents.put(stored)
        there = await documents.get(stored.scope, stored.document.id)
    return there is not None and checksum(there) == checksum(stored)


def checksum(stored: StoredDocument) -> str:
    """The SHA-256 of all of a document but its revision, which counts the changes of one store."""
    whole = msgspec.structs.replace(stored, revision=0)
    return hashlib.sha256(msgspec.json.encode(whole, order="deterministic")).hexdigest()
