"""Keeping no content: of what is said only who, when and how long, for the users or tenants that want it so.

An operation is reduced before anything has it: the journal, the store, other replicas, a cache and whoever listens
are all handed what is left. Reducing what was reduced changes nothing, so that an operation that is applied anew, to a
record that tells of the wish only now, is simply reduced then.

A user's wish stands among the preferences as `"contentKept":false`: it is kept, sealed, carried and backed up as they
are, and goes when the user is erased.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from samvad import limits
from samvad.records import (
    UNREADABLE,
    Change,
    InterruptionAdded,
    ProfileSet,
    SessionSet,
    StateSet,
    StoredMessage,
    StoredSession,
    UserRecord,
)
from samvad.sessions.operations import (
    AppendMessages,
    EndSession,
    NewMessage,
    Operation,
    RecordInterruption,
    RemoveSession,
    SavePreferences,
    SaveSession,
    SaveState,
)

Content = Literal["keep", "none"]
KEPT: Final = "contentKept"
EVERY_TENANT: Final = "*"
_WISH: Final = b'"contentKept":false'
_EMPTY: Final = b'"content":"","timestamp":'  # of a message that was said, content is never empty
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,3}")
_decode = msgspec.json.decode
_replace = msgspec.structs.replace


def keeps_content(record: UserRecord, tenant: str, unkept: frozenset[str]) -> bool:
    """Whether the content of what this user says is kept. `unkept` are the tenants that keep none (`*`: all)."""
    if unkept and (tenant in unkept or EVERY_TENANT in unkept):
        return False
    return not wishes_none(record)


def wishes_none(record: UserRecord) -> bool:
    """Whether it is this user's own wish that no content is kept."""
    profile = record.profile
    if profile is None:
        return False
    if profile.preferences is UNREADABLE:  # nobody knows: then the stricter
        return True
    return _WISH in profile.preferences and _decode(profile.preferences).get(KEPT) is False


def holds_content(record: UserRecord) -> bool:
    """Whether a record holds something that would not be kept now; messages before its window are not looked at."""
    state, profile = record.state, record.profile
    return (
        any_content(record.window)
        or (state is not None and bool(_beside(state.body, _IN_STATE)))
        or (profile is not None and bool(_beside(profile.preferences, _IN_PREFERENCES)))
        or any(session_holds_content(session) for session in record.sessions.values())
    )


def any_content(messages: Iterable[StoredMessage]) -> bool:
    """Whether one of these messages has content."""
    return any(_EMPTY not in message.body or _content(message.body).content for message in messages)


class _Content(msgspec.Struct):
    content: str = ""


_content: Final = msgspec.json.Decoder(
    _Content
).decode  # those bytes may stand in what was said beside it as well


def session_holds_content(session: StoredSession) -> bool:
    """Whether a session holds what would not be kept now."""
    return bool(_beside(session.body, _IN_SESSION))


def to_keep(operation: Operation, record: UserRecord, tenant: str, unkept: frozenset[str]) -> Operation:
    """The operation as it may be kept: without content, where none is kept of this user."""
    if keeps_content(record, tenant, unkept):
        return operation
    reduce = _REDUCE.get(type(operation))
    return operation if reduce is None else reduce(operation, record)


def reduced_change(change: Change) -> Change | None:
    """A change that brings what somebody has kept elsewhere, without content; None where nothing is left of it."""
    if isinstance(change, StateSet):
        return StateSet(_replace(change.state, body=_only(change.state.body, _IN_STATE)))
    if isinstance(change, ProfileSet):
        preferences = _only(change.profile.preferences, _IN_PREFERENCES)
        return ProfileSet(_replace(change.profile, preferences=preferences))
    if isinstance(change, SessionSet):
        return SessionSet(_replace(change.session, body=_only(change.session.body, _IN_SESSION)))
    return None if isinstance(change, InterruptionAdded) else change


def _only(body: bytes, allowed: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(_patch(_decode(body), allowed, None))


def with_wish(preferences: bytes) -> bytes:
    """Preferences with the wish that no content is kept."""
    return msgspec.json.encode({**_decode(preferences), KEPT: False})


# --- messages ----------------------------------------------------------------------------------------------


def reduced_fields(session_id: Any, size_bytes: int, chars: int) -> dict[str, Any]:
    """What stands in a message beside its id, role and time where its content is not kept."""
    fields: dict[str, Any] = {} if session_id is None else {"sessionId": session_id}
    return {**fields, "contentLength": size_bytes, "contentChars": chars, KEPT: False}


def _message(message: NewMessage) -> NewMessage:
    if not message.content:  # it was reduced before
        return message
    content = message.content
    fields = reduced_fields(message.fields.get("sessionId"), len(content.encode()), len(content))
    return _replace(message, content="", fields=fields)


def _append(op: AppendMessages, record: UserRecord) -> Operation:
    return _replace(op, messages=tuple([_message(message) for message in op.messages]))


def read_back(message: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields of a message that was read back, from another store say, where its content was not kept; else None."""
    size, chars = message.get("contentLength"), message.get("contentChars")
    if message.get("content") != "" or message.get(KEPT) is not False:
        return None
    if not all(type(each) is int and 0 <= each <= limits.CONTENT_BYTES_MAX for each in (size, chars)):
        return None
    assert isinstance(size, int)
    assert isinstance(chars, int)
    return reduced_fields(message.get("sessionId"), size, chars)


# --- all else: a few fields that assistants need and nobody says --------------------------------------------


def is_language(value: Any) -> bool:
    """Whether it looks like a language tag."""
    return isinstance(value, str) and _LANGUAGE.fullmatch(value) is not None


def _is_speed(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value.encode()) <= limits.ID_BYTES_MAX


_IN_STATE: Final = {"language": is_language, "activeSessionId": _is_id}
_IN_PREFERENCES: Final = {
    "language": is_language,
    "voiceSpeed": _is_speed,
    KEPT: lambda value: value is False,
}
_IN_SESSION: Final = {"language": is_language}


def _beside(body: bytes, allowed: Mapping[str, Any]) -> dict[str, None]:
    """What else is in a JSON object, as a patch (RFC 7396) that removes it."""
    return {
        name: None for name, value in _decode(body).items() if name not in allowed or not allowed[name](value)
    }


def _patch(patch: Mapping[str, Any], allowed: Mapping[str, Any], there: bytes | None) -> dict[str, Any]:
    """A patch with what is allowed of it, which removes what else was there."""
    kept = {name: v for name, v in patch.items() if name in allowed and (v is None or allowed[name](v))}
    return {**({} if there is None else _beside(there, allowed)), **kept}


def _state(op: SaveState, record: UserRecord) -> Operation:
    there = None if record.state is None or op.replace else record.state.body
    return _replace(op, patch=_patch(op.patch, _IN_STATE, there), reduced=True)


def _preferences(op: SavePreferences, record: UserRecord) -> Operation:
    there = None if record.profile is None else record.profile.preferences
    return _replace(op, patch=_patch(op.patch, _IN_PREFERENCES, there))


def reduced_preferences(record: UserRecord) -> dict[str, Any]:
    """What of a user's preferences is kept where no content is."""
    profile = record.profile
    return {} if profile is None else _patch(_decode(profile.preferences), _IN_PREFERENCES, None)


def _prior(session: StoredSession | None) -> StoredSession | None:
    if session is None:
        return None
    return _replace(session, body=_only(session.body, _IN_SESSION))


def _session(op: SaveSession, record: UserRecord) -> Operation:
    there = record.sessions.get(op.session_id)
    fields = _patch(op.fields, _IN_SESSION, None if there is None else there.body)
    return _replace(op, fields=fields, prior=_prior(op.prior))


def _ending(op: Any, record: UserRecord) -> Operation:
    ending: Operation = _replace(op, prior=_prior(op.prior))
    return ending


def _interruption(op: RecordInterruption, record: UserRecord) -> Operation:
    return AppendMessages(at_ms=op.at_ms, receipt=op.receipt, messages=())  # it stays in memory alone


_REDUCE: Final[Mapping[type, Any]] = {
    AppendMessages: _append,
    SaveState: _state,
    SavePreferences: _preferences,
    SaveSession: _session,
    EndSession: _ending,
    RemoveSession: _ending,
    RecordInterruption: _interruption,
}
