"""SessionPersistenceService: the verbs, and the only home of policy.

A service acts for one Principal; there is no verb without one, so that no door can forget to ask. Every
verb checks names first, then who asks, then what is asked.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from samvad import limits
from samvad.clock import Clock, parse_rfc3339
from samvad.errors import Forbidden, InvalidRequest, NotFound, SessionTaken, Unavailable
from samvad.records import (
    Committed,
    Removed,
    Stats,
    StoredInterruption,
    StoredMessage,
    StoredSession,
    UserKey,
    UserRecord,
    cleared,
)
from samvad.sessions import user_log, views
from samvad.sessions.lanes import Lanes
from samvad.sessions.operations import (
    AppendMessages,
    EndSession,
    EraseUser,
    ForgetInterruptions,
    ReceiptKey,
    RecordInterruption,
    RemoveSession,
    SavePreferences,
    SaveSession,
    SaveState,
)
from samvad.sessions.receipts import Receipts
from samvad.sessions.validation import check_id, check_object, new_message
from samvad.stores.base import Store
from samvad.types import (
    LOCAL,
    Appended,
    Cleared,
    ClearedSession,
    HistoryPage,
    Principal,
    Profile,
    Session,
    SessionStats,
    StateSaved,
    UserState,
)

_decode = msgspec.json.decode

_T = TypeVar("_T")
_SEQ_MAX = 1 << 62  # more than will ever be said, and a store may count in 64 bits


class SessionCore(NamedTuple):
    """What the services of all principals share."""

    store: Store
    lanes: Lanes
    receipts: Receipts
    clock: Clock
    rules: user_log.Rules
    session_idle_s: float
    active_window_s: float
    owners: OrderedDict[tuple[str, str], UserKey]
    # Called at once when a user was erased, or a session (tenant, id) removed: who holds something of them drops it.
    on_erased: list[Callable[[UserKey], None]]
    on_session_removed: list[Callable[[str, str], None]]


class SessionPersistenceService:
    """Keeps who the user is, what was said, and on which device; acts for one principal.

    Message and session dictionaries carry the field names of the wire (camelCase); unknown fields are kept.
    All verbs raise InvalidRequest (with MissingFields, InvalidId) for malformed input, Forbidden where the
    principal may not, and Unavailable (StoreUnavailable, Overloaded, ShuttingDown) where nothing was
    acknowledged and the same call may succeed later.
    """

    def __init__(self, core: SessionCore, principal: Principal = LOCAL) -> None:
        self.core = core
        self.principal = principal

    def acting_as(self, principal: Principal) -> SessionPersistenceService:
        """The same service for another principal."""
        return SessionPersistenceService(self.core, principal)

    # --- state -----------------------------------------------------------------------------------------

    async def save_user_state(
        self,
        user_id: str,
        state: Mapping[str, Any],
        *,
        if_match: str | Sequence[str] | None = None,
        if_absent: bool = False,
        receipt: ReceiptKey | None = None,
    ) -> StateSaved:
        """Merge into the user's state (RFC 7396: objects merge deeply, None removes a key).

        `if_match` are the entity tags to accept (`*`: any state); PreconditionFailed if none of them is
        current, or with `if_absent` if there is a state. TooLarge past 256 KiB.
        """
        return await self._save_state(user_id, state, False, if_match, if_absent, receipt)

    async def replace_user_state(
        self,
        user_id: str,
        state: Mapping[str, Any],
        *,
        if_match: str | Sequence[str] | None = None,
        if_absent: bool = False,
        receipt: ReceiptKey | None = None,
    ) -> StateSaved:
        """Replace the user's state as a whole; the conditions are those of `save_user_state`."""
        return await self._save_state(user_id, state, True, if_match, if_absent, receipt)

    async def _save_state(
        self,
        user_id: str,
        state: Mapping[str, Any],
        replace: bool,
        if_match: str | Sequence[str] | None,
        if_absent: bool,
        receipt: ReceiptKey | None,
    ) -> StateSaved:
        key = self._user(user_id)
        operation = SaveState(
            at_ms=self.core.clock.now_ms(),
            receipt=receipt,
            patch=check_object(state, "The state"),
            replace=replace,
            if_match=_tags(if_match),
            if_absent=if_absent,
        )
        saved: StateSaved
        saved, _ = await self.core.lanes.write(key, operation)
        return saved

    async def get_user_state(self, user_id: str) -> UserState | None:
        """The user's state, or None if none was ever saved."""
        record = await self.read_user(user_id)
        return views.state_of(user_id, record, self.is_active(record))

    # --- profile and history ---------------------------------------------------------------------------

    async def save_user_profile(
        self, user_id: str, preferences: Mapping[str, Any], *, receipt: ReceiptKey | None = None
    ) -> None:
        """Merge the user's preferences (RFC 7396); TooLarge past 64 KiB."""
        key = self._user(user_id)
        patch = check_object(preferences, "preferences")
        operation = SavePreferences(at_ms=self.core.clock.now_ms(), receipt=receipt, patch=patch)
        await self.core.lanes.write(key, operation)

    async def get_user_profile(self, user_id: str) -> Profile:
        """The last messages and the preferences; of an unknown user an empty history and the defaults."""
        return views.profile_of(user_id, await self.read_user(user_id), self.core.rules)

    async def append_to_user_history(
        self, user_id: str, role: str, content: str, *, receipt: ReceiptKey | None = None, **fields: Any
    ) -> Appended:
        """Append one message; `fields` are `id`, `sessionId`, `name`, `metadata`, `toolCalls` and what else to keep.

        The same `id` again is the same message and changes nothing.
        """
        appended = await self.append_many(
            user_id, [{"role": role, "content": content, **_wire_names(fields)}], receipt=receipt
        )
        return appended[0]

    async def append_many(
        self, user_id: str, messages: Sequence[Mapping[str, Any]], *, receipt: ReceiptKey | None = None
    ) -> list[Appended]:
        """Append up to 100 messages, all or none; an answer for each."""
        key = self._user(user_id)
        now_ms = self.core.clock.now_ms()
        if not 1 <= len(messages) <= limits.MESSAGES_PER_APPEND_MAX:
            raise InvalidRequest(f"messages must hold 1 to {limits.MESSAGES_PER_APPEND_MAX} messages.")
        operation = AppendMessages(
            at_ms=now_ms, receipt=receipt, messages=tuple([new_message(message) for message in messages])
        )
        appended: list[Appended]
        appended, _ = await self.core.lanes.write(key, operation)
        return appended

    async def import_messages(self, user_id: str, messages: Sequence[Mapping[str, Any]]) -> list[Appended]:
        """Append messages that keep the `timestamp` they carry (RFC 3339); for moving histories from elsewhere."""
        key = self._user(user_id)
        now_ms = self.core.clock.now_ms()
        taken = []
        for message in messages:
            try:
                at_ms = parse_rfc3339(message["timestamp"]) if message.get("timestamp") else None
            except (ValueError, TypeError):
                raise InvalidRequest(f"{message.get('timestamp')!r} is not an RFC 3339 timestamp.") from None
            taken.append(new_message(message, at_ms=at_ms))
        appended: list[Appended]
        appended, _ = await self.core.lanes.write(key, AppendMessages(at_ms=now_ms, messages=tuple(taken)))
        return appended

    async def page_history(
        self,
        user_id: str,
        *,
        limit: int = limits.PAGE_MESSAGES,
        before: int | None = None,
        after: int | None = None,
    ) -> HistoryPage:
        """Messages in the order of `seq`: the first ones behind `after`, else the last ones ahead of `before`."""
        messages, has_more = await self.page_stored(user_id, limit=limit, before=before, after=after)
        return HistoryPage(
            user_id=user_id, messages=[views.message_of(m) for m in messages], has_more=has_more
        )

    async def page_stored(
        self,
        user_id: str,
        *,
        limit: int = limits.PAGE_MESSAGES,
        before: int | None = None,
        after: int | None = None,
    ) -> tuple[Sequence[StoredMessage], bool]:
        """As `page_history`, the messages as they are kept; from memory where the window holds them."""
        key = self._user(user_id)
        if not 1 <= limit <= limits.PAGE_MESSAGES_MAX:
            raise InvalidRequest(f"limit must be 1 to {limits.PAGE_MESSAGES_MAX}.")
        record = await self.core.lanes.read(key)
        window = record.window
        if window and window[0].seq == 1 and record.window_bytes <= limits.PAGE_BYTES_MAX:
            low = 0 if after is None else min(max(after, 0), len(window))
            high = len(window) if before is None else min(max(before - 1, 0), len(window))
            between = window[low:high]
            page = between[-limit:] if after is None else between[:limit]
            return page, len(page) < len(between)
        await self.core.lanes.settled(key)  # `memory` acknowledges before the store has it
        after, before = (None if seq is None else min(max(seq, 0), _SEQ_MAX) for seq in (after, before))
        return await self.core.store.page(
            key, after=after, before=before, limit=limit, bytes_max=limits.PAGE_BYTES_MAX
        )

    # --- sessions --------------------------------------------------------------------------------------

    async def save_session(
        self, session_id: str, user_id: str, *, receipt: ReceiptKey | None = None, **fields: Any
    ) -> None:
        """Create a session, or merge the fields into it, refresh its activity and open it again.

        `fields` are `language`, `metadata` and whatever else to keep. SessionTaken if the id is another user's.
        """
        await self.save_session_fields(session_id, user_id, _wire_names(fields), receipt=receipt)

    async def save_session_fields(
        self, session_id: str, user_id: str, fields: Mapping[str, Any], *, receipt: ReceiptKey | None = None
    ) -> None:
        """As `save_session`, the fields named as on the wire."""
        check_id(session_id, "sessionId")
        key = self._user(user_id)
        fields = check_object(fields, "The session")
        if not isinstance(fields.get("language"), str | None):
            raise InvalidRequest("language must be a string.")
        if not isinstance(fields.get("metadata"), dict | None):
            raise InvalidRequest("metadata must be a JSON object.")
        prior = await self._prior(key, session_id)
        if prior is not None and prior.user_id != user_id:
            raise SessionTaken
        operation = SaveSession(
            at_ms=self.core.clock.now_ms(),
            receipt=receipt,
            session_id=session_id,
            user_id=user_id,
            fields=fields,
            prior=prior,
        )
        await self.core.lanes.write(key, operation)
        self._remember_owner(key, session_id)

    async def get_session(self, session_id: str) -> Session | None:
        """A session, open or ended; None if there is none that the principal may see."""
        found = await self._find_session(session_id)
        return None if found is None else self.session_of(found[1])

    async def end_session(self, session_id: str) -> None:
        """End a session; ending it again is fine. NotFound if there is none."""
        key, _ = await self._need_session(session_id)
        prior = await self._prior(key, session_id)
        if prior is not None and prior.user_id != key.user_id:
            raise NotFound(f"There is no session {session_id!r}.")
        operation = EndSession(at_ms=self.core.clock.now_ms(), session_id=session_id, prior=prior)
        await self.core.lanes.write(key, operation)

    async def get_user_active_sessions(self, user_id: str) -> list[Session]:
        """The user's open sessions that are not idle, newest activity first."""
        key = self._user(user_id)
        record = await self.core.lanes.read(key)
        open_after_ms = self._open_after_ms()
        if record.sessions_complete:
            sessions = sorted(
                (s for s in record.sessions.values() if s.ended_ms is None and s.active_ms > open_after_ms),
                key=lambda s: (-s.active_ms, s.id),
            )
        else:
            sessions = await self.core.store.sessions(key, open_after_ms=open_after_ms)
        return [self.session_of(session) for session in sessions]

    async def get_user_sessions(self, user_id: str) -> list[Session]:
        """All sessions of the user, the ended ones too, newest activity first."""
        stored = await self.core.store.sessions(self._user(user_id), open_after_ms=None)
        return [self.session_of(session) for session in stored]

    async def clear_session(self, session_id: str) -> ClearedSession:
        """Delete a session and its interruptions. NotFound if there is none."""
        return await _to_the_end(self._clear_session(session_id))

    async def _clear_session(self, session_id: str) -> ClearedSession:
        key, _ = await self._need_session(session_id)
        prior = await self._prior(key, session_id)
        if prior is not None and prior.user_id != key.user_id:
            raise NotFound(f"There is no session {session_id!r}.")
        operation = RemoveSession(at_ms=self.core.clock.now_ms(), session_id=session_id, prior=prior)
        _, committed = await self.core.lanes.write(key, operation)
        self.core.owners.pop((key.tenant, session_id), None)
        for listener in self.core.on_session_removed:
            listener(key.tenant, session_id)
        removed = _removed(committed)
        if committed is not None and not removed.sessions:
            raise NotFound(f"There is no session {session_id!r}.")
        return ClearedSession(session=True, interruptions=removed.interruptions)

    # --- interruptions, as far as they are recorded -----------------------------------------------------

    async def session_owner(self, session_id: str) -> str:
        """The id of the user whose session it is. NotFound if there is none that the principal may see."""
        key, _ = await self._need_session(session_id)
        return key.user_id

    async def find_session_owner(self, session_id: str) -> str | None:
        """As `session_owner`; None where it would raise NotFound."""
        found = await self._find_session(session_id)
        return None if found is None else found[0].user_id

    async def recorded_interruptions(self, session_id: str) -> list[StoredInterruption]:
        """The recorded interruptions of a session, newest first, at most 3. NotFound if there is no session."""
        key, _ = await self._need_session(session_id)
        return await self.core.store.interruptions(
            key.tenant, session_id, limits.INTERRUPTIONS_PER_SESSION_MAX
        )

    async def record_interruption(
        self, session_id: str, interruption_id: str, at_ms: int, body: bytes
    ) -> None:
        """Record an interruption (`body`: its JSON object) with its session. NotFound if there is none."""
        key, _ = await self._need_session(session_id)
        kept = StoredInterruption(interruption_id, session_id, at_ms, body)
        await self.core.lanes.write(key, RecordInterruption(at_ms=at_ms, interruption=kept))

    async def forget_interruptions(self, session_id: str) -> int:
        """Remove the recorded interruptions of a session; returns how many there were."""
        key, _ = await self._need_session(session_id)
        operation = ForgetInterruptions(at_ms=self.core.clock.now_ms(), session_id=session_id)
        _, committed = await self.core.lanes.write(key, operation)
        return _removed(committed).interruptions

    # --- everything of a user, and of all ----------------------------------------------------------------

    async def clear_user_data(self, user_id: str, *, receipt: ReceiptKey | None = None) -> Cleared:
        """Erase the user everywhere; tells what was really removed. What comes later starts a new life."""
        key = self._user(user_id)
        return await _to_the_end(self._erase(key, receipt))

    async def _erase(self, key: UserKey, receipt: ReceiptKey | None) -> Cleared:
        operation = EraseUser(at_ms=self.core.clock.now_ms(), receipt=receipt)
        _, committed = await self.core.lanes.write(key, operation)
        for listener in self.core.on_erased:
            listener(key)
        return cleared(_removed(committed), pending=committed is not None and committed.pending)

    async def get_stats(self) -> SessionStats:
        """Counts over the principal's tenant."""
        stats = await self.count()
        return SessionStats(
            active_users=stats.active_users,
            active_sessions=stats.active_sessions,
            total_profiles=stats.total_profiles,
            total_interruptions=stats.total_interruptions,
        )

    async def count(self) -> Stats:
        """All counts over the principal's tenant."""
        if self.principal.user is not None:
            raise Forbidden
        now_ms = self.core.clock.now_ms()
        return await self.core.store.stats(
            self.principal.tenant,
            active_after_ms=now_ms - round(self.core.active_window_s * 1000),
            open_after_ms=self._open_after_ms(),
        )

    async def list_users(self, *, after: str = "", limit: int = 1_000) -> Sequence[str]:
        """User ids of the tenant in the order of their bytes, those behind `after`."""
        if self.principal.user is not None:
            raise Forbidden
        return await self.core.store.users(self.principal.tenant, after=after, limit=limit)

    # --- for those who need the bytes ---------------------------------------------------------------------

    async def read_user(self, user_id: str) -> UserRecord:
        """The user's record as it is kept: JSON as encoded bytes."""
        return await self.core.lanes.read(self._user(user_id))

    def preferences(self, record: UserRecord) -> bytes:
        """The preferences of a record as JSON, or the defaults."""
        return views.preferences(record, self.core.rules)

    def is_active(self, record: UserRecord) -> bool:
        """Whether the user's state or an open session was touched within the last 30 minutes."""
        return views.is_active(record, self.core.clock.now_ms() - round(self.core.active_window_s * 1000))

    def session_of(self, stored: StoredSession) -> Session:
        """A session as callers see it; one that has been idle for too long counts as ended."""
        return views.session_of(stored, self.core.rules, self._open_after_ms())

    # --- inside ----------------------------------------------------------------------------------------

    def _user(self, user_id: str) -> UserKey:
        check_id(user_id, "userId")
        tenant, user, _ = self.principal
        if user is not None and user != user_id:
            raise Forbidden
        return UserKey(tenant, user_id)

    def _open_after_ms(self) -> int:
        return self.core.clock.now_ms() - round(self.core.session_idle_s * 1000)

    def _remember_owner(self, key: UserKey, session_id: str) -> None:
        owners = self.core.owners
        owners[key.tenant, session_id] = key
        owners.move_to_end((key.tenant, session_id))
        while len(owners) > limits.SESSION_OWNERS_MAX:
            owners.popitem(last=False)

    async def _find_session(self, session_id: str) -> tuple[UserKey, StoredSession] | None:
        check_id(session_id, "sessionId")
        tenant, user, _ = self.principal
        owner = self.core.owners.get((tenant, session_id))
        session: StoredSession | None = None
        if owner is not None:
            record = self.core.lanes.peek(owner)
            session = None if record is None else record.sessions.get(session_id)
        if session is None:
            session = await self.core.store.session(tenant, session_id)
            if session is None:
                return None
        key = UserKey(tenant, session.user_id)
        if user is not None and user != session.user_id:
            return None
        self._remember_owner(key, session_id)
        return key, session

    async def _prior(self, key: UserKey, session_id: str) -> StoredSession | None:
        """What only the store has of a session, for an operation that is submitted at once; None if the record has it.

        While something of the user is on its way, the store may still have what has been removed.
        """
        for _ in range(limits.COMMIT_RETRIES_MAX):
            if session_id in (await self.core.lanes.newest(key)).sessions:
                return None
            record = await self.core.lanes.settled(key)
            if session_id in record.sessions:
                return None
            stored = await self.core.store.session(key.tenant, session_id)
            if await self.core.lanes.newest(key) is record:
                return stored
        raise Unavailable("Too many others are writing for this user; try again.")

    async def _need_session(self, session_id: str) -> tuple[UserKey, StoredSession]:
        found = await self._find_session(session_id)
        if found is None:
            raise NotFound(f"There is no session {session_id!r}.")
        return found


_WIRE_NAMES = {"session_id": "sessionId", "tool_calls": "toolCalls", "tool_call_id": "toolCallId"}


def _tags(if_match: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if if_match is None:
        return None
    return (if_match,) if isinstance(if_match, str) else tuple(if_match)


def _wire_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {_WIRE_NAMES.get(name, name): value for name, value in fields.items()}


async def _to_the_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Do all of it, also where the caller gives up: what memory holds goes together with what the store held."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)


def _removed(committed: Committed | None) -> Removed:
    return Removed() if committed is None else committed.removed
