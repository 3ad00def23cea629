"""What of a Firestore database is carried beside users' data. See stores/carrying.

Collections are gone through in the order of document names, which needs no index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from samvad.records import UserKey
from samvad.stores import firestore_documents as documents
from samvad.stores import firestore_names as names_of
from samvad.stores.carrying import KeysFound, OwnedReceipt, StoredErasure
from samvad.stores.firestore_client import BoundedClient, CommitRefused
from samvad.stores.firestore_names import Names
from samvad.stores.firestore_queries import query

_WRITES_AT_ONCE: Final = 200
_HEADS: Final = "user_profiles"
_STATES: Final = "user_states"


class Carrier:
    """Goes through one database."""

    def __init__(self, client: BoundedClient, names: Names) -> None:
        self._client = client
        self._names = names

    async def _behind(
        self, collection: str, after: str, limit: int, fields: Sequence[str] | None = None
    ) -> list[Any]:
        """The documents of a collection whose ids come behind `after`; of each only some `fields`, if asked."""
        wanted = query(collection, order=[("__name__", "ASCENDING")], limit=limit)
        if after:
            wanted.start_at.values.add().reference_value = f"{self._names.root}/{collection}/{after}"
            wanted.start_at.before = False
        for field in fields or ():
            wanted.select.fields.add().field_path = field
        return await self._client.query(self._names.root, wanted, self._client.deadline())

    async def keys(self, after: str, limit: int) -> KeysFound:
        """See Carrying.keys: heads first, then states of the older layout without a head."""
        collection, _, last = after.partition("/") if after else (_HEADS, "", "")
        if collection == _HEADS:
            found = await self._behind(_HEADS, last, limit, ["tenant", "userId", "layout"])
            keys = [_key_of(document) for document in found]
            end = f"{_HEADS}/{_id_of(found[-1])}" if len(found) == limit else f"{_STATES}/"
            return KeysFound(keys, end)
        found = await self._behind(_STATES, last, limit, ["tenant", "version"])
        older = [document for document in found if "tenant" not in document.fields]
        keys = []
        if older:
            heads = {f"{self._names.root}/{_HEADS}/{_id_of(each)}": _id_of(each) for each in older}
            there = await self._client.get(heads, self._client.deadline(), fields=["layout"])
            keys = [
                UserKey(names_of.DEFAULT_TENANT, heads[name])
                for name, document in there.documents.items()
                if document is None
            ]
        return KeysFound(keys, f"{_STATES}/{_id_of(found[-1])}" if len(found) == limit else None)

    async def erasures(self, after: bytes, limit: int) -> list[StoredErasure]:
        """See Carrying.erasures."""
        found = await self._behind("erasures", after.hex(), limit)
        return [
            StoredErasure(
                bytes.fromhex(_id_of(document)),
                document.fields["epoch"].integer_value,
                document.fields["erasedMs"].integer_value,
            )
            for document in found
        ]

    async def keep_erasures(self, erasures: Sequence[StoredErasure]) -> None:
        """See Carrying.keep_erasures."""
        left = list(erasures)
        while left:
            some, left = left[:_WRITES_AT_ONCE], left[_WRITES_AT_ONCE:]
            deadline = self._client.deadline()
            by_name = {f"{self._names.root}/erasures/{each.user_hash.hex()}": each for each in some}
            there = (await self._client.get(by_name, deadline)).documents
            writes = []
            for name, each in by_name.items():
                document = there[name]
                if document is not None and document.fields["epoch"].integer_value >= each.epoch:
                    continue
                fields = {"epoch": each.epoch, "erasedMs": each.erased_ms, "token": ""}
                write = documents.set_write(name, fields)
                if document is None:
                    writes.append(documents.only_if_absent(write))
                else:
                    writes.append(documents.only_if_unchanged(write, document.update_time))
            try:
                if writes:
                    await self._client.commit_surely(writes, deadline)
            except (
                CommitRefused
            ):  # a server is erasing too, or the answer to our own attempt was lost: look again
                left = some + left

    async def receipts(self, after: bytes, limit: int) -> list[OwnedReceipt]:
        """See Carrying.receipts."""
        found = await self._behind("receipts", after.hex(), limit)
        receipts = []
        for document in found:
            user_hash, _, epoch = document.fields["life"].string_value.partition("#")
            receipt = documents.receipt_from(bytes.fromhex(_id_of(document)), document)
            receipts.append(OwnedReceipt(bytes.fromhex(user_hash), int(epoch), receipt))
        return receipts

    async def keep_receipts(self, receipts: Sequence[OwnedReceipt]) -> None:
        """See Carrying.keep_receipts."""
        for start in range(0, len(receipts), _WRITES_AT_ONCE):
            deadline = self._client.deadline()
            some = {
                self._names.receipt(each.receipt.key): each
                for each in receipts[start : start + _WRITES_AT_ONCE]
            }
            there = (await self._client.get(some, deadline, fields=["atMs"])).documents
            writes = [
                documents.set_write(
                    name, documents.receipt_fields(f"{each.user_hash.hex()}#{each.epoch}", each.receipt)
                )
                for name, each in some.items()
                if there[name] is None
            ]
            newest: dict[bytes, int] = {}
            for name, each in some.items():
                if there[name] is None and each.receipt.answer is not None:
                    newest[each.user_hash] = max(newest.get(each.user_hash, 0), each.receipt.at_ms)
            writes += [
                documents.at_least_write(self._names.stray_receipts(hashed), "atMs", at_ms)
                for hashed, at_ms in newest.items()
            ]
            if writes:
                await self._client.commit_surely(writes, deadline)


def _id_of(document: Any) -> str:
    return str(document.name.rpartition("/")[2])


def _key_of(document: Any) -> UserKey:
    if "layout" in document.fields:
        return UserKey(document.fields["tenant"].string_value, document.fields["userId"].string_value)
    return UserKey(names_of.DEFAULT_TENANT, _id_of(document))  # of the older layout, not carried over yet
