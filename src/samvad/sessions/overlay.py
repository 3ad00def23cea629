"""Reads of a store with what is journaled laid over them."""

from __future__ import annotations

from typing import Any

import msgspec

from samvad.records import (
    Change,
    Erased,
    InterruptionAdded,
    InterruptionsRemoved,
    InterruptionsTrimmed,
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
    Trimmed,
    UserKey,
)
from samvad.sessions.breaker import Breaker
from samvad.sessions.flusher import Flusher
from samvad.sessions.pending import session_among
from samvad.stores.base import Store


class OverlaidReads:
    """The reads of a JournaledStore but for `load`. Unavailable where the store must be asked and is down."""

    inner: Store
    breaker: Breaker
    flusher: Flusher

    def _pending(self, user: UserKey) -> tuple[bool, list[Change]]:
        """What is pending of a user, and whether it begins with an erasing: then the store's part counts no more."""
        lane = self.flusher.find(user)
        erased = False
        changes: list[Change] = []
        for entry in lane.entries if lane is not None else ():
            if entry.verbatim:
                continue
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
        high = 1 << 62 if before is None else before
        erased, changes = self._pending(user)
        trimmed = max([change.before_seq - 1 for change in changes if isinstance(change, Trimmed)], default=0)
        low = trimmed if after is None else max(after, trimmed)
        pending = [m for change in changes if isinstance(change, MessagesAdded) for m in change.messages]
        pending = [m for m in pending if m.seq > trimmed]
        first = pending[0].seq if pending else (1 if erased else high)
        waiting = [m for m in pending if low < m.seq < high]
        until = min(high, first)
        stored: list[StoredMessage] = []
        more = False
        if after is not None:
            if low + 1 < first:
                stored, more = await self.breaker.through(
                    lambda: self.inner.page(user, after=low, before=until, limit=limit, bytes_max=bytes_max)
                )
            page = stored if more else [*stored, *waiting]
            taken = _bounded(page, limit, bytes_max)
            return page[:taken], more or len(page) > taken
        taken = _bounded(waiting[::-1], limit, bytes_max)
        page = waiting[len(waiting) - taken :]
        if taken < len(waiting) or first <= low + 1 or until <= low + 1:
            return page, taken < len(waiting)
        if taken == limit:
            return page, True
        used = sum(len(message.body) for message in page)
        if page and used >= bytes_max:
            return page, True
        stored, more = await self.breaker.through(
            lambda: self.inner.page(
                user, after=None, before=until, limit=limit - taken, bytes_max=bytes_max - used
            )
        )
        if stored and stored[0].seq <= low + 1:
            stored, more = [message for message in stored if message.seq > low], False
        return [*stored, *page], more

    async def session(self, tenant: str, session_id: str) -> StoredSession | None:
        touched: list[Change] = []
        for user in self.flusher.index.users_of_session(tenant, session_id):
            changes = self._pending(user)[1]
            session, decided = session_among(changes, session_id, None)
            if decided:
                return session
            touched += changes
        stored = await self.breaker.through(lambda: self.inner.session(tenant, session_id))
        if stored is not None and self._pending(UserKey(tenant, stored.user_id))[0]:
            return None
        return session_among(touched, session_id, stored)[0]

    async def sessions(self, user: UserKey, *, open_after_ms: int | None) -> list[StoredSession]:
        erased, changes = self._pending(user)
        by_id: dict[str, StoredSession] = {}
        if not erased:
            stored = await self.breaker.through(
                lambda: self.inner.sessions(user, open_after_ms=open_after_ms)
            )
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
        session = await self.session(tenant, session_id)
        if session is None:
            return []
        owner = UserKey(tenant, session.user_id)
        erased, changes = self._pending(owner)
        gone = erased
        oldest_ms = 0
        kept: dict[str, StoredInterruption] = {}
        for change in changes:
            if isinstance(change, InterruptionAdded) and change.interruption.session_id == session_id:
                kept[change.interruption.id] = change.interruption
            elif (
                isinstance(change, InterruptionsRemoved | SessionRemoved) and change.session_id == session_id
            ):
                gone = True
                kept.clear()
            elif isinstance(change, InterruptionsTrimmed):
                oldest_ms = max(oldest_ms, change.before_ms)
                kept = {name: each for name, each in kept.items() if each.at_ms >= change.before_ms}
        if not gone:
            stored = await self.breaker.through(lambda: self.inner.interruptions(tenant, session_id, limit))
            kept = {each.id: each for each in stored if each.at_ms >= oldest_ms} | kept
        return sorted(kept.values(), key=lambda i: (i.at_ms, i.id), reverse=True)[:limit]

    async def interruptions_before(self, user: UserKey, before_ms: int) -> int:
        """See Retaining: what is pending counts, or an interruption of this moment were no sign of life."""
        inner: Any = self.inner
        erased, changes = self._pending(user)
        gone_ms = max(
            [each.before_ms for each in changes if isinstance(each, InterruptionsTrimmed)], default=0
        )
        waiting = sum(
            [
                gone_ms <= each.interruption.at_ms < before_ms
                for each in changes
                if isinstance(each, InterruptionAdded)
            ]
        )
        if erased or before_ms <= gone_ms:
            return waiting
        stored = int(await self.breaker.through(lambda: inner.interruptions_before(user, before_ms)))
        if gone_ms:
            stored -= int(await self.breaker.through(lambda: inner.interruptions_before(user, gone_ms)))
        return stored + waiting

    async def newest_ms(self) -> int | None:
        """See Retaining: what the store has."""
        inner: Any = self.inner
        newest: int | None = await self.breaker.through(inner.newest_ms)
        return newest

    async def receipt(self, key: bytes) -> StoredReceipt | None:
        pending = self.flusher.index.receipt(key)
        if pending is not None:
            return pending
        return await self.breaker.through(lambda: self.inner.receipt(key))

    async def stats(self, tenant: str, *, active_after_ms: int, open_after_ms: int) -> Stats:
        return await self.breaker.through(
            lambda: self.inner.stats(tenant, active_after_ms=active_after_ms, open_after_ms=open_after_ms)
        )

    async def users(self, tenant: str, *, after: str, limit: int) -> list[str]:
        gone: set[str] = set()
        names: set[str] = set()
        for lane in self.flusher.lanes_of(tenant):
            erased, changes = self._pending(lane.user)
            if any(not isinstance(change, ReceiptKept) for change in changes):
                names.add(lane.user.user_id)
            elif erased:
                gone.add(lane.user.user_id)
        room = limit + len(gone)
        stored = await self.breaker.through(lambda: self.inner.users(tenant, after=after, limit=room))
        names = {name for name in names if name.encode() > after.encode()}.union(stored) - gone
        return sorted(names, key=str.encode)[:limit]

    async def fold(self) -> None:
        """See that nothing of what was removed from the store stays in the journal, or in the store's own log."""
        await self.flusher.scrubber.scrubbed()
        inner: Any = self.inner
        if hasattr(inner, "fold"):
            await inner.fold()

    async def expire(self, *, receipts_before_ms: int) -> int:
        return await self.breaker.through(lambda: self.inner.expire(receipts_before_ms=receipts_before_ms))


def _bounded(messages: list[StoredMessage], limit: int, bytes_max: int) -> int:
    """How many of these fit into a page, at least one."""
    taken = size = 0
    for message in messages:
        size += len(message.body)
        if taken == limit or (taken and size > bytes_max):
            break
        taken += 1
    return taken
