"""Erasing on Firestore: first the fence, in one atomic batch, then the purge, in bounded ones.

The fence counts the epoch up under a hash of the user's id, removes head and state, and leaves a note. From
then on nothing of the old life can be read or written, though its segments, sessions, interruptions and
receipts' answers are still to be purged. The note names the user until that is done, so that whoever finds it
(this process, or the next after a crash) can finish.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from samvad.errors import StoreUnavailable
from samvad.records import Commit, Erased, ReceiptKept, Removed, UserKey, removed_answer
from samvad.stores import firestore_documents as documents
from samvad.stores import firestore_names as names_of
from samvad.stores.firestore_client import BoundedClient, CommitRefused
from samvad.stores.firestore_head import Head
from samvad.stores.firestore_names import Names
from samvad.stores.firestore_queries import query

_PURGED_AT_ONCE: Final = 200
_PURGES_AT_ONCE: Final = 20


class Eraser:
    """Fences and purges users of one database."""

    def __init__(self, client: BoundedClient, names: Names) -> None:
        self._client = client
        self._names = names
        self.left_over = False  # whether a purge of this process was cut short

    async def counts(self, user: UserKey, head: Head, deadline: float) -> Removed:
        """What erasing removes. Exact if the head is still the same when the fence is written."""
        if not head.there:
            return Removed()
        life = ("life", "EQUAL", names_of.life(user, head.epoch))
        sessions = await self._client.aggregate(query("sessions", life), deadline)
        interruptions = await self._client.aggregate(query("interruptions", life), deadline)
        return Removed(
            state=head.state_ms is not None,
            profile=head.profile is not None,
            sessions=sessions["count"],
            messages=head.seq - head.trimmed,
            interruptions=interruptions["count"],
        )

    def fence(self, commit: Commit, head: Head, removed: Removed, token: str) -> list[Any]:
        """The writes that end a life, on condition that the head is the one that was read."""
        user = commit.user
        at_ms = next(change.at_ms for change in commit.changes if isinstance(change, Erased))
        fields: documents.Fields = {"epoch": head.epoch + 1, "erasedMs": at_ms, "token": token}
        if commit.origin is not None:
            fields |= commit.origin._asdict()
        erasure = documents.stamped_write(documents.set_write(self._names.erasure(user), fields))
        writes = [erasure]
        if head.update_time is not None:
            gone = documents.delete_write(self._names.head(user))
            writes.append(documents.only_if_unchanged(gone, head.update_time))
        elif head.erasure_time is not None:
            documents.only_if_unchanged(erasure, head.erasure_time)
        else:
            documents.only_if_absent(erasure)
        writes.append(documents.delete_write(self._names.state(user)))
        note = {"tenant": user.tenant, "userId": user.user_id, "epoch": head.epoch, "atMs": at_ms}
        writes.append(documents.set_write(self._names.purge(user, head.epoch), note))
        hashed_life = names_of.hashed_life(user, head.epoch + 1)
        for change in commit.changes:
            if isinstance(change, ReceiptKept):
                receipt = change.receipt
                if receipt.answer == b"":
                    receipt = msgspec.structs.replace(receipt, answer=removed_answer(removed, receipt.at_ms))
                fields = documents.receipt_fields(hashed_life, receipt)
                writes.append(documents.set_write(self._names.receipt(receipt.key), fields))
            elif not isinstance(change, Erased):
                raise ValueError("an erasing is committed by itself")
        return writes

    async def fenced_by(self, user: UserKey, deadline: float) -> str:
        """The token of the newest erasing of the user; empty if there was none."""
        name = self._names.erasure(user)
        document = (await self._client.get([name], deadline)).documents[name]
        return "" if document is None else str(document.fields["token"].string_value)

    async def purge(self, user: UserKey, epoch: int) -> int:
        """Remove what is left of a life that was fenced; how many documents. Doing it twice is harmless."""
        life = ("life", "EQUAL", names_of.life(user, epoch))
        answered = (
            ("life", "EQUAL", names_of.hashed_life(user, epoch)),
            ("answered", "EQUAL", True),
        )
        root = self._names.root
        gone = await self._all(
            self._names.head(user), query("history", ("epoch", "LESS_THAN_OR_EQUAL", epoch), **_SOME)
        )
        gone += await self._all(root, query("sessions", life, **_SOME))
        gone += await self._all(root, query("interruptions", life, **_SOME))
        await self._all(root, query("receipts", *answered, **_SOME), blank=True)
        note = documents.delete_write(self._names.purge(user, epoch))
        await self._client.commit_surely([note], self._client.deadline())
        return gone

    async def _all(self, parent: str, wanted: Any, blank: bool = False) -> int:
        """Delete (or blank) everything that a query finds, a bounded number at a time."""
        gone = 0
        while True:
            deadline = self._client.deadline()
            found = await self._client.query(parent, wanted, deadline)
            if not found:
                return gone
            writes = [
                self._blank(each.name) if blank else documents.delete_write(each.name) for each in found
            ]
            for write, document in zip(writes, found, strict=True):
                documents.only_if_unchanged(write, document.update_time)
            try:
                await self._client.commit_surely(writes, deadline)
            except CommitRefused:
                continue  # another is purging too, or has taken a session's id: look again
            gone += len(found)
            if len(found) < _PURGED_AT_ONCE:
                return gone

    @staticmethod
    def _blank(name: str) -> Any:
        return documents.set_write(name, {"answer": None, "answered": False}, ["answer", "answered"])

    async def sweep(self) -> int:
        """Finish what other processes began to purge; how many lives."""
        done = 0
        while True:
            wanted = query("purges", limit=_PURGES_AT_ONCE)
            notes = await self._client.query(self._names.root, wanted, self._client.deadline())
            for note in notes:
                fields = documents.fields_of(note)
                await self.purge(UserKey(fields["tenant"], fields["userId"]), fields["epoch"])
                done += 1
            if len(notes) < _PURGES_AT_ONCE:
                self.left_over = False
                return done

    async def purge_or_leave(self, user: UserKey, epoch: int) -> bool:
        """Purge, and whether that was done; where the store fails, the note remains for the next sweep."""
        try:
            await self.purge(user, epoch)
        except StoreUnavailable:
            self.left_over = True
            return False
        return True

    async def expire_receipts(self, before_ms: int) -> int:
        """Forget receipts older than this; how many."""
        wanted = query("receipts", ("atMs", "LESS_THAN", before_ms), **_SOME)
        return await self._all(self._names.root, wanted)


_SOME: Final[dict[str, Any]] = {"limit": _PURGED_AT_ONCE, "only_names": True}
