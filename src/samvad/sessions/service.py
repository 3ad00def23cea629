"""SessionPersistenceService: the verbs, and the only home of policy.

A service acts for one Principal; there is no verb without one, so that no door can forget to ask. Every
verb checks names first, then who asks, then what is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from samvad import limits
from samvad.clock import parse_rfc3339
from samvad.errors import InvalidRequest
from samvad.records import (
    Stats,
    StoredMessage,
    UserKey,
    cleared,
)
from samvad.sessions import views
from samvad.sessions.acting import removed_by, to_the_end, wire_names
from samvad.sessions.content import KEPT
from samvad.sessions.operations import (
    AppendMessages,
    EraseUser,
    KeepContent,
    ReceiptKey,
    SavePreferences,
    SaveState,
)
from samvad.sessions.people import check_messages
from samvad.sessions.privacy_verbs import PrivacyVerbs
from samvad.sessions.validation import check_object, imported_message, new_message
from samvad.types import (
    Appended,
    Cleared,
    HistoryPage,
    Principal,
    Profile,
    SessionStats,
    StateSaved,
    UserState,
    trusted,
)

_decode = msgspec.json.decode

_T = TypeVar("_T")
_SEQ_MAX = 1 << 62  # more than will ever be said, and a store may count in 64 bits


class SessionPersistenceService(PrivacyVerbs):
    """Keeps who the user is, what was said, and on which device; acts for one principal.

    Message and session dictionaries carry the field names of the wire (camelCase); unknown fields are kept.
    All verbs raise InvalidRequest (with MissingFields, InvalidId) for malformed input, Forbidden where the
    principal may not, and Unavailable (StoreUnavailable, Overloaded, ShuttingDown) where nothing was
    acknowledged and the same call may succeed later.
    """

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
            patch=check_object(state, "The state", limits.STATE_BYTES_MAX),
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
        patch = check_object(preferences, "preferences", limits.PREFERENCES_BYTES_MAX)
        if KEPT in patch and patch.pop(KEPT) is False:  # read somewhere and brought here: never the other way
            await self.core.lanes.write(key, KeepContent(at_ms=self.core.clock.now_ms(), kept=False))
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
            user_id, [{"role": role, "content": content, **wire_names(fields)}], receipt=receipt
        )
        return appended[0]

    async def append_many(
        self, user_id: str, messages: Sequence[Mapping[str, Any]], *, receipt: ReceiptKey | None = None
    ) -> list[Appended]:
        """Append up to 100 messages, all or none; an answer for each. RoleForbidden where people may not write one."""
        key = self._user(user_id)
        now_ms = self.core.clock.now_ms()
        if not 1 <= len(messages) <= limits.MESSAGES_PER_APPEND_MAX:
            raise InvalidRequest(f"messages must hold 1 to {limits.MESSAGES_PER_APPEND_MAX} messages.")
        taken = tuple([new_message(message) for message in messages])
        if self.principal.user is not None:
            check_messages(taken, self.core.person_roles)
        operation = AppendMessages(at_ms=now_ms, receipt=receipt, messages=taken)
        appended: list[Appended]
        appended, _ = await self.core.lanes.write(key, operation)
        return appended

    async def append_said(self, user_id: str, messages: Sequence[Mapping[str, Any]]) -> list[Appended]:
        """As `append_many`, of any role: what this server itself heard and said. Never for what a request brings."""
        self._user(user_id)
        return await self.acting_as(trusted(self.principal.tenant)).append_many(user_id, messages)

    async def import_messages(self, user_id: str, messages: Sequence[Mapping[str, Any]]) -> list[Appended]:
        """Append messages that keep the `timestamp` they carry (RFC 3339); for moving histories from elsewhere."""
        key = self._user(user_id)
        now_ms = self.core.clock.now_ms()
        if not 1 <= len(messages) <= limits.MESSAGES_PER_APPEND_MAX:
            raise InvalidRequest(f"messages must hold 1 to {limits.MESSAGES_PER_APPEND_MAX} messages.")
        taken = []
        for message in messages:
            try:
                at_ms = parse_rfc3339(message["timestamp"]) if message.get("timestamp") else None
                if at_ms is not None and at_ms < 0:
                    raise ValueError
            except (ValueError, TypeError, OverflowError):
                raise InvalidRequest(
                    f"{message.get('timestamp')!r} is not an RFC 3339 timestamp since 1970."
                ) from None
            # One from the future would hold back the time of all that follows.
            at_ms = None if at_ms is None else min(at_ms, now_ms)
            taken.append(imported_message(message, at_ms=at_ms))
        if self.principal.user is not None:
            check_messages(taken, self.core.person_roles)
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
            user_id=user_id,
            messages=[views.message_of(m) for m in messages],
            has_more=has_more,
            first_seq=await self.first_seq(user_id),
        )

    async def first_seq(self, user_id: str) -> int:
        """The `seq` with which the user's history begins: 1, or what follows the messages that retention removed."""
        return (await self.read_user(user_id)).trimmed + 1

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
        begins = record.trimmed + 1
        if window and window[0].seq == begins and record.window_bytes <= limits.PAGE_BYTES_MAX:
            low = 0 if after is None else min(max(after + 1 - begins, 0), len(window))
            high = len(window) if before is None else min(max(before - begins, 0), len(window))
            between = window[low:high]
            page = between[-limit:] if after is None else between[:limit]
            return page, len(page) < len(between)
        await self.core.lanes.settled(key)  # `memory` acknowledges before the store has it
        after, before = (None if seq is None else min(max(seq, 0), _SEQ_MAX) for seq in (after, before))
        return await self.core.store.page(
            key, after=after, before=before, limit=limit, bytes_max=limits.PAGE_BYTES_MAX
        )

    # --- everything of a user, and of all ----------------------------------------------------------------

    async def clear_user_data(self, user_id: str, *, receipt: ReceiptKey | None = None) -> Cleared:
        """Erase the user everywhere; tells what was really removed. What comes later starts a new life."""
        key = self._user(user_id)
        return await to_the_end(self._erase(key, receipt))

    async def _erase(self, key: UserKey, receipt: ReceiptKey | None) -> Cleared:
        for remove in self.core.on_erasing:
            await remove(key)
        operation = EraseUser(at_ms=self.core.clock.now_ms(), receipt=receipt)
        _, committed = await self.core.lanes.write(key, operation)
        for listener in self.core.on_erased:
            listener(key)
        pending = committed is not None and committed.pending
        return cleared(removed_by(committed), operation.at_ms, pending=pending)

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
        self.need("stats")
        now_ms = self.core.clock.now_ms()
        return await self.core.store.stats(
            self.principal.tenant,
            active_after_ms=now_ms - round(self.core.active_window_s * 1000),
            open_after_ms=self._open_after_ms(),
        )

    async def list_users(self, *, after: str = "", limit: int = 1_000) -> Sequence[str]:
        """User ids of the tenant in the order of their bytes, those behind `after`."""
        self.need("users")
        return await self.core.store.users(self.principal.tenant, after=after, limit=limit)


def _tags(if_match: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if if_match is None:
        return None
    return (if_match,) if isinstance(if_match, str) else tuple(if_match)
