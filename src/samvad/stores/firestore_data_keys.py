"""Wrapped keys in Firestore: the collection `data_keys`, which all replicas share. Leave it out of exports."""

from __future__ import annotations

from typing import Any, Final

from samvad.errors import StoreUnavailable
from samvad.stores import firestore_documents as documents
from samvad.stores.data_key_store import NOTHING, DataKeyEntry
from samvad.stores.firestore_client import BoundedClient, CommitAmbiguous, CommitRefused
from samvad.stores.firestore_names import Names
from samvad.stores.firestore_queries import query

COLLECTION: Final = "data_keys"


class FirestoreDataKeys:
    """Keys beside the documents that they seal. The client is the store's, which opens and closes it."""

    def __init__(self, client: BoundedClient, names: Names) -> None:
        self._client = client
        self._names = names

    async def open(self) -> None:
        """The store has opened the client."""

    async def close(self) -> None:
        """The store closes the client."""

    def _path(self, name: bytes) -> str:
        return f"{self._names.root}/{COLLECTION}/{name.hex()}"

    async def get(self, name: bytes) -> DataKeyEntry | None:
        """See DataKeyStore: 1 read."""
        path = self._path(name)
        found = await self._client.get([path], self._client.deadline())
        document = found.documents.get(path)
        return None if document is None else _entry(document)

    async def swap(
        self, name: bytes, old: DataKeyEntry | None, value: bytes | None, erasing: bool = False
    ) -> DataKeyEntry | None:
        """See DataKeyStore: 1 write. After an answer that leaves open whether it was done, the document tells."""
        path = self._path(name)
        if value is None:
            write = documents.delete_write(path)
        else:
            write = documents.set_write(path, {"value": value, "erasing": erasing})
        if old is None:
            documents.only_if_absent(write)
        else:
            documents.only_if_unchanged(write, old.token)
        try:
            times = await self._client.commit([write], self._client.deadline())
        except CommitRefused:
            return None
        except CommitAmbiguous as error:
            there = await self.get(name)
            if (None if there is None else (there.value, there.erasing)) == (
                None if value is None else (value, erasing)
            ):
                return there or NOTHING
            if (there is None) == (old is None) and (there is None or there.token == _token_of(old)):
                raise StoreUnavailable from error
            return None
        return NOTHING if value is None else DataKeyEntry(value, erasing, times[0])

    async def scan(
        self, *, after: bytes = b"", limit: int, erasing: bool = False
    ) -> list[tuple[bytes, DataKeyEntry]]:
        """See DataKeyStore: a read for each."""
        filters: list[tuple[str, str, Any]] = [("erasing", "EQUAL", True)] if erasing else []
        wanted = query(COLLECTION, *filters, order=[("__name__", "ASCENDING")], limit=limit)
        if after:
            wanted.start_at.values.add().reference_value = self._path(after)
            wanted.start_at.before = False
        found = await self._client.query(self._names.root, wanted, self._client.deadline())
        return [(bytes.fromhex(each.name.rpartition("/")[2]), _entry(each)) for each in found]


def _entry(document: Any) -> DataKeyEntry:
    fields = document.fields
    return DataKeyEntry(fields["value"].bytes_value, fields["erasing"].boolean_value, document.update_time)


def _token_of(entry: DataKeyEntry | None) -> Any:
    return None if entry is None else entry.token
