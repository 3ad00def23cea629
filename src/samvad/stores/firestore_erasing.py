"""Erasing on Firestore: first the fence, in one atomic batch, then the purge, in bounded ones.

The fence counts the epoch up under a hash of the user's id, removes head and state, and leaves a note. With it go the
sessions and interruptions that were found before it, a bounded number: as long as the head is the one that was read,
which the fence rests on, they are this life's, and all there are. Where the head says what there is, nothing is asked.
Mostly it tells of everything: then all goes with the fence, and nothing is left to be done, nor noted.

Else nothing of the old life can be read or written from then on, though what the fence had no room for, segments that
the head does not list and receipts' answers are still to be purged. The note names the user until that is done, so that
whoever finds it (this process, or the next after a crash) can finish.

Strays are what no head tells of: segments in front of a batch that was too large for one request, which stay if the
process ends there, and answers kept of a user who is not there, or brought from another store. Whoever writes them
writes a mark as well, under the hash of the user. A fence that is all rests on there being none, and is else refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from samvad.errors import StoreUnavailable
from samvad.records import (
    NOTHING_REMOVED,
    Commit,
    Erased,
    ReceiptKept,
    Removed,
    UserKey,
    removed_answer,
    user_hash,
)
from samvad.stores import firestore_documents as documents
from samvad.stores import firestore_names as names_of
from samvad.stores.firestore_client import BoundedClient, CommitRefused
from samvad.stores.firestore_head import Head
from samvad.stores.firestore_names import Names
from samvad.stores.firestore_queries import query

_FOUND_AT_ONCE: Final = 200  # of each kind
_WRITES_AT_ONCE: Final = 400
_PURGES_AT_ONCE: Final = 20


class Found(NamedTuple):
    """What there is of a life before its fence: exact if the head is still the same when the fence is written.

    `removed` is what erasing removes, `names` the documents that go with the fence. `all` is whether no session and no
    interruption is left for the purge; `whole`: nothing at all, unless there are strays.
    """

    removed: Removed = NOTHING_REMOVED
    names: tuple[str, ...] = ()
    all: bool = True
    whole: bool = False


class _Wanted(NamedTuple):
    """Documents to be removed; `blank`: only the answer in them."""

    parent: str
    query: Any
    blank: bool = False

    def write(self, document: Any) -> Any:
        """The write that does so, if the document is still the one that was found."""
        if self.blank:
            gone = {"answer": None, "answered": False}
            write = documents.set_write(document.name, gone, list(gone))
        else:
            write = documents.delete_write(document.name)
        return documents.only_if_unchanged(write, document.update_time)


class Eraser:
    """Fences and purges users of one database."""

    def __init__(self, client: BoundedClient, names: Names) -> None:
        self._client = client
        self._names = names
        self.left_over = False  # whether a purge of this process was cut short

    async def find(self, user: UserKey, head: Head, deadline: float, *, strays: bool) -> Found:
        """What erasing removes, and what of it is to go with the fence. `strays`: there may be some."""
        if not head.there:
            return Found()
        (sessions, session_names), (interruptions, interruption_names) = await asyncio.gather(
            self._sessions(user, head, deadline), self._interruptions(user, head, deadline)
        )
        names = (*session_names, *interruption_names)
        removed = Removed(
            state=head.state_ms is not None,
            profile=head.profile is not None,
            sessions=sessions,
            messages=head.seq - head.trimmed,
            interruptions=interruptions,
        )
        everything = len(names) == sessions + interruptions
        whole = everything and not (strays or head.answered or head.segments_more)
        if whole:
            names += tuple(self._names.segment(user, head.epoch, each) for each in head.segments)
        return Found(removed, names, everything, whole)

    async def _sessions(self, user: UserKey, head: Head, deadline: float) -> tuple[int, Sequence[str]]:
        if head.lists_all_sessions:
            return len(head.sessions), [self._names.session(user.tenant, each) for each in head.sessions]
        return await self._in_life("sessions", user, head, deadline)

    async def _interruptions(self, user: UserKey, head: Head, deadline: float) -> tuple[int, Sequence[str]]:
        if not head.interrupted:
            return 0, ()
        return await self._in_life("interruptions", user, head, deadline)

    async def _in_life(
        self, collection: str, user: UserKey, head: Head, deadline: float
    ) -> tuple[int, Sequence[str]]:
        """How many documents of a collection are of a life, and the names of the first of them."""
        found = await self._client.query(self._names.root, _of_life(collection, user, head.epoch), deadline)
        names = [each.name for each in found]
        if len(names) < _FOUND_AT_ONCE:
            return len(names), names
        life = ("life", "EQUAL", names_of.life(user, head.epoch))
        return (await self._client.aggregate(query(collection, life), deadline))["count"], names

    def fence(self, commit: Commit, head: Head, found: Found, token: str) -> list[Any]:
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
        writes += [documents.delete_write(name) for name in found.names]
        if not found.whole:
            note = {"tenant": user.tenant, "userId": user.user_id, "epoch": head.epoch, "atMs": at_ms}
            writes.append(documents.set_write(self._names.purge(user, head.epoch), note))
        answered_ms: int | None = None
        hashed_life = names_of.hashed_life(user, head.epoch + 1)
        for change in commit.changes:
            if isinstance(change, ReceiptKept):
                receipt = change.receipt
                if receipt.answer == b"":
                    answer = removed_answer(found.removed, receipt.at_ms)
                    receipt = msgspec.structs.replace(receipt, answer=answer)
                fields = documents.receipt_fields(hashed_life, receipt)
                writes.append(documents.set_write(self._names.receipt(receipt.key), fields))
                answered_ms = receipt.at_ms
            elif not isinstance(change, Erased):
                raise ValueError("an erasing is committed by itself")
        strays = [documents.delete_write(self._names.stray_segments(user))] if found.whole else []
        mark = self._names.stray_receipts(user_hash(user))
        if answered_ms is not None:  # in the life that begins, of which no head tells yet
            strays.append(documents.at_least_write(mark, "atMs", answered_ms))
        elif found.whole:
            strays.append(documents.delete_write(mark))
        if found.whole:
            strays = [documents.only_if_absent(each) for each in strays]
        return writes + strays

    async def fenced_by(self, user: UserKey, deadline: float) -> str:
        """The token of the newest erasing of the user; empty if there was none."""
        name = self._names.erasure(user)
        document = (await self._client.get([name], deadline)).documents[name]
        return "" if document is None else str(document.fields["token"].string_value)

    async def purge(self, user: UserKey, epoch: int, *, all_found: bool = False) -> None:
        """Remove what is left of a life that was fenced, its note with the last of it. Doing it twice is harmless.

        `all_found`: no session and no interruption can be left.
        """
        root = self._names.root
        answered = (("life", "EQUAL", names_of.hashed_life(user, epoch)), ("answered", "EQUAL", True))
        of_epochs = query("history", ("epoch", "LESS_THAN_OR_EQUAL", epoch), **_SOME)
        wanted = [
            _Wanted(self._names.head(user), of_epochs),
            _Wanted(root, query("receipts", *answered, **_SOME), blank=True),
        ]
        if not all_found:
            wanted += [_Wanted(root, _of_life(kind, user, epoch)) for kind in ("sessions", "interruptions")]
        await self._remove(wanted, documents.delete_write(self._names.purge(user, epoch)))

    async def _remove(self, wanted: Sequence[_Wanted], last: Any = None) -> int:
        """Remove all that is wanted, a bounded number at a time, and then the `last`; how many were found."""
        gone = 0
        while True:
            deadline = self._client.deadline()
            pages = await asyncio.gather(
                *[self._client.query(each.parent, each.query, deadline) for each in wanted]
            )
            writes = [
                each.write(document) for each, page in zip(wanted, pages, strict=True) for document in page
            ]
            left = [each for each, page in zip(wanted, pages, strict=True) if len(page) >= _FOUND_AT_ONCE]
            found = len(writes)
            if not left and last is not None:
                writes.append(last)
            try:
                for start in range(0, len(writes), _WRITES_AT_ONCE):
                    await self._client.commit_surely(writes[start : start + _WRITES_AT_ONCE], deadline)
            except CommitRefused:
                continue  # another is purging too, or has taken a session's id: look again
            gone += found
            if not left:
                return gone
            wanted = left

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

    async def purge_or_leave(self, user: UserKey, epoch: int, *, all_found: bool) -> bool:
        """Purge, and whether that was done; where the store fails, the note remains for the next sweep."""
        try:
            await self.purge(user, epoch, all_found=all_found)
        except StoreUnavailable:
            self.left_over = True
            return False
        return True

    async def expire_receipts(self, before_ms: int) -> int:
        """Forget receipts older than this, and marks of such; how many receipts."""
        older = ("atMs", "LESS_THAN", before_ms)
        await self._remove([_Wanted(self._names.root, query("strays", older, **_SOME))])
        return await self._remove([_Wanted(self._names.root, query("receipts", older, **_SOME))])


_SOME: Final[dict[str, Any]] = {"limit": _FOUND_AT_ONCE, "only_names": True}


def _of_life(collection: str, user: UserKey, epoch: int) -> Any:
    """The first documents of a collection that are of a life."""
    return query(collection, ("life", "EQUAL", names_of.life(user, epoch)), **_SOME)
