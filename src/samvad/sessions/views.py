"""Records as callers see them: from what is kept to the public types."""

from __future__ import annotations

import msgspec

from samvad.clock import rfc3339
from samvad.records import StoredMessage, StoredSession, UserRecord
from samvad.sessions.user_log import Rules, default_preferences, etag
from samvad.types import Message, Position, Profile, Session, UserState

_decode = msgspec.json.decode
_plain_message = msgspec.json.Decoder(Message)
_MESSAGE_NAMES = tuple(
    field.encode_name for field in msgspec.structs.fields(Message) if field.name != "extra"
)


def message_of(stored: StoredMessage) -> Message:
    """A message; what the caller gave beside the known fields is in `extra`."""
    if b'"extra"' not in stored.body:
        try:
            return _plain_message.decode(stored.body)
        except msgspec.ValidationError:
            pass  # it has further fields: the slower way
    fields = _decode(stored.body)
    known = {name: fields.pop(name) for name in _MESSAGE_NAMES if name in fields}
    return msgspec.convert({**known, "extra": fields}, Message)


def state_of(user_id: str, record: UserRecord, active: bool) -> UserState | None:
    """A user's state, or None if none was ever saved."""
    state = record.state
    if state is None:
        return None
    return UserState(
        user_id=user_id,
        state=_decode(state.body),
        updated_at=rfc3339(state.updated_ms),
        is_active=active,
        version=state.version,
        etag=etag(record.version.epoch, state.version),
    )


def profile_of(user_id: str, record: UserRecord, rules: Rules) -> Profile:
    """A user's window of messages and preferences."""
    profile = record.profile
    return Profile(
        user_id=user_id,
        conversation_history=[message_of(message) for message in record.window],
        preferences=_decode(preferences(record, rules)),
        history_length=len(record.window),
        created_at=None if profile is None else rfc3339(profile.created_ms),
        last_updated=None if profile is None else rfc3339(profile.updated_ms),
        position=Position(record.version.epoch, record.seq),
    )


def preferences(record: UserRecord, rules: Rules) -> bytes:
    """The preferences as JSON, or the defaults of a user who has none."""
    if record.profile is None:
        return msgspec.json.encode(default_preferences(rules))
    return record.profile.preferences


def is_active(record: UserRecord, after_ms: int) -> bool:
    """Whether the state or an open session was touched after a moment."""
    if record.state is not None and record.state.updated_ms > after_ms:
        return True
    return any(s.ended_ms is None and s.active_ms > after_ms for s in record.sessions.values())


def session_of(stored: StoredSession, rules: Rules, open_after_ms: int) -> Session:
    """A session; one that was last touched before `open_after_ms` counts as ended."""
    fields = _decode(stored.body)
    return Session(
        id=stored.id,
        user_id=stored.user_id,
        language=fields.pop("language", rules.language),
        is_active=stored.ended_ms is None and stored.active_ms > open_after_ms,
        created_at=rfc3339(stored.created_ms),
        last_activity=rfc3339(stored.active_ms),
        ended_at=None if stored.ended_ms is None else rfc3339(stored.ended_ms),
        metadata=fields.pop("metadata", None),
        extra=fields,
    )
