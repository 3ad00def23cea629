"""What stands beside the documents in Firestore: `knowledge_vectors/{id}`, and `knowledge_statistics/{scope}`.

Vectors are bytes, not Firestore's own vector values: they are searched here (see docs/decisions/0010), and so need no
index per model. Names say nothing of whose they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from samvad.clock import Clock
from samvad.errors import StoreUnavailable
from samvad.knowledge.records import Vectors
from samvad.knowledge.store_firestore_chunks import chunk, chunks_below, commit
from samvad.stores import firestore_documents as documents
from samvad.stores.firestore_client import BoundedClient, CommitAmbiguous, CommitRefused
from samvad.stores.firestore_names import Names
from samvad.stores.firestore_queries import query

_VECTORS: Final = "knowledge_vectors"
_STATISTICS: Final = "knowledge_statistics"
_CHUNK_BYTES: Final = 900_000  # a document may have 1 MiB
_ATTEMPTS_MAX: Final = 8
_BEGUN: Final = -1  # chunks, of what is being written for the first time


class _Head(msgspec.Struct, array_like=True):
    """What is known of a document's vectors, without them."""

    vectors: Vectors  # with no data
    written: int  # names the chunks
    chunks: int


class FoundBeside(NamedTuple):
    """Names of documents: the pieces of vectors, and what they are found by and statistics, which are to go last."""

    chunks: list[str]
    names: list[str]


class FirestoreBeside:
    """Vectors and statistics in one Firestore database."""

    def __init__(self, client: BoundedClient, names: Names, clock: Clock) -> None:
        self._client = client
        self._names = names
        self._clock = clock
        self._written = 0

    # --- vectors ---------------------------------------------------------------------------------------

    async def put_vectors(self, key: str, name: str, vectors: Vectors, marking: Sequence[Any] = ()) -> None:
        """Keep vectors under a document's name; `key` is its scope's, and `marking` is written with them."""
        path = self._path(name)
        before = await self._head(path)
        last = self._written if before is None else max(self._written, before.written)
        self._written = max(self._clock.now_ms() * 1_000, last + 1)
        data = vectors.data
        pieces = [data[at : at + _CHUNK_BYTES] for at in range(0, len(data), _CHUNK_BYTES)]
        head = _Head(msgspec.structs.replace(vectors, data=b""), self._written, len(pieces))
        if before is None and len(pieces) > 1:  # cut off before all is there, the pieces are found by it
            await commit(
                self._client, [_head_write(path, key, msgspec.structs.replace(head, chunks=_BEGUN)), *marking]
            )
        writes = [
            documents.set_write(chunk(path, self._written, number), {"text": piece})
            for number, piece in enumerate(pieces)
        ]
        for write in writes[:-1]:  # one at a time: a request has a limit too
            await commit(self._client, [write])
        await commit(
            self._client, [*writes[-1:], _head_write(path, key, head), *marking, *_gone(path, before)]
        )

    async def get_vectors(self, name: str) -> Vectors | None:
        """The vectors under a document's name."""
        path = self._path(name)
        head = await self._head(path)
        if head is None or head.chunks == _BEGUN:
            return None
        data = bytearray()
        for number in range(head.chunks):
            piece = chunk(path, head.written, number)
            found = (await self._client.get([piece], self._client.deadline())).documents.get(piece)
            if found is None:
                return None  # written anew while it was being read
            data += documents.fields_of(found)["text"]
        return msgspec.structs.replace(head.vectors, data=bytes(data))

    async def heads(self, key: str) -> list[Vectors]:
        """All vectors of a scope, without their data."""
        heads = [_decode(found) for found in await self._of_scope(key)]
        return [head.vectors for head in heads if head.chunks != _BEGUN]

    async def drop(self, name: str) -> None:
        """Remove the vectors under a document's name."""
        path = self._path(name)
        head = await self._head(path)
        if head is not None:
            await commit(self._client, [*_gone(path, head), documents.delete_write(path)])

    async def found_of(self, key: str) -> FoundBeside:
        """What is kept of a scope here, for who removes all of it."""
        names = [each.name for each in await self._of_scope(key)]
        return FoundBeside(await chunks_below(self._client, names), [*names, self._statistics_path(key)])

    async def _of_scope(self, key: str) -> list[Any]:
        wanted = query(_VECTORS, ("scope", "EQUAL", key))
        return await self._client.query(self._names.root, wanted, self._client.deadline())

    async def _head(self, path: str) -> _Head | None:
        found = (await self._client.get([path], self._client.deadline())).documents.get(path)
        return None if found is None else _decode(found)

    # --- statistics ------------------------------------------------------------------------------------

    async def statistics(self, key: str) -> bytes | None:
        """What was kept of what is asked of a scope."""
        path = self._statistics_path(key)
        found = (await self._client.get([path], self._client.deadline())).documents.get(path)
        return None if found is None else documents.fields_of(found)["body"]

    async def change_statistics(
        self, key: str, change: Callable[[bytes | None], bytes | None], marking: Sequence[Any] = ()
    ) -> None:
        """Keep what `change` makes of it, and `marking`; read and tried again where another replica was faster."""
        path = self._statistics_path(key)
        for attempt in range(_ATTEMPTS_MAX):
            deadline = self._client.deadline()
            found = (await self._client.get([path], deadline)).documents.get(path)
            body = change(None if found is None else documents.fields_of(found)["body"])
            if body is None:
                write = documents.delete_write(path)
            else:
                write = documents.set_write(path, {"body": body})
            if found is not None:
                documents.only_if_unchanged(write, found.update_time)
            elif body is None:
                return
            else:
                documents.only_if_absent(write)
            try:
                await self._client.commit([write, *(() if body is None else marking)], deadline)
            except CommitRefused:
                await self._client.give_way(attempt, deadline)
            except CommitAmbiguous as error:
                raise StoreUnavailable from error
            else:
                return
        raise StoreUnavailable

    def _path(self, name: str) -> str:
        return f"{self._names.root}/{_VECTORS}/{name.rpartition('/')[2]}"

    def _statistics_path(self, key: str) -> str:
        return f"{self._names.root}/{_STATISTICS}/%h{key}"


def _head_write(path: str, key: str, head: _Head) -> Any:
    return documents.set_write(path, {"scope": key, "body": msgspec.msgpack.encode(head)})


def _gone(path: str, head: _Head | None) -> list[Any]:
    numbers = range(0 if head is None else head.chunks)
    return [documents.delete_write(chunk(path, head.written, each)) for each in numbers] if head else []


def scopes_beside() -> dict[str, Callable[[Any], str | None]]:
    """What tells the key of the scope of a document, by collection."""
    return {
        _VECTORS: lambda document: documents.fields_of(document).get("scope"),
        _STATISTICS: lambda document: str(document.name.rpartition("/%h")[2]),
    }


def _decode(document: Any) -> _Head:
    return msgspec.msgpack.decode(documents.fields_of(document)["body"], type=_Head)


__all__ = ["FirestoreBeside", "FoundBeside", "scopes_beside"]
