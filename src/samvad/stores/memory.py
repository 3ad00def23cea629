"""The in-memory store: the plainest thing that fulfils the Store protocol.

Good for tests and for assistants that may forget; and the model against which the conformance suite
measures every other engine. Nothing survives the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import msgspec

from samvad.errors import MessageExists, SamvadError, SessionTaken, ShuttingDown, StaleVersion
from samvad.records import (
    NOTHING_REMOVED,
    Change,
    Commit,
    Committed,
    Erased,
    Erasure,
    InterruptionAdded,
    InterruptionsRemoved,
    InterruptionsTrimmed,
    MessagesAdded,
    ProfileSet,
    ReceiptKept,
    Removed,
    SessionRemoved,
    SessionSet,
    SessionTouched,
    StateSet,
    Stats,
    StoredInterruption,
    StoredMessage,
    StoredProfile,
    StoredReceipt,
    StoredSession,
    StoredState,
    Trimmed,
    UserKey,
    UserRecord,
    Version,
    only_receipts,
    removed_answer,
    user_hash,
)
from samvad.stores.base import (
    Capabilities,
    HealthReport,
    Lapse,
    Notice,
    UpToDate,
    UserChanged,
    UserGone,
    not_open,
)
from samvad.stores.carrying import KeysFound, OwnedReceipt, StoredErasure


@dataclass
class _User:
    epoch: int
    revision: int = 0
    messages: list[StoredMessage] = field(default_factory=list)
    seq_by_id: dict[str, int] = field(default_factory=dict)
    state: StoredState | None = None
    profile: StoredProfile | None = None
    applied: dict[str, int] = field(default_factory=dict)
    trimmed: int = 0

    @property
    def seq(self) -> int:
        return self.trimmed + len(self.messages)


class MemoryStore:
    """Conversations in dictionaries."""

    name = "memory"
    capabilities = Capabilities(durable=False, shared=False)

    def __init__(self) -> None:
        self._users: dict[UserKey, _User] = {}
        self._erasures: dict[bytes, tuple[int, Erasure]] = {}  # the epoch after it, and which it was
        self._sessions: dict[tuple[str, str], StoredSession] = {}
        self._interruptions: dict[tuple[str, str], dict[str, StoredInterruption]] = {}
        self._receipts: dict[bytes, tuple[bytes, StoredReceipt]] = {}
        self._listeners: set[asyncio.Queue[Notice]] = set()
        self._open: bool | None = None  # None until it was opened once

    async def open(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(self._apply(commit))
        except SamvadError as refusal:
            future.set_exception(refusal)
        return future

    def _apply(self, commit: Commit) -> Committed:
        if self._open is None:
            raise not_open()
        if not self._open:
            raise ShuttingDown
        key, origin = commit.user, commit.origin
        user = self._users.get(key)
        if user is None:
            user = _User(self._erasure(key)[0])
        if origin is not None and user.applied.get(origin.replica, -1) >= origin.number:
            return Committed(Version(user.epoch, user.revision), user.seq)
        if commit.expected != Version(user.epoch, user.revision) and not only_receipts(commit):
            raise StaleVersion
        self._refuse(key, user, commit.changes)
        removed = NOTHING_REMOVED
        moves = False
        for change in commit.changes:
            if isinstance(change, ReceiptKept):
                receipt = change.receipt
                if receipt.answer == b"":
                    receipt = msgspec.structs.replace(receipt, answer=removed_answer(removed, receipt.at_ms))
                self._receipts[receipt.key] = (user_hash(key), receipt)
            elif isinstance(change, Erased):
                removed = self._erase(key, user)
                user = _User(user.epoch + 1)
                number = origin or ("", -1)
                self._erasures[user_hash(key)] = (user.epoch, Erasure(change.at_ms, *number))
            else:
                moves = True
                removed = self._write(key, user, change, removed)
        if moves:
            user.revision += commit.steps
            self._users[key] = user
        if origin is not None and user.revision:
            user.applied[origin.replica] = origin.number
        self._tell(commit, Version(user.epoch, user.revision))
        return Committed(Version(user.epoch, user.revision), user.seq, removed)

    def _tell(self, commit: Commit, version: Version) -> None:
        erased = any(isinstance(change, Erased) for change in commit.changes)
        gone = UserGone(user_hash(commit.user), version.epoch)
        for listener in self._listeners:
            listener.put_nowait(gone if erased else UserChanged(commit.user, version))

    async def changes(self) -> AsyncIterator[Notice]:
        """See TellsChanges: for several services in one process over this store."""
        told: asyncio.Queue[Notice] = asyncio.Queue()
        self._listeners.add(told)
        try:
            yield Lapse()
            yield UpToDate()
            while True:
                yield await told.get()
        finally:
            self._listeners.discard(told)

    def _erasure(self, key: UserKey) -> tuple[int, Erasure]:
        return self._erasures.get(user_hash(key), (0, Erasure()))

    def _refuse(self, key: UserKey, user: _User, changes: tuple[Change, ...]) -> None:
        seq = user.seq
        for change in changes:
            if isinstance(change, Trimmed):
                seq = max(seq, change.before_seq - 1)
            elif isinstance(change, MessagesAdded):
                if change.messages[0].seq != seq + 1:
                    raise StaleVersion
                for message_id in change.unproven:
                    if message_id in user.seq_by_id:
                        raise MessageExists(message_id, user.seq_by_id[message_id])
            elif isinstance(change, SessionSet):
                there = self._sessions.get((key.tenant, change.session.id))
                if there is not None and there.user_id != key.user_id:
                    raise SessionTaken

    def _write(self, key: UserKey, user: _User, change: Change, removed: Removed) -> Removed:
        if isinstance(change, MessagesAdded):
            user.messages.extend(change.messages)
            user.seq_by_id.update((message.id, message.seq) for message in change.messages)
            if user.profile is not None:
                updated_ms = max(user.profile.updated_ms, *(m.at_ms for m in change.messages))
                user.profile = msgspec.structs.replace(user.profile, updated_ms=updated_ms)
        elif isinstance(change, StateSet):
            user.state = change.state
        elif isinstance(change, ProfileSet):
            user.profile = change.profile
        elif isinstance(change, SessionSet):
            self._sessions[key.tenant, change.session.id] = change.session
        elif isinstance(change, SessionTouched):
            session = self._sessions.get((key.tenant, change.session_id))
            if session is not None and session.user_id == key.user_id:
                touched = msgspec.structs.replace(session, active_ms=change.active_ms)
                self._sessions[key.tenant, change.session_id] = touched
        elif isinstance(change, SessionRemoved):
            session = self._sessions.get((key.tenant, change.session_id))
            if session is not None and session.user_id == key.user_id:
                del self._sessions[key.tenant, change.session_id]
                gone = self._interruptions.pop((key.tenant, change.session_id), {})
                removed = removed._replace(
                    sessions=removed.sessions + 1, interruptions=removed.interruptions + len(gone)
                )
        elif isinstance(change, InterruptionAdded):
            kept = change.interruption
            session = self._sessions.get((key.tenant, kept.session_id))
            if session is not None and session.user_id == key.user_id:
                self._interruptions.setdefault((key.tenant, kept.session_id), {})[kept.id] = kept
        elif isinstance(change, InterruptionsRemoved):
            session = self._sessions.get((key.tenant, change.session_id))
            if session is not None and session.user_id == key.user_id:
                gone = self._interruptions.pop((key.tenant, change.session_id), {})
                removed = removed._replace(interruptions=removed.interruptions + len(gone))
        elif isinstance(change, Trimmed):
            count = change.before_seq - 1 - user.trimmed
            if count > 0:
                gone_messages, user.messages = user.messages[:count], user.messages[count:]
                for message in gone_messages:
                    if user.seq_by_id.get(message.id) == message.seq:
                        del user.seq_by_id[message.id]
                user.trimmed = change.before_seq - 1
                removed = removed._replace(messages=removed.messages + len(gone_messages))
        elif isinstance(change, InterruptionsTrimmed):
            for kept_ones in self._interruptions_of(key):
                old = [each.id for each in kept_ones.values() if each.at_ms < change.before_ms]
                for name in old:
                    del kept_ones[name]
                removed = removed._replace(interruptions=removed.interruptions + len(old))
        return removed

    def _interruptions_of(self, key: UserKey) -> list[dict[str, StoredInterruption]]:
        mine = [place for place, s in self._sessions.items() if (place[0], s.user_id) == key]
        return [self._interruptions[place] for place in mine if place in self._interruptions]

    def _erase(self, key: UserKey, user: _User) -> Removed:
        sessions = [place for place, s in self._sessions.items() if (place[0], s.user_id) == key]
        interruptions = 0
        for place in sessions:
            del self._sessions[place]
            interruptions += len(self._interruptions.pop(place, {}))
        for receipt_key, (owner, receipt) in self._receipts.items():
            if owner == user_hash(key):
                self._receipts[receipt_key] = (owner, msgspec.structs.replace(receipt, answer=None))
        self._users.pop(key, None)
        return Removed(
            state=user.state is not None,
            profile=user.profile is not None,
            sessions=len(sessions),
            messages=len(user.messages),
            interruptions=interruptions,
        )

    # --- reading ---------------------------------------------------------------------------------------

    async def load(self, user: UserKey, *, window: int, open_after_ms: int, sessions_max: int) -> UserRecord:
        found = self._users.get(user)
        if found is None:
            epoch, erased = self._erasure(user)
            return UserRecord(Version(epoch, 0), erased=erased)
        sessions = await self.sessions(user, open_after_ms=open_after_ms)
        return UserRecord(
            version=Version(found.epoch, found.revision),
            seq=found.seq,
            state=found.state,
            profile=found.profile,
            early=tuple(found.messages[-window:]),
            sessions={session.id: session for session in sessions[:sessions_max]},
            sessions_complete=len(sessions) <= sessions_max,
            applied=dict(found.applied),
            erased=self._erasure(user)[1],
            trimmed=found.trimmed,
        )

    async def page(
        self, user: UserKey, *, after: int | None, before: int | None, limit: int, bytes_max: int
    ) -> tuple[list[StoredMessage], bool]:
        found = self._users.get(user)
        messages = found.messages if found is not None else []
        trimmed = found.trimmed if found is not None else 0
        low = 0 if after is None else max(after - trimmed, 0)
        high = len(messages) if before is None else max(min(before - 1 - trimmed, len(messages)), 0)
        between = messages[low:high]
        taken: list[StoredMessage] = []
        size = 0
        for message in between if after is not None else reversed(between):
            if len(taken) == limit or (taken and size + len(message.body) > bytes_max):
                break
            size += len(message.body)
            taken.append(message)
        has_more = len(taken) < len(between)
        return (taken if after is not None else taken[::-1]), has_more

    async def session(self, tenant: str, session_id: str) -> StoredSession | None:
        return self._sessions.get((tenant, session_id))

    async def sessions(self, user: UserKey, *, open_after_ms: int | None) -> list[StoredSession]:
        mine = [
            s
            for (tenant, _), s in self._sessions.items()
            if (tenant, s.user_id) == user
            and (open_after_ms is None or (s.ended_ms is None and s.active_ms > open_after_ms))
        ]
        return sorted(mine, key=lambda s: (-s.active_ms, s.id))

    async def interruptions(self, tenant: str, session_id: str, limit: int) -> list[StoredInterruption]:
        kept = self._interruptions.get((tenant, session_id), {}).values()
        return sorted(kept, key=lambda i: (i.at_ms, i.id), reverse=True)[:limit]

    async def receipt(self, key: bytes) -> StoredReceipt | None:
        kept = self._receipts.get(key)
        return None if kept is None else kept[1]

    async def stats(self, tenant: str, *, active_after_ms: int, open_after_ms: int) -> Stats:
        users = {key: user for key, user in self._users.items() if key.tenant == tenant}
        sessions = [s for (t, _), s in self._sessions.items() if t == tenant and s.ended_ms is None]
        active = {key.user_id for key, u in users.items() if u.state and u.state.updated_ms > active_after_ms}
        active |= {s.user_id for s in sessions if s.active_ms > active_after_ms}
        return Stats(
            active_users=len(active),
            active_sessions=sum(s.active_ms > open_after_ms for s in sessions),
            total_profiles=sum(u.profile is not None for u in users.values()),
            total_interruptions=sum(len(kept) for (t, _), kept in self._interruptions.items() if t == tenant),
            total_messages=sum(len(u.messages) for u in users.values()),
            total_users=len(users),
        )

    async def users(self, tenant: str, *, after: str, limit: int) -> list[str]:
        names = (key.user_id for key in self._users if key.tenant == tenant)
        return sorted((n for n in names if n.encode() > after.encode()), key=str.encode)[:limit]

    async def keys(self, *, after: str = "", limit: int) -> KeysFound:
        place = msgspec.json.decode(after, type=tuple[str, str]) if after else ("", "")
        found = sorted(key for key in self._users if key > place)[:limit]
        return KeysFound(found, msgspec.json.encode(found[-1]).decode() if len(found) == limit else None)

    async def erasures(self, *, after: bytes = b"", limit: int) -> list[StoredErasure]:
        found = sorted((hashed, *kept) for hashed, kept in self._erasures.items() if hashed > after)
        return [StoredErasure(hashed, epoch, erased.at_ms) for hashed, epoch, erased in found[:limit]]

    async def keep_erasures(self, erasures: Sequence[StoredErasure]) -> None:
        for each in erasures:
            if self._erasures.get(each.user_hash, (0,))[0] < each.epoch:
                self._erasures[each.user_hash] = (each.epoch, Erasure(each.erased_ms))

    async def receipts(self, *, after: bytes = b"", limit: int) -> list[OwnedReceipt]:
        found = sorted((key, *kept) for key, kept in self._receipts.items() if key > after)
        return [
            OwnedReceipt(hashed, self._erasures.get(hashed, (0,))[0], receipt)
            for _, hashed, receipt in found[:limit]
        ]

    async def keep_receipts(self, receipts: Sequence[OwnedReceipt]) -> None:
        for each in receipts:
            self._receipts.setdefault(each.receipt.key, (each.user_hash, each.receipt))

    async def interruptions_before(self, user: UserKey, before_ms: int) -> int:
        return sum(each.at_ms < before_ms for kept in self._interruptions_of(user) for each in kept.values())

    async def newest_ms(self) -> int | None:
        users = self._users.values()
        times = [user.state.updated_ms for user in users if user.state is not None]
        times += [user.profile.updated_ms for user in users if user.profile is not None]
        times += [session.active_ms for session in self._sessions.values()]
        return max(times, default=None)

    async def expire(self, *, receipts_before_ms: int) -> int:
        old = [key for key, (_, receipt) in self._receipts.items() if receipt.at_ms < receipts_before_ms]
        for key in old:
            del self._receipts[key]
        return len(old)

    async def check(self) -> HealthReport:
        return HealthReport(bool(self._open), None if self._open else "closed")
