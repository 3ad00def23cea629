"""Commits on Firestore: written once, whatever becomes of the answers.

A batch rests on the head being the one that was read, so that whoever comes second is refused and looks again.
An answer that does not come leaves open whether the batch was written, or still will be. Each batch carries a
token into the head: reading the head again tells, and what comes too late is refused for the head's sake.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import Any, Final

import msgspec

from samvad.errors import SamvadError, StaleVersion, StoreUnavailable
from samvad.records import (
    Commit,
    Committed,
    InterruptionAdded,
    InterruptionsRemoved,
    InterruptionsTrimmed,
    MessagesAdded,
    SessionRemoved,
    SessionSet,
    SessionTouched,
    Trimmed,
    UserKey,
    Version,
)
from samvad.stores import firestore_documents as documents
from samvad.stores.firestore_client import BoundedClient, CommitAmbiguous, CommitRefused
from samvad.stores.firestore_erasing import Eraser, Found
from samvad.stores.firestore_head import Head, Torn
from samvad.stores.firestore_names import Names
from samvad.stores.firestore_plan import Batch, Facts, Plan
from samvad.stores.firestore_reads import Reader

REQUEST_BYTES_MAX: Final = 3 * 1024 * 1024  # the emulator takes 4 MiB, Firestore 10
HEADS_BYTES_MAX: Final = 64 * 1024 * 1024

Result = Committed | SamvadError


class Committer:
    """Writes batches of commits, and keeps the heads that it knows."""

    def __init__(
        self, client: BoundedClient, names: Names, reader: Reader, eraser: Eraser, session_lag_ms: int
    ) -> None:
        self._client = client
        self._names = names
        self._reader = reader
        self._eraser = eraser
        self._session_lag_ms = session_lag_ms
        self._heads: OrderedDict[UserKey, Head] = OrderedDict()
        self._heads_bytes = 0
        self.messages_written = 0

    async def write(self, user: UserKey, commits: list[Commit]) -> list[Result]:
        """Some commits of a user as one batch; an answer for each."""
        deadline = self._client.deadline()
        tried: dict[str, tuple[list[Result], Head]] = {}
        head = self._heads.get(user)
        cached = head is not None
        certain = False  # whether sessions that look new must be looked for
        lost = overtaken = 0
        while True:
            if head is None:
                head, _ = await self._reader.head(user, deadline)
                cached = False
                token = head.wrote(tried)
                if token is not None:
                    results, base = tried[token]
                    self._count_messages(base, results)
                    self.remember(user, head)
                    return results
                if any(not head.remembers(base.revision) for _, base in tried.values()):
                    raise StoreUnavailable("Too many others wrote for this user to tell what became of this.")
            try:
                facts = await self._facts(user, head, commits, certain, deadline)
            except Torn:
                head = None
                await self._client.give_way(0, deadline)
                continue
            plan = Plan(self._names, user, head, facts, self._session_lag_ms)
            results = [_taken(plan, commit) for commit in commits]
            if cached and any(isinstance(result, SamvadError) for result in results):
                head = None  # another replica may have written: the refusal must rest on what is there
                continue
            token = secrets.token_hex(6)
            batch = plan.batch(token)
            if not batch.writes:
                self.remember(user, head)
                return results
            if batch.head_at is not None:
                tried[token] = (results, head)
            self.forget(user)
            base, head = head, None
            try:
                self.remember(user, await self._send(user, batch, deadline))
            except CommitRefused:
                certain = True
                tried.pop(token, None)  # this attempt was sent once, and is certain not to have been done
                await self._client.give_way(overtaken, deadline)
                overtaken += 1
            except CommitAmbiguous:
                await self._client.pause(lost, deadline)
                lost += 1
            else:
                self._count_messages(base, results)
                return results

    def _count_messages(self, before: Head, results: list[Result]) -> None:
        """Count what a batch has brought, once it is certain that it was written."""
        seqs = [result.seq for result in results if isinstance(result, Committed)]
        self.messages_written += max([before.seq, *seqs]) - before.seq

    async def _facts(
        self, user: UserKey, head: Head, commits: list[Commit], certain: bool, deadline: float
    ) -> Facts:
        """Read what the commits rest on beside the head; mostly nothing."""
        sessions: set[str] = set()
        interruptions: set[str] = set()
        unproven: set[str] = set()
        trims: set[int] = set()
        old_interruptions: set[int] = set()
        for commit in commits:
            for change in commit.changes:
                if isinstance(change, MessagesAdded):
                    unproven.update(change.unproven)
                elif isinstance(change, SessionSet):
                    if certain or change.session.created_ms != change.session.active_ms:
                        sessions.add(change.session.id)
                elif isinstance(change, SessionTouched):
                    sessions.add(change.session_id)
                elif isinstance(change, InterruptionAdded):
                    sessions.add(change.interruption.session_id)
                elif isinstance(change, SessionRemoved | InterruptionsRemoved):
                    sessions.add(change.session_id)
                    interruptions.add(change.session_id)
                elif isinstance(change, Trimmed):
                    trims.add(change.before_seq)
                elif isinstance(change, InterruptionsTrimmed):
                    old_interruptions.add(change.before_ms)
        return await self._reader.facts(
            user,
            head,
            sessions=sessions - head.sessions.keys(),
            interruptions=interruptions,
            unproven=unproven,
            trims=trims,
            old_interruptions=old_interruptions,
            deadline=deadline,
        )

    async def _send(self, user: UserKey, batch: Batch, deadline: float) -> Head:
        """Commit a batch; the head as it is then.

        A batch that is too much for one request is preceded by its segments, which count for nothing until
        the batch says where they stand; a mark tells whoever erases to look for them.
        """
        writes = batch.writes
        size = sum(write.ByteSize() for write in writes)
        size += sum(content.ByteSize() + where.ByteSize() for content, where in batch.segments)
        if size <= REQUEST_BYTES_MAX:
            for content, where in batch.segments:
                for field, value in where.update.fields.items():
                    content.update.fields[field].CopyFrom(value)
                writes.append(content)
        else:
            mark = documents.set_write(self._names.stray_segments(user), {})
            for group in _by_size([mark, *[content for content, _ in batch.segments]]):
                await self._client.commit_surely(group, deadline)
            for _, where in batch.segments:
                where.current_document.exists = True
                writes.append(where)
        times = await self._client.commit(writes, deadline)
        if batch.head_at is None:
            return batch.head
        return _written(batch.head, times[batch.head_at])

    async def erase(self, commit: Commit) -> Result:
        """End a user's life, and remove what is left of it."""
        user = commit.user
        deadline = self._client.deadline()
        head = self._heads.get(user)
        cached = head is not None
        tried: dict[str, tuple[Committed, int, Found]] = {}
        strays = False
        lost = overtaken = 0
        while True:
            if head is None:
                head, _ = await self._reader.head(user, deadline)
                cached = False
                if tried:
                    done = tried.get(await self._eraser.fenced_by(user, deadline))
                    if done is not None:
                        return await self._purged(user, *done)
            origin = commit.origin
            if origin is not None and head.applied.get(origin.replica, (-1, 0))[0] >= origin.number:
                again = Committed(Version(head.epoch, head.revision), head.seq)
                # Its purge may have been cut short.
                return await self._purged(user, again, head.epoch - 1, Found(all=False))
            if commit.expected != Version(head.epoch, head.revision):
                if not cached:
                    return StaleVersion()
                head = None
                continue
            found = await self._eraser.find(user, head, deadline, strays=strays)
            token = secrets.token_hex(6)
            committed = Committed(Version(head.epoch + 1, 0), 0, found.removed)
            tried[token] = (committed, head.epoch, found)
            writes = self._eraser.fence(commit, head, found, token)
            self.forget(user)
            try:
                await self._client.commit(writes, deadline)
            except CommitRefused:
                del tried[token]
                head = None
                strays = True  # or another has written: in doubt all is looked for
                await self._client.give_way(overtaken, deadline)
                overtaken += 1
            except CommitAmbiguous:
                head = None
                await self._client.pause(lost, deadline)
                lost += 1
            else:
                return await self._purged(user, *tried[token])

    async def _purged(self, user: UserKey, committed: Committed, epoch: int, found: Found) -> Committed:
        done = found.whole or await self._eraser.purge_or_leave(user, epoch, all_found=found.all)
        return committed if done else msgspec.structs.replace(committed, pending=True)

    # --- heads in memory -------------------------------------------------------------------------------

    def remember(self, user: UserKey, head: Head) -> None:
        """Keep a head, unless a newer one is known: with it the next commit is written without reading."""
        before = self._heads.get(user)
        if head.older or (
            before is not None and (head.epoch, head.revision) < (before.epoch, before.revision)
        ):
            return
        self.forget(user)
        self._heads[user] = head
        self._heads_bytes += head.size_bytes
        while self._heads_bytes > HEADS_BYTES_MAX:
            _, gone = self._heads.popitem(last=False)
            self._heads_bytes -= gone.size_bytes

    def forget(self, user: UserKey) -> None:
        """Read the user's head before the next commit."""
        head = self._heads.pop(user, None)
        if head is not None:
            self._heads_bytes -= head.size_bytes

    def forget_all(self) -> None:
        """As `forget`, of everyone."""
        self._heads.clear()
        self._heads_bytes = 0


def _taken(plan: Plan, commit: Commit) -> Result:
    try:
        return plan.take(commit)
    except SamvadError as refusal:
        return refusal


def _written(head: Head, update_time: Any) -> Head:
    return msgspec.structs.replace(head, update_time=update_time)


def _by_size(writes: list[Any]) -> list[list[Any]]:
    """Writes in groups that fit in one request each."""
    groups: list[list[Any]] = []
    size = REQUEST_BYTES_MAX
    for write in writes:
        size += write.ByteSize()
        if size > REQUEST_BYTES_MAX or not groups:
            groups.append([])
            size = write.ByteSize()
        groups[-1].append(write)
    return groups
