"""The rules of a user's record, as pure functions: one operation applied to one record gives the next record.

The cap of the window, order, ids, versions and merging are decided here and nowhere else. Nothing here
reads a clock, a disk or a network, so that an operation applied twice to the same record gives the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from samvad import limits
from samvad.clock import rfc3339
from samvad.errors import NotFound, PreconditionFailed, StoreUnavailable, TooLarge, Unreadable
from samvad.records import (
    UNREADABLE,
    Change,
    Erased,
    InterruptionAdded,
    InterruptionsRemoved,
    InterruptionsTrimmed,
    MessagesAdded,
    ProfileSet,
    ReceiptKept,
    SessionRemoved,
    SessionSet,
    SessionTouched,
    StateSet,
    StoredMessage,
    StoredProfile,
    StoredReceipt,
    StoredSession,
    StoredState,
    Trimmed,
    UserRecord,
    Version,
    made_id,
)
from samvad.sessions.content import KEPT, wishes_none
from samvad.sessions.operations import (
    AppendMessages,
    EndSession,
    EraseUser,
    ForgetInterruptions,
    KeepContent,
    Operation,
    RecordInterruption,
    RemoveSession,
    Retain,
    SavePreferences,
    SaveSession,
    SaveState,
)
from samvad.sessions.window import MESSAGE_OVERHEAD_BYTES, moved, window_bytes
from samvad.types import Appended, Durability, StateSaved

_encode = msgspec.json.encode
_decode = msgspec.json.decode

# What the server says of a state, a message or a session; in a body they are ignored.
STATE_FIELDS = frozenset({"userId", "updatedAt", "isActive", "version"})
MESSAGE_FIELDS = frozenset({"id", "seq", "role", "content", "timestamp"})
SESSION_FIELDS = frozenset({"id", "sessionId", "userId", "isActive", "createdAt", "lastActivity", "endedAt"})


class Rules(msgspec.Struct, frozen=True):
    """The settings that applying depends on. `shared`: other processes may write to the store as well.

    `unkept` are the tenants of which no content is kept (`*`: all).
    """

    window: int = limits.WINDOW_MESSAGES
    language: str = "en"
    durability: Durability = "stored"
    shared: bool = False
    unkept: frozenset[str] = frozenset()


class Applied(msgspec.Struct, frozen=True, gc=False):
    """What an operation comes to: the next record, what a store must write for it, and what to answer."""

    record: UserRecord
    changes: tuple[Change, ...]
    outcome: Any


def merge_patch(target: Any, patch: Any) -> Any:
    """JSON Merge Patch (RFC 7396): objects merge deeply, null removes a member, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def etag(epoch: int, version: int) -> str:
    """The strong entity tag (RFC 9110, section 8.8.3) of a state."""
    return f'"{epoch}-{version}"'


class _Body(msgspec.Struct, gc=False):
    """A message as the JSON object that callers read, but for what the caller gave beside."""

    seq: int
    id: str
    role: str
    content: str
    timestamp: str


def loaded(record: UserRecord, rules: Rules) -> UserRecord:
    """A record as a store hands it over, with its window trimmed and measured."""
    early, start, late, _ = moved(record, (), rules.window)
    window = early[start:] + late
    return msgspec.structs.replace(record, early=window, start=0, late=(), window_bytes=window_bytes(window))


def apply(record: UserRecord, operation: Operation, rules: Rules) -> Applied:
    """Apply one operation; raises what the caller is to be told (NotFound, PreconditionFailed, TooLarge)."""
    applied = _RULES[type(operation)](record, operation, rules)
    receipt = operation.receipt
    if receipt is not None:
        answer = b"" if applied.outcome is None else _encode(applied.outcome)
        kept = StoredReceipt(receipt.key, receipt.fingerprint, operation.at_ms, answer)
        applied = msgspec.structs.replace(applied, changes=(*applied.changes, ReceiptKept(kept)))
    return applied


def _next(record: UserRecord) -> Version:
    """The version after one more commit."""
    version = record.version
    return Version(version.epoch, version.revision + 1)


def _changed(record: UserRecord, **fields: Any) -> UserRecord:
    return msgspec.structs.replace(record, version=_next(record), **fields)


def _append(record: UserRecord, op: AppendMessages, rules: Rules) -> Applied:
    seq = record.seq
    profile = record.profile
    latest_ms = profile.updated_ms if profile is not None else 0
    added: list[StoredMessage] = []
    added_bytes = 0
    unproven: list[str] = []
    outcomes: list[Appended] = []
    touched: dict[str, int] = {}
    seen: dict[str, int] | None = None
    timestamp_ms: int | None = None
    timestamp = ""
    for message in op.messages:
        message_id = message.id
        if message_id is not None:
            if seen is None:
                seen = {m.id: m.seq for m in record.window}
                seen.update(op.known)
            there = seen.get(message_id)
            if there is not None:
                outcomes.append(
                    Appended(
                        message_id=message_id,
                        seq=there,
                        durability=rules.durability,
                        duplicate=True,
                        content_kept=bool(message.content),
                    )
                )
                continue
            if record.seq - record.trimmed > len(record.window):
                unproven.append(message_id)
        seq += 1
        given = message_id is not None
        if message_id is None:
            here = made_id(seq, message.random)
            message_id = message.made or here
            given = message_id != here  # told for another place: only as a given id is it found again
        at_ms = message.at_ms if message.at_ms is not None else op.at_ms
        if at_ms > latest_ms:
            latest_ms = at_ms
        elif message.at_ms is None:
            at_ms = latest_ms  # time never runs backwards
        if at_ms != timestamp_ms:
            timestamp_ms, timestamp = at_ms, rfc3339(at_ms)
        fields = message.fields
        body: Any = _Body(seq, message_id, message.role, message.content, timestamp)
        calls: tuple[str, ...] = ()
        answers: str | None = None
        if fields:
            body = {**msgspec.structs.asdict(body), **fields}
            if fields.get("toolCalls"):
                calls = tuple(call["id"] for call in fields["toolCalls"])
            answers = fields.get("toolCallId")
            session_id = fields.get("sessionId")
            if session_id is not None and message.at_ms is None:
                touched[session_id] = at_ms
        encoded = _encode(body)
        added.append(StoredMessage(seq, message_id, message.role, at_ms, encoded, calls, answers, given))
        added_bytes += len(encoded) + MESSAGE_OVERHEAD_BYTES
        if seen is not None:
            seen[message_id] = seq
        if message.content:
            outcomes.append(Appended(message_id=message_id, seq=seq, durability=rules.durability))
        else:
            outcomes.append(
                Appended(message_id=message_id, seq=seq, durability=rules.durability, content_kept=False)
            )
    if not added:
        return Applied(record, (), outcomes)
    new = tuple(added)
    changes: list[Change] = [MessagesAdded(new, tuple(unproven))]
    if profile is None:
        profile = StoredProfile(_default_preferences(rules), latest_ms, latest_ms)
        changes.insert(0, ProfileSet(profile))
    else:
        profile = StoredProfile(profile.preferences, profile.created_ms, latest_ms)
    sessions = record.sessions
    for session_id, active_ms in touched.items():
        session = sessions.get(session_id)
        if session is not None and session.ended_ms is None and active_ms > session.active_ms:
            if sessions is record.sessions:
                sessions = dict(sessions)
            sessions[session_id] = msgspec.structs.replace(session, active_ms=active_ms)
            changes.append(SessionTouched(session_id, active_ms))
    early, start, late, fallen_bytes = moved(record, new, rules.window)
    return Applied(
        UserRecord(
            _next(record),
            seq,
            record.state,
            profile,
            early,
            sessions,
            record.sessions_complete,
            record.window_bytes + added_bytes - fallen_bytes,
            record.applied,
            record.partial,
            start=start,
            late=late,
            trimmed=record.trimmed,
        ),
        tuple(changes),
        outcomes,
    )


def _default_preferences(rules: Rules) -> bytes:
    return _encode(default_preferences(rules))


def default_preferences(rules: Rules) -> dict[str, Any]:
    """The preferences of a user who has not chosen any."""
    return {"language": rules.language, "voiceSpeed": 1.0}


def _save_state(record: UserRecord, op: SaveState, rules: Rules) -> Applied:
    state = record.state
    if op.if_absent and state is not None:
        raise PreconditionFailed("There is a state already, and the request demands that there is none.")
    if record.partial and (op.if_absent or op.if_match is not None):
        raise StoreUnavailable("The store cannot be asked which state is current; try again soon.")
    if op.if_match is not None:
        current = etag(record.version.epoch, state.version) if state is not None else None
        if current is None or ("*" not in op.if_match and current not in op.if_match):
            raise PreconditionFailed(etag=current)
    if not op.replace and state is not None and state.body is UNREADABLE:
        raise Unreadable(
            "The user's state is not what was stored there: replace it as a whole, or restore it."
        )
    patch = {name: value for name, value in op.patch.items() if name not in STATE_FIELDS}
    if op.replace or state is None:
        merged = patch if op.replace else merge_patch({}, patch)
    else:
        merged = merge_patch(_decode(state.body), patch)
    body = _bounded(_encode(merged), limits.STATE_BYTES_MAX, "A user's state")
    updated_ms = max(op.at_ms, state.updated_ms if state is not None else 0)
    saved = StoredState(body, updated_ms, state.version + 1 if state is not None else 1)
    outcome = StateSaved(
        etag=etag(record.version.epoch, saved.version),
        version=saved.version,
        durability=rules.durability,
        content_kept=not op.reduced,
    )
    return Applied(_changed(record, state=saved), (StateSet(saved),), outcome)


def _save_preferences(record: UserRecord, op: SavePreferences, rules: Rules) -> Applied:
    profile = record.profile
    if profile is None:
        current = default_preferences(rules)
    elif (
        profile.preferences is UNREADABLE
    ):  # whether the user wished so is not known: see content.wishes_none
        current = {**default_preferences(rules), KEPT: False}
    else:
        current = _decode(profile.preferences)
    body = _bounded(
        _encode(merge_patch(current, op.patch)), limits.PREFERENCES_BYTES_MAX, "A user's preferences"
    )
    updated_ms = max(op.at_ms, profile.updated_ms if profile is not None else 0)
    saved = StoredProfile(body, profile.created_ms if profile is not None else updated_ms, updated_ms)
    return Applied(_changed(record, profile=saved), (ProfileSet(saved),), True)


def _keep_content(record: UserRecord, op: KeepContent, rules: Rules) -> Applied:
    if op.kept != wishes_none(record) and not op.patch:
        return Applied(record, (), True)
    patch = {**op.patch, KEPT: None if op.kept else False}
    return _save_preferences(record, SavePreferences(at_ms=op.at_ms, patch=patch), rules)


def _session(record: UserRecord, session_id: str, prior: StoredSession | None) -> StoredSession | None:
    return record.sessions.get(session_id, prior)


def _with_session(record: UserRecord, session: StoredSession) -> UserRecord:
    sessions = {**record.sessions, session.id: session}
    complete = record.sessions_complete
    while len(sessions) > limits.SESSIONS_IN_RECORD_MAX:
        oldest = min(sessions.values(), key=lambda s: (s.ended_ms is None, s.active_ms))
        complete = complete and oldest.ended_ms is not None
        del sessions[oldest.id]
    return _changed(record, sessions=sessions, sessions_complete=complete)


def _save_session(record: UserRecord, op: SaveSession, rules: Rules) -> Applied:
    session = _session(record, op.session_id, op.prior)
    fields = {name: value for name, value in op.fields.items() if name not in SESSION_FIELDS}
    known = session is not None and session.body is not UNREADABLE
    merged = merge_patch(_decode(session.body) if session is not None and known else {}, fields)
    merged.setdefault("language", rules.language)
    body = _bounded(_encode(merged), limits.SESSION_BYTES_MAX, "A session")
    created_ms = op.at_ms if session is None else session.created_ms
    active_ms = op.at_ms if session is None else max(op.at_ms, session.active_ms)
    user_id = op.user_id if session is None else session.user_id
    saved = StoredSession(op.session_id, user_id, body, created_ms, active_ms)
    return Applied(_with_session(record, saved), (SessionSet(saved),), True)


def _end_session(record: UserRecord, op: EndSession, rules: Rules) -> Applied:
    session = _session(record, op.session_id, op.prior)
    if session is None:
        raise NotFound(f"There is no session {op.session_id!r}.")
    if session.ended_ms is not None:
        return Applied(record, (), True)
    ended = msgspec.structs.replace(session, ended_ms=max(op.at_ms, session.active_ms))
    return Applied(_with_session(record, ended), (SessionSet(ended),), True)


def _remove_session(record: UserRecord, op: RemoveSession, rules: Rules) -> Applied:
    if _session(record, op.session_id, op.prior) is None:
        raise NotFound(f"There is no session {op.session_id!r}.")
    sessions = {name: session for name, session in record.sessions.items() if name != op.session_id}
    removed = _changed(record, sessions=sessions)
    return Applied(removed, (SessionRemoved(op.session_id),), None)


def _record_interruption(record: UserRecord, op: RecordInterruption, rules: Rules) -> Applied:
    return Applied(_changed(record), (InterruptionAdded(op.interruption),), True)


def _forget_interruptions(record: UserRecord, op: ForgetInterruptions, rules: Rules) -> Applied:
    return Applied(_changed(record), (InterruptionsRemoved(op.session_id),), None)


def _retain(record: UserRecord, op: Retain, rules: Rules) -> Applied:
    if record.partial or record.version.epoch != op.epoch:
        return Applied(record, (), None)  # not what the rules were looked up for
    changes: list[Change] = []
    fields: dict[str, Any] = {}
    before_seq = min(op.before_seq, _due_until(record, op))
    if before_seq - 1 > record.trimmed:
        changes.append(Trimmed(before_seq))
        kept = tuple([message for message in record.window if message.seq >= before_seq])
        early, start, late, _ = moved(
            msgspec.structs.replace(record, early=kept, start=0, late=()), (), rules.window
        )
        window = early[start:] + late
        fields |= {"early": window, "start": 0, "late": (), "window_bytes": window_bytes(window)}
        fields["trimmed"] = before_seq - 1
    if op.interruptions_before_ms:
        changes.append(InterruptionsTrimmed(op.interruptions_before_ms))
    sessions = record.sessions
    for session_id, active_ms in op.sessions:
        there = sessions.get(session_id)
        if there is None or there.active_ms == active_ms:
            changes.append(SessionRemoved(session_id))
            sessions = {name: session for name, session in sessions.items() if name != session_id}
    if not changes:
        return Applied(record, (), None)
    return Applied(_changed(record, sessions=sessions, **fields), tuple(changes), None)


def _due_until(record: UserRecord, op: Retain) -> int:
    """The first seq that stays by the rules themselves, as far as the record tells."""
    end = record.seq + 1
    if not (op.keep or op.said_before_ms):
        return end
    due = end - op.keep if op.keep else 0
    if op.said_before_ms:
        young = (message.seq for message in record.window if message.at_ms >= op.said_before_ms)
        due = max(due, next(young, end))
    return due


def _erase(record: UserRecord, op: EraseUser, rules: Rules) -> Applied:
    if op.only is not None and op.only != record.version:
        return Applied(record, (), None)  # something was written since: the user is not idle
    if record.version.revision == 0 and not (record.partial or rules.shared):
        return Applied(record, (), None)  # nothing is there; where others write as well, that is not known
    epoch = record.version.epoch
    after = Version(epoch + 1 if epoch >= 0 else epoch, 0)  # less than 0: the store could not be asked
    return Applied(UserRecord(after), (Erased(op.at_ms),), None)


def _bounded(body: bytes, bytes_max: int, what: str) -> bytes:
    if len(body) > bytes_max:
        raise TooLarge(f"{what} may take {bytes_max} bytes at most; this one would take {len(body)}.")
    return body


_Rule = Callable[[UserRecord, Any, Rules], Applied]

_RULES: dict[type[Operation], _Rule] = {
    AppendMessages: _append,
    SaveState: _save_state,
    SavePreferences: _save_preferences,
    KeepContent: _keep_content,
    SaveSession: _save_session,
    EndSession: _end_session,
    RemoveSession: _remove_session,
    RecordInterruption: _record_interruption,
    ForgetInterruptions: _forget_interruptions,
    Retain: _retain,
    EraseUser: _erase,
}
