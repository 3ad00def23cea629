"""What `samvad import` does with one line: a dialogue, or a line of an export."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from samvad import limits
from samvad.archive.reading import head_of
from samvad.cli import portable
from samvad.cli.checkpoint import Counts
from samvad.clock import parse_rfc3339
from samvad.errors import SamvadError, TooLarge
from samvad.records import (
    Change,
    Commit,
    InterruptionAdded,
    ProfileSet,
    SessionSet,
    StateSet,
    StoredInterruption,
    StoredProfile,
    StoredSession,
    StoredState,
    UserKey,
    UserRecord,
    Version,
)
from samvad.runtime import Samvad
from samvad.sessions import content
from samvad.sessions.validation import check_id, check_object, imported_message

_encode = msgspec.json.encode


class BadLine(Exception):
    """The line cannot be taken in, for the reason given."""


class Taker:
    """Takes in lines. Those with a user or a session in common must come one after the other.

    What is newer in the store stays: a state, preferences or a session is replaced only by one that was
    touched later, and a message whose id is there is there.
    """

    def __init__(self, samvad: Samvad, prefix: str, counts: Counts) -> None:
        self._samvad = samvad
        self._store = samvad.store
        self._tenant = samvad.principal.tenant
        self._prefix = prefix
        self._counts = counts

    def names_of(self, value: Mapping[str, Any] | None) -> list[str]:
        """The user and the session that a line is about, as far as that can be told."""
        if value is None:
            return []
        user, session = value.get("userId") or value.get("dialogueId"), value.get("dialogueId")
        return [f"{what}{name}" for what, name in (("u", user), ("s", session)) if isinstance(name, str)]

    async def take(self, value: Mapping[str, Any]) -> list[str]:
        """Take in one line; returns what of it had to be left out, and why. BadLine if that is all of it."""
        kind = value.get("type")
        try:
            if "turns" in value:
                return await self._dialogue(value)
            if kind == "user":
                return await self._user(value)
            if kind == "sessions":
                return await self._sessions(value)
            if kind == "messages":
                return await self._messages(value)
            if kind == "samvad" and value.get("version") != portable.VERSION:
                raise BadLine(
                    f"this is an export of version {value.get('version')!r}; update Samvad to read it"
                )
        except SamvadError as error:
            if error.status >= 500:
                raise
            raise BadLine(error.message) from error
        if kind not in portable.KINDS:
            raise BadLine("it is neither a dialogue (dialogueId, turns) nor a line of an export")
        return []

    # --- dialogues ---------------------------------------------------------------------------------------

    async def _dialogue(self, value: Mapping[str, Any]) -> list[str]:
        dialogue_id = check_id(value.get("dialogueId"), "dialogueId")
        key = self._key(value.get("userId", dialogue_id))
        session_id = check_id(self._prefix + dialogue_id, "dialogueId with its prefix")
        turns = _list(value, "turns")
        session = await self._store.session(self._tenant, session_id)
        if session is not None and session.user_id != key.user_id:
            raise BadLine(f"the session {session_id!r} belongs to another user")
        fields = {
            name: v for name, v in value.items() if name not in ("dialogueId", "userId", "turns", "services")
        }
        if value.get("services"):
            fields["metadata"] = {
                **check_object(fields.get("metadata", {}), "metadata"),
                "services": value["services"],
            }
        name = dialogue_id
        if len(name.encode()) > limits.ID_BYTES_MAX - 16:  # no room for the number of a turn
            name = hashlib.sha256(name.encode()).hexdigest()
        named = [
            {"id": f"{name}-{number}", **turn, "sessionId": session_id} if isinstance(turn, dict) else turn
            for number, turn in enumerate(turns, 1)
        ]
        is_new = (await self._samvad.read_user(key.user_id)).version.revision == 0
        if session is None:
            await self._samvad.save_session_fields(session_id, key.user_id, fields)
            self._counts.sessions += 1
            self._counts.users += is_new
            is_new = False
        problems = await self._append(key, named, "turn")
        self._counts.users += is_new
        return problems

    # --- lines of an export --------------------------------------------------------------------------------

    async def _user(self, value: Mapping[str, Any]) -> list[str]:
        key = self._key(value.get("userId"))
        head = await head_of(self._store, key)
        changes: list[Change] = []
        if "state" in value:
            body = _bounded(check_object(value["state"], "state"), limits.STATE_BYTES_MAX, "The state")
            updated_ms = _time(value, "stateUpdatedAt")
            version = value.get("stateVersion", 1)
            if not isinstance(version, int) or version < 1:
                raise BadLine("stateVersion must be a whole number from 1")
            if head.state is None:
                changes.append(StateSet(StoredState(body, updated_ms, version)))
            elif head.state.updated_ms < updated_ms:
                version = max(head.state.version + 1, version)
                changes.append(StateSet(StoredState(body, updated_ms, version)))
        if "preferences" in value:
            preferences = check_object(value["preferences"], "preferences")
            body = _bounded(preferences, limits.PREFERENCES_BYTES_MAX, "The preferences")
            created_ms, updated_ms = _time(value, "createdAt"), _time(value, "lastUpdated")
            if head.profile is None:
                changes.append(ProfileSet(StoredProfile(body, created_ms, updated_ms)))
            elif head.profile.updated_ms < updated_ms:
                created_ms = min(created_ms, head.profile.created_ms)
                changes.append(ProfileSet(StoredProfile(body, created_ms, updated_ms)))
        await self._commit(key, head, changes)
        return []

    async def _sessions(self, value: Mapping[str, Any]) -> list[str]:
        key = self._key(value.get("userId"))
        head = await head_of(self._store, key)
        changes: list[Change] = []
        problems: list[str] = []
        added = 0
        for number, given in enumerate(_list(value, "sessions"), 1):
            try:
                session, interruptions = self._session(key, check_object(given, "a session"))
            except (SamvadError, BadLine) as error:
                problems.append(f"session {number}: {error}")
                continue
            there = await self._store.session(self._tenant, session.id)
            if there is not None and there.user_id != key.user_id:
                problems.append(f"session {number}: {session.id!r} belongs to another user")
            elif there is None or there.active_ms < session.active_ms:
                added += there is None
                changes += [SessionSet(session), *interruptions]
        await self._commit(key, head, changes)
        self._counts.sessions += added
        return problems

    def _session(self, key: UserKey, given: Mapping[str, Any]) -> tuple[StoredSession, list[Change]]:
        check_id(given.get("id"), "id")
        session_id = check_id(self._prefix + given["id"], "id with its prefix")
        body = _bounded(check_object(given.get("fields"), "fields"), limits.SESSION_BYTES_MAX, "A session")
        created_ms, active_ms = _time(given, "createdAt"), _time(given, "lastActivity")
        ended_ms = _time(given, "endedAt") if given.get("endedAt") is not None else None
        interruptions: list[Change] = []
        for kept in given.get("interruptions") or ():
            fields = check_object(kept.get("fields"), "fields") | {
                "sessionId": session_id,
                "userId": key.user_id,
            }
            at_ms = _time(kept, "at")
            stored = StoredInterruption(check_id(kept.get("id"), "id"), session_id, at_ms, _encode(fields))
            interruptions.append(InterruptionAdded(stored))
        return StoredSession(session_id, key.user_id, body, created_ms, active_ms, ended_ms), interruptions

    async def _messages(self, value: Mapping[str, Any]) -> list[str]:
        key = self._key(value.get("userId"))
        messages = _list(value, "messages")
        if self._prefix:
            messages = [
                {**message, "sessionId": self._prefix + message["sessionId"]}
                if isinstance(message, dict) and isinstance(message.get("sessionId"), str)
                else message
                for message in messages
            ]
        is_new = (await head_of(self._store, key)).version.revision == 0
        problems = await self._append(key, messages, "message")
        self._counts.users += is_new
        return problems

    # --- inside --------------------------------------------------------------------------------------------

    def _key(self, user_id: object) -> UserKey:
        check_id(user_id, "userId")
        return UserKey(self._tenant, check_id(f"{self._prefix}{user_id}", "userId with its prefix"))

    async def _commit(self, key: UserKey, head: UserRecord, changes: Sequence[Change]) -> None:
        """Write what the service has no verb for: times and versions as they were."""
        if not changes:
            return
        wishes = content.wishes_none(head)
        if wishes:
            changes = [_wishing(change) for change in changes]
        wishes = wishes or any(_wishes_none(change) for change in changes)
        if wishes or not content.keeps_content(head, key.tenant, self._samvad.core.rules.unkept):
            changes = [left for change in changes if (left := content.reduced_change(change)) is not None]
        await self._store.commit(Commit(key, head.version, tuple(changes)))
        self._samvad.cache.discard(key)  # it was read before this
        self._counts.users += head.version.revision == 0

    async def _append(self, key: UserKey, messages: Sequence[Any], what: str) -> list[str]:
        """Append those messages that may be; returns what is wrong with the others."""
        good: list[Mapping[str, Any]] = []
        problems: list[str] = []
        for number, message in enumerate(messages, 1):
            try:
                fields = check_object(message, f"The {what}")
                if fields.get("timestamp") is not None:
                    _time(fields, "timestamp")
                imported_message(fields)
            except (SamvadError, BadLine) as error:
                self._counts.messages_skipped += 1
                problems.append(f"{what} {number}: {error}")
            else:
                good.append(fields)
        for some in _pieces(good):
            for appended in await self._samvad.import_messages(key.user_id, some):
                if appended.duplicate:
                    self._counts.messages_there += 1
                else:
                    self._counts.messages += 1
        return problems


def _wishing(change: Change) -> Change:
    """No import takes back a wish."""
    if not isinstance(change, ProfileSet):
        return change
    preferences = content.with_wish(change.profile.preferences)
    return ProfileSet(msgspec.structs.replace(change.profile, preferences=preferences))


def _wishes_none(change: Change) -> bool:
    return isinstance(change, ProfileSet) and content.wishes_none(
        UserRecord(Version(0, 0), profile=change.profile)
    )


def _pieces(messages: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    for start in range(0, len(messages), limits.MESSAGES_PER_APPEND_MAX):
        yield messages[start : start + limits.MESSAGES_PER_APPEND_MAX]


def _list(value: Mapping[str, Any], name: str) -> list[Any]:
    found = value.get(name)
    if not isinstance(found, list):
        raise BadLine(f"{name} must be a list")
    return found


def _time(value: Mapping[str, Any], name: str) -> int:
    """A timestamp in milliseconds since 1970."""
    try:
        return parse_rfc3339(value[name])
    except KeyError:
        raise BadLine(f"{name} is missing") from None
    except (ValueError, TypeError, OverflowError):
        raise BadLine(f"{name} is not an RFC 3339 timestamp") from None


def _bounded(fields: Mapping[str, Any], bytes_max: int, what: str) -> bytes:
    body = _encode(fields)
    if len(body) > bytes_max:
        raise TooLarge(f"{what} may take {bytes_max} bytes at most; this one takes {len(body)}.")
    return body
