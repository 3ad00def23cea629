"""Notes in Firestore that all replicas see: the collection `upkeep`, a document for each.

How old a note is tells Firestore's clock alone: the time of the read less the time of the write.
"""

from __future__ import annotations

from typing import Any, Final

from samvad.errors import StoreUnavailable
from samvad.stores import firestore_documents as documents
from samvad.stores.firestore_client import BoundedClient, CommitAmbiguous, CommitRefused
from samvad.stores.firestore_names import Names
from samvad.stores.shared_notes import SharedNote

_COLLECTION: Final = "upkeep"
_TIMEOUT_S: Final = 5.0


class FirestoreNotes:
    """See SharedNotes. The client is the store's, which opens and closes it."""

    def __init__(self, client: BoundedClient, names: Names) -> None:
        self._client = client
        self._names = names

    async def get(self, name: str) -> SharedNote | None:
        """See SharedNotes: 1 read."""
        path = self._path(name)
        found = await self._client.get([path], self._client.deadline(_TIMEOUT_S))
        document = found.documents[path]
        if document is None:
            return None
        age_ms = found.read_time.ToMilliseconds() - document.update_time.ToMilliseconds()
        return SharedNote(_body(document), max(0, age_ms), document.update_time)

    async def swap(self, name: str, old: SharedNote | None, body: bytes) -> SharedNote | None:
        """See SharedNotes: 1 write, and a read where no answer told whether it was done."""
        write = documents.set_write(self._path(name), {"body": body.decode()})
        if old is None:
            documents.only_if_absent(write)
        else:
            documents.only_if_unchanged(write, old.token)
        try:
            written = await self._client.commit([write], self._client.deadline(_TIMEOUT_S))
        except CommitRefused:
            return None
        except CommitAmbiguous as error:
            there = await self.get(name)
            if there is not None and there.body == body:
                return there
            if (there and there.token) == (old and old.token):
                raise StoreUnavailable from error  # it may yet be done
            return None
        return SharedNote(body, 0, written[0])

    def _path(self, name: str) -> str:
        return f"{self._names.root}/{_COLLECTION}/{name}"


def _body(document: Any) -> bytes:
    return str(documents.fields_of(document).get("body", "")).encode()
