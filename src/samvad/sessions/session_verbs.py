"""The verbs of sessions: one conversation on one device, and the interruptions that are recorded with it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from samvad import limits
from samvad.errors import InvalidRequest, NotFound, SessionTaken, StoreUnavailable, Unavailable
from samvad.records import (
    StoredInterruption,
    StoredSession,
    UserKey,
)
from samvad.sessions.acting import Acting, removed_by, to_the_end, wire_names
from samvad.sessions.operations import (
    EndSession,
    ForgetInterruptions,
    ReceiptKey,
    RecordInterruption,
    RemoveSession,
    SaveSession,
)
from samvad.sessions.people import LIVE_FIELDS
from samvad.sessions.validation import check_id, check_object
from samvad.types import (
    ClearedSession,
    Session,
    trusted,
)

_decode = msgspec.json.decode

_T = TypeVar("_T")
_SEQ_MAX = 1 << 62  # more than will ever be said, and a store may count in 64 bits


class SessionVerbs(Acting):
    """Create, end, list and delete sessions."""

    # --- sessions --------------------------------------------------------------------------------------

    async def save_session(
        self, session_id: str, user_id: str, *, receipt: ReceiptKey | None = None, **fields: Any
    ) -> None:
        """Create a session, or merge the fields into it, refresh its activity and open it again.

        `fields` are `language`, `metadata` and whatever else to keep. SessionTaken if the id is another user's.
        """
        await self.save_session_fields(session_id, user_id, wire_names(fields), receipt=receipt)

    async def save_session_fields(
        self, session_id: str, user_id: str, fields: Mapping[str, Any], *, receipt: ReceiptKey | None = None
    ) -> None:
        """As `save_session`, the fields named as on the wire.

        What live conversations keep in a session becomes messages: unless a program is asking that may write those,
        such fields are the server's, and ignored.
        """
        check_id(session_id, "sessionId")
        key = self._user(user_id, "sessions")
        fields = check_object(fields, "The session", limits.SESSION_BYTES_MAX)
        if not LIVE_FIELDS.isdisjoint(fields) and not self.principal.may("users"):
            fields = {name: value for name, value in fields.items() if name not in LIVE_FIELDS}
        if not isinstance(fields.get("language"), str | None):
            raise InvalidRequest("language must be a string.")
        if not isinstance(fields.get("metadata"), dict | None):
            raise InvalidRequest("metadata must be a JSON object.")
        unproven = False
        try:
            prior = await self._prior(key, session_id)
        except StoreUnavailable:
            if not self.core.store.capabilities.goes_on:
                raise
            prior, unproven = None, True  # asked again before it goes to the store
            if await self._is_known_as_anothers(key, session_id):
                raise SessionTaken from None
        if prior is not None and prior.user_id != user_id:
            raise SessionTaken
        operation = SaveSession(
            at_ms=self.core.clock.now_ms(),
            receipt=receipt,
            session_id=session_id,
            user_id=user_id,
            fields=fields,
            prior=prior,
            unproven=unproven,
        )
        await self.core.lanes.write(key, operation)
        self._remember_owner(key, session_id)

    async def save_live_fields(self, session_id: str, user_id: str, fields: Mapping[str, Any]) -> None:
        """As `save_session_fields`, for what this server's live conversations keep. Never for what a request brings."""
        self._user(user_id, "sessions")
        server = SessionVerbs(self.core, trusted(self.principal.tenant))
        await server.save_session_fields(session_id, user_id, fields)

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
        key = self._user(user_id, "sessions")
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
        stored = await self.core.store.sessions(self._user(user_id, "sessions"), open_after_ms=None)
        return [self.session_of(session) for session in stored]

    async def clear_session(self, session_id: str) -> ClearedSession:
        """Delete a session and its interruptions. NotFound if there is none."""
        return await to_the_end(self._clear_session(session_id))

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
        removed = removed_by(committed)
        if committed is not None and not removed.sessions:
            raise NotFound(f"There is no session {session_id!r}.")
        return ClearedSession(session=True, interruptions=removed.interruptions)

    # --- interruptions, as far as they are recorded -----------------------------------------------------

    async def session_owner(self, session_id: str) -> str:
        """The id of the user whose session it is. NotFound if there is none that the principal may see."""
        key, _ = await self._need_session(session_id)
        return key.user_id

    async def may_interrupt(self, session_id: str) -> str:
        """As `session_owner`, for who says what the assistant said; RoleForbidden where people may not say that."""
        user_id = await self.session_owner(session_id)
        self.need_role("assistant")
        return user_id

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
        return removed_by(committed).interruptions

    def _remember_owner(self, key: UserKey, session_id: str) -> None:
        owners = self.core.owners
        owners[key.tenant, session_id] = key
        owners.move_to_end((key.tenant, session_id))
        while len(owners) > limits.SESSION_OWNERS_MAX:
            owners.popitem(last=False)

    async def _is_known_as_anothers(self, key: UserKey, session_id: str) -> bool:
        with contextlib.suppress(StoreUnavailable):  # what is pending here answers this without the store
            pending = await self.core.store.session(key.tenant, session_id)
            return pending is not None and pending.user_id != key.user_id
        owner = self.core.owners.get((key.tenant, session_id))
        record = None if owner is None or owner == key else self.core.lanes.peek(owner)
        return record is not None and session_id in record.sessions

    async def _find_session(self, session_id: str) -> tuple[UserKey, StoredSession] | None:
        check_id(session_id, "sessionId")
        tenant, user, _, only = self.principal
        if user is None:
            self.need("sessions")
        owner = self.core.owners.get((tenant, session_id))
        session: StoredSession | None = None
        # A person learns nothing of what others have from how long the answer takes: what memory holds of theirs is
        # looked up in the store like what is not there.
        if owner is not None and user in (None, owner.user_id):
            record = self.core.lanes.peek(owner)
            session = None if record is None else record.sessions.get(session_id)
        if session is None:
            session = await self.core.store.session(tenant, session_id)
            if session is None:
                return None
        key = UserKey(tenant, session.user_id)
        if user is not None and (user != session.user_id or only not in (None, session_id)):
            if (
                self.core.lanes.degraded
            ):  # one that is not there could not be told from one that cannot be read
                raise StoreUnavailable
            return None
        self._remember_owner(key, session_id)
        return key, session

    async def _prior(self, key: UserKey, session_id: str) -> StoredSession | None:
        """What only the store has of a session, for an operation that is submitted at once; None if the record has it.

        While something of the user is on its way, the store may still have what has been removed.
        """
        lanes = self.core.lanes
        for _ in range(limits.COMMIT_RETRIES_MAX):
            record = await lanes.newest(key)
            if session_id in record.sessions:
                return None
            if record.partial:
                raise StoreUnavailable("The store is down, and this process does not know this user.")
            removal = await lanes.removals_written(key)
            stored = await self.core.store.session(key.tenant, session_id)
            if session_id in (await lanes.newest(key)).sessions:
                return None
            if lanes.removal(key) == removal:
                return stored
        raise Unavailable("Too many others are writing for this user; try again.")

    async def _need_session(self, session_id: str) -> tuple[UserKey, StoredSession]:
        found = await self._find_session(session_id)
        if found is None:
            raise NotFound(f"There is no session {session_id!r}.")
        return found
