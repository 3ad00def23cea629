"""Where a Firestore deployment keeps the keys of its back ends: one document, which all replicas read.

`access/keys` holds hashes and scopes, `access/used` when each key was last used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from samvad import limits
from samvad.errors import StoreUnavailable
from samvad.stores import firestore_documents as documents
from samvad.stores.firestore_client import BoundedClient, CommitRefused
from samvad.stores.firestore_names import Names

_TIMEOUT_S: Final = 5.0


class FirestoreKeys:
    """The keyring of one Firestore database, over the client of the store of conversations."""

    every_s = float(limits.KEYS_REFRESH_S)

    def __init__(self, client: BoundedClient, names: Names) -> None:
        self._client = client
        self._keys = f"{names.root}/access/keys"
        self._used = f"{names.root}/access/used"
        self.place = f"Firestore, document {self._keys.partition('/documents/')[2]}"

    async def load(self) -> bytes | None:
        """The document; None where there is none."""
        found = await self._get(self._keys)
        return None if found is None else _body(found)

    async def change(self, make: Callable[[bytes | None], bytes]) -> None:
        """Replace the document by what `make` makes of it; again, where another was faster."""
        deadline = self._client.deadline()
        for attempt in range(limits.COMMIT_RETRIES_MAX):
            found = await self._get(self._keys)
            write = documents.set_write(self._keys, {"body": make(None if found is None else _body(found))})
            if found is None:
                documents.only_if_absent(write)
            else:
                documents.only_if_unchanged(write, found.update_time)
            try:
                await self._client.commit_surely([write], deadline)
            except CommitRefused:
                await self._client.give_way(attempt, deadline)
            else:
                return
        raise StoreUnavailable("Too many others are changing the keys; try again.")

    async def load_used(self) -> Mapping[str, int]:
        """When each key was last used."""
        found = await self._get(self._used)
        if found is None:
            return {}
        return {name: int(value) for name, value in documents.fields_of(found).items()}

    async def save_used(self, used: Mapping[str, int]) -> None:
        """Note these; other keys keep theirs."""
        write = documents.set_write(self._used, dict(used), [f"`{key_id}`" for key_id in used])
        await self._client.commit_surely([write], self._client.deadline(_TIMEOUT_S))

    async def _get(self, name: str) -> Any:
        found = await self._client.get([name], self._client.deadline(_TIMEOUT_S))
        return found.documents[name]


def _body(document: Any) -> bytes:
    body = documents.fields_of(document).get("body")
    return bytes(body) if isinstance(body, bytes) else msgspec.json.encode(body)
