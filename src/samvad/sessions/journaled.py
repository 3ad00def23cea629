"""A store with the journal in front of it: acknowledged when fsynced here, in the store a moment later.

`JournaledStore` is a Store by composition, so that nothing above it changes. A commit is written to the
journal and acknowledged; a lane per user then brings what has gathered to the store behind, as one commit,
numbered so that a retry is recognised (see `flusher`). Reads put what is pending over what the store has;
where the store is down, users of whom something is pending are answered from here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from samvad.clock import Clock
from samvad.errors import SamvadError, SetupError, StaleVersion, StoreUnavailable, Unavailable
from samvad.records import (
    Change,
    Commit,
    Committed,
    Erased,
    InterruptionAdded,
    InterruptionsRemoved,
    MessagesAdded,
    ReceiptKept,
    SessionRemoved,
    SessionSet,
    SessionTouched,
    Stats,
    StoredInterruption,
    StoredMessage,
    StoredReceipt,
    StoredSession,
    UserKey,
    UserRecord,
    Version,
    only_receipts,
)
from samvad.sessions.breaker import Breaker
from samvad.sessions.coalesce import erases, steps_of
from samvad.sessions.flusher import Entry, Flusher, FlushLane
from samvad.sessions.journal import Journal
from samvad.sessions.operations import AnyOperation, AppendMessages
from samvad.sessions.user_log import Rules
from samvad.stores.base import Capabilities, HealthReport, Store

_log = logging.getLogger(__name__)

BLIND = Version(-1, 0)
"""The version of a record that had to be begun without asking the store."""

Done = Callable[[Committed | SamvadError], None]


class JournalEntry(msgspec.Struct, array_like=True):
    """One commit as the journal keeps it: the intent, or where there is none, what it changes."""

    tenant: str
    user_id: str
    epoch: int
    steps: int
    operation: AnyOperation | None
    changes: tuple[Change, ...] = ()


_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(JournalEntry).decode


class JournaledStore:
    """`inner` behind a journal. `on_rebased` is called where a user's record is no longer what was answered."""

    def __init__(self, inner: Store, journal: Journal, *, clock: Clock, rules: Rules) -> None:
        self.inner = inner
        self.journal = journal
        self.name = inner.name
        self.capabilities = Capabilities(durable=True, shared=inner.capabilities.shared)
        self.on_rebased: Callable[[UserKey], None] = lambda user: None
        self.breaker = Breaker(clock, self._probe)
        self.flusher = Flusher(
            inner,
            journal,
            self.breaker,
            clock=clock,
            rules=rules,
            on_rebased=self._rebased,
        )
        self._opened = False

    # --- life ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        replay = await self.journal.open()
        try:
            for number, payload, replica in replay.entries:
                self._take_up(replica, number, payload)
            await self.inner.open()
        except BaseException:
            await self.journal.close()
            raise
        self._opened = True
        self.flusher.start()

    def _take_up(self, replica: str, number: int, payload: bytes) -> None:
        if not payload:
            self.journal.forget(number)
            return
        try:
            kept = _decode(payload)
        except msgspec.DecodeError as error:
            raise SetupError(f"The journal holds an entry that this version cannot read: {error}.") from error
        user = UserKey(kept.tenant, kept.user_id)
        commit = Commit(user, Version(kept.epoch, 0), kept.changes, None, kept.operation, None, kept.steps)
        lane = self.flusher.lane(user, None)
        lane.entries.append(Entry(replica, number, commit))

    async def drain(self, timeout_s: float) -> int:
        """Bring what is pending to the store, for at most `timeout_s`; returns how many entries are left."""
        return await self.flusher.drain(timeout_s)

    async def close(self) -> None:
        if not self._opened:
            return
        self._opened = False
        await self.flusher.stop()
        await self.breaker.stop()
        await self.journal.close()
        await self.inner.close()

    def _rebased(self, user: UserKey) -> None:
        self.on_rebased(user)

    async def _probe(self) -> bool:
        try:
            return (await self.inner.check()).up
        except SamvadError:
            return False

    @property
    def degraded(self) -> bool:
        """Whether the store behind is taken to be down."""
        return self.breaker.is_open

    # --- writing ---------------------------------------------------------------------------------------

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()

        def done(result: Committed | SamvadError) -> None:
            if future.done():
                return
            if isinstance(result, SamvadError):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.submit(commit, done)
        return future

    def submit(self, commit: Commit, done: Done) -> None:
        """As `commit`; `done` is called on the event loop."""
        lane = self.flusher.find(commit.user)
        unbound = only_receipts(commit)
        if lane is None:
            lane = self.flusher.lane(commit.user, commit.expected if not unbound else None)
        elif lane.head is None or not (lane.entries or lane.writing):
            if not unbound:
                lane.start(commit.expected)
        elif commit.expected != lane.head and not unbound:
            asyncio.get_running_loop().call_soon(done, StaleVersion())
            return
        commit = _with_told_ids(commit)
        payload = b""
        if commit.changes:
            kept = JournalEntry(
                commit.user.tenant,
                commit.user.user_id,
                commit.expected.epoch,
                commit.steps,
                commit.operation,
                () if commit.operation is not None else commit.changes,
            )
            payload = _encode(kept)
        if lane.head is not None and commit.changes and not unbound:
            lane.head = _after(commit)
        lane.writing += 1
        generation = lane.generation

        def journaled(result: int | SamvadError) -> None:
            lane.writing -= 1
            if isinstance(result, SamvadError):
                lane.rebase()  # what was built on it must be applied anew
                done(result)
                return
            self._journaled(lane, commit, result, generation, done)

        self.journal.submit(payload, journaled)

    def _journaled(self, lane: FlushLane, commit: Commit, number: int, generation: int, done: Done) -> None:
        head = commit.expected if not commit.changes else _after(commit)
        seq = commit.record.seq if commit.record is not None else 0
        if not commit.changes:
            self.journal.forget(number)
            done(Committed(head, seq))
            return
        if generation != lane.generation:
            lane.rebase()
        entry = Entry(self.journal.replica, number, commit)
        lane.entries.append(entry)
        lane.record = commit.record or lane.record
        if erases(commit):
            entry.waiter = done
            entry.answer_without_store = Committed(head, 0, pending=True)
            self.flusher.wake(lane, at_once=True)
        else:
            done(Committed(head, seq))
            self.flusher.wake(lane)

    # --- reading ---------------------------------------------------------------------------------------

    async def load(self, user: UserKey, *, window: int, open_after_ms: int, sessions_max: int) -> UserRecord:
        lane = self.flusher.find(user)
        if lane is not None and (lane.entries or lane.writing):
            if lane.record is not None and lane.base is not None and lane.base != BLIND:
                return lane.record
            try:
                return await self.flusher.rebased(lane)
            except Unavailable:
                return UserRecord(version=BLIND, partial=True) if lane.record is None else lane.record
        try:
            record: UserRecord = await self._asked(
                self.inner.load(user, window=window, open_after_ms=open_after_ms, sessions_max=sessions_max)
            )
        except Unavailable:
            return UserRecord(version=BLIND, partial=True)
        return record

    async def _asked(self, question: Any) -> Any:
        """Ask the store behind, unless it is known to be down."""
        if self.breaker.is_open:
            question.close()
            raise StoreUnavailable("The store is down, and this process does not know the answer.")
        try:
            answer = await question
        except Unavailable:
            self.breaker.failed()
            raise
        self.breaker.succeeded()
        return answer

    def _pending(self, user: UserKey) -> tuple[bool, list[Change]]:
        """What is pending of a user, and whether it begins with an erasing: then the store's part counts no more."""
        lane = self.flusher.find(user)
        erased = False
        changes: list[Change] = []
        for entry in lane.entries if lane is not None else ():
            for change in entry.commit.changes:
                if isinstance(change, Erased):
                    erased = True
                    changes.clear()
                else:
                    changes.append(change)
        return erased, changes

    async def page(
        self, user: UserKey, *, after: int | None, before: int | None, limit: int, bytes_max: int
    ) -> tuple[list[StoredMessage], bool]:
        low = 0 if after is None else after
        high = 1 << 62 if before is None else before
        erased, changes = self._pending(user)
        pending = [m for change in changes if isinstance(change, MessagesAdded) for m in change.messages]
        first = pending[0].seq if pending else (1 if erased else high)
        waiting = [m for m in pending if low < m.seq < high]
        stored: list[StoredMessage] = []
        more = False
        if after is not None:
            if low + 1 < first:
                stored, more = await self._asked(
                    self.inner.page(
                        user, after=after, before=min(high, first), limit=limit, bytes_max=bytes_max
                    )
                )
            page = stored if more else stored + waiting
            return page[:limit], more or len(page) > limit
        if len(waiting) < limit and first > 1:
            room = limit - len(waiting)
            stored, more = await self._asked(
                self.inner.page(user, after=None, before=min(high, first), limit=room, bytes_max=bytes_max)
            )
        page = stored + waiting
        return page[-limit:], more or len(page) > limit or (len(waiting) == limit and 1 < first < high)

    async def session(self, tenant: str, session_id: str) -> StoredSession | None:
        for lane in self.flusher.lanes_of(tenant):
            found = _session_among(self._pending(lane.user)[1], session_id)
            if found is not None:
                return found[0]
        session: StoredSession | None = await self._asked(self.inner.session(tenant, session_id))
        if session is not None and self._pending(UserKey(tenant, session.user_id))[0]:
            return None
        return session

    async def sessions(self, user: UserKey, *, open_after_ms: int | None) -> list[StoredSession]:
        erased, changes = self._pending(user)
        by_id: dict[str, StoredSession] = {}
        if not erased:
            stored = await self._asked(self.inner.sessions(user, open_after_ms=open_after_ms))
            by_id = {session.id: session for session in stored}
        for change in changes:
            if isinstance(change, SessionSet):
                by_id[change.session.id] = change.session
            elif isinstance(change, SessionRemoved):
                by_id.pop(change.session_id, None)
            elif isinstance(change, SessionTouched) and change.session_id in by_id:
                touched = msgspec.structs.replace(by_id[change.session_id], active_ms=change.active_ms)
                by_id[change.session_id] = touched
        found = [
            s
            for s in by_id.values()
            if open_after_ms is None or (s.ended_ms is None and s.active_ms > open_after_ms)
        ]
        return sorted(found, key=lambda s: (-s.active_ms, s.id))

    async def interruptions(self, tenant: str, session_id: str, limit: int) -> list[StoredInterruption]:
        if await self.session(tenant, session_id) is None:
            return []
        stored = await self._asked(self.inner.interruptions(tenant, session_id, limit))
        kept = {interruption.id: interruption for interruption in stored}
        for lane in self.flusher.lanes_of(tenant):
            for change in self._pending(lane.user)[1]:
                if isinstance(change, InterruptionAdded) and change.interruption.session_id == session_id:
                    kept[change.interruption.id] = change.interruption
                elif (
                    isinstance(change, InterruptionsRemoved | SessionRemoved)
                    and change.session_id == session_id
                ):
                    kept.clear()
        return sorted(kept.values(), key=lambda i: (i.at_ms, i.id), reverse=True)[:limit]

    async def receipt(self, key: bytes) -> StoredReceipt | None:
        for lane in self.flusher.all_lanes():
            for entry in lane.entries:
                for change in entry.commit.changes:
                    if isinstance(change, ReceiptKept) and change.receipt.key == key:
                        return change.receipt
        receipt: StoredReceipt | None = await self._asked(self.inner.receipt(key))
        return receipt

    async def stats(self, tenant: str, *, active_after_ms: int, open_after_ms: int) -> Stats:
        stats: Stats = await self._asked(
            self.inner.stats(tenant, active_after_ms=active_after_ms, open_after_ms=open_after_ms)
        )
        return stats

    async def users(self, tenant: str, *, after: str, limit: int) -> list[str]:
        stored = list(await self._asked(self.inner.users(tenant, after=after, limit=limit)))
        pending = [lane.user.user_id for lane in self.flusher.lanes_of(tenant) if lane.entries]
        names = {*stored, *(name for name in pending if name.encode() > after.encode())}
        return sorted(names, key=str.encode)[:limit]

    async def expire(self, *, receipts_before_ms: int) -> int:
        gone: int = await self._asked(self.inner.expire(receipts_before_ms=receipts_before_ms))
        return gone

    async def check(self) -> HealthReport:
        """Up where the journal takes writes; the fault tells of the store behind it."""
        if self.breaker.is_open:
            return HealthReport(
                True, "the store is down; writes go on in the journal", self.breaker.opened_ms
            )
        return HealthReport(True)


def _after(commit: Commit) -> Version:
    epoch, revision = commit.expected
    if erases(commit):
        return Version(epoch + 1 if epoch >= 0 else epoch, 0)
    return Version(epoch, revision + steps_of(commit))


def _with_told_ids(commit: Commit) -> Commit:
    """The operation with the ids that the caller is told now: they stay, wherever the messages end up."""
    operation = commit.operation
    if not isinstance(operation, AppendMessages) or all(m.id or m.made for m in operation.messages):
        return commit
    told = {}
    for change in commit.changes:
        if isinstance(change, MessagesAdded):
            told = {m.id.rpartition("-")[2]: m.id for m in change.messages if not m.given}
    messages = tuple(
        m if m.id or m.made or m.random not in told else msgspec.structs.replace(m, made=told[m.random])
        for m in operation.messages
    )
    return msgspec.structs.replace(commit, operation=msgspec.structs.replace(operation, messages=messages))


def _session_among(changes: list[Change], session_id: str) -> tuple[StoredSession | None] | None:
    """What is pending of a session: (the session,), (None,) where it was removed, or None for nothing."""
    found: tuple[StoredSession | None] | None = None
    for change in changes:
        if isinstance(change, SessionSet) and change.session.id == session_id:
            found = (change.session,)
        elif isinstance(change, SessionRemoved) and change.session_id == session_id:
            found = (None,)
        elif isinstance(change, SessionTouched) and change.session_id == session_id and found and found[0]:
            found = (msgspec.structs.replace(found[0], active_ms=change.active_ms),)
    return found
