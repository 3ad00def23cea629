"""What stores keep: a user's record, and the changes that a commit makes to it.

These are the nouns in which `sessions` and `stores` meet. JSON that callers gave is held as encoded
bytes, because it is read far more often than it is changed: a profile of 100 messages is answered by
joining 100 fragments. Times are integers, milliseconds since 1970 UTC.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from samvad import limits
from samvad.clock import rfc3339
from samvad.types import Cleared


class UserKey(NamedTuple):
    """Whose record: every key in every store, cache, lane and index begins with the tenant."""

    tenant: str
    user_id: str


class Version(msgspec.Struct, frozen=True, gc=False, array_like=True, order=True):
    """Which record a change was made against: the life of the user (`epoch`) and the number of commits in it."""

    epoch: int
    revision: int


class StoredMessage(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One message of a user's history. `body` is its whole JSON object as callers read it, `seq` included.

    `given` tells an id that the caller gave from one that was made here (see `made_id`).
    """

    seq: int
    id: str
    role: str
    at_ms: int
    body: bytes
    calls: tuple[str, ...] = ()  # ids of the tool calls that this assistant message makes
    answers: str | None = None  # id of the call that this tool message answers
    given: bool = False


class _Call(msgspec.Struct, gc=False):
    id: str


class _ToolFields(msgspec.Struct, kw_only=True, rename="camel", gc=False):
    id: str
    role: str
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


_tool_fields = msgspec.json.Decoder(_ToolFields)


def stored_message(seq: int, at_ms: int, given: bool, body: bytes) -> StoredMessage:
    """A message from its stored parts; its id, role and tool ids are read from its body."""
    fields = _tool_fields.decode(body)
    calls = tuple([call.id for call in fields.tool_calls]) if fields.tool_calls else ()
    return StoredMessage(seq, fields.id, fields.role, at_ms, body, calls, fields.tool_call_id, given)


UNREADABLE: Final = b'{"unreadable":true}'
"""Stands for a JSON object that is not what was stored, or cannot be opened any more; it is told by its identity."""


def unreadable_message(seq: int, message_id: str, role: str, at_ms: int) -> StoredMessage:
    """A message of which the content cannot be read any more, as callers see it."""
    told = {"seq": seq, "id": message_id, "role": role, "content": "", "timestamp": rfc3339(at_ms)}
    return StoredMessage(seq, message_id, role, at_ms, msgspec.json.encode(told | {"unreadable": True}))


def lost_message(seq: int) -> StoredMessage:
    """What stands in the place of a message of which nothing can be read: rows may be damaged by anybody."""
    return unreadable_message(seq, made_id(max(seq, 1), "0" * 20), "system", 0)


class _Line(_ToolFields, kw_only=True, rename="camel", gc=False):
    timestamp: Annotated[datetime, msgspec.Meta(tz=True)]


_line = msgspec.json.Decoder(_Line)


def line_of_message(message: StoredMessage) -> bytes:
    """A message as one line, its JSON: a blank behind it tells an id that was given though it looks as if made here."""
    return (
        message.body + b" " if message.given and seq_of_made_id(message.id) == message.seq else message.body
    )


def message_of_line(seq: int, line: bytes) -> StoredMessage:
    """The message that `line_of_message` made a line of, and where it stands; a `lost_message` where it is none."""
    try:
        fields = _line.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return lost_message(seq)
    body = line.removesuffix(b" ")
    calls = tuple([call.id for call in fields.tool_calls]) if fields.tool_calls else ()
    at_ms = round(fields.timestamp.timestamp() * 1000)
    given = len(body) < len(line) or seq_of_made_id(fields.id) != seq
    return StoredMessage(seq, fields.id, fields.role, at_ms, body, calls, fields.tool_call_id, given)


_MADE_ID = re.compile(r"m([1-9][0-9]{0,17})-[0-9a-f]{20}")


def made_id(seq: int, random: str) -> str:
    """The id of a message that came without one: its seq, and 20 hexadecimal digits of randomness."""
    return f"m{seq}-{random}"


def seq_of_made_id(message_id: str) -> int | None:
    """Where a message of this id stands, if the id was made here; None if it cannot have been."""
    found = _MADE_ID.fullmatch(message_id)
    return int(found[1]) if found else None


def user_hash(user: UserKey) -> bytes:
    """The name (SHA-256, 32 bytes) under which what is left of an erased user is kept."""
    return hashlib.sha256(f"{user.tenant}\0{user.user_id}".encode()).digest()


class StoredState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What the application keeps about a user: a JSON object, `version` counting its changes from 1."""

    body: bytes
    updated_ms: int
    version: int


class StoredProfile(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A user's preferences (a JSON object) and when they were first and last heard of."""

    preferences: bytes
    created_ms: int
    updated_ms: int


class StoredSession(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One session. `body` is a JSON object of what the caller gave (language, metadata and any other field)."""

    id: str
    user_id: str
    body: bytes
    created_ms: int
    active_ms: int
    ended_ms: int | None = None


class StoredInterruption(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One recorded interruption of a session, as the JSON object that callers read."""

    id: str
    session_id: str
    at_ms: int
    body: bytes


class StoredReceipt(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The first answer to a request with an Idempotency-Key.

    `key` is a SHA-256 over tenant, principal and key; `fingerprint` one over the request and the key. `answer` is
    what was answered, and `user_id` whose data it concerned, so that erasing can find it: then `answer`
    is None. In a change, an empty `answer` asks the store to keep what the commit removed (Removed as JSON).
    """

    key: bytes
    fingerprint: bytes
    at_ms: int
    answer: bytes | None
    user_id: str | None = None

    def is_live(self, now_ms: int) -> bool:
        """Whether the key still stands for its first request."""
        return self.at_ms > now_ms - limits.IDEMPOTENCY_TTL_S * 1000


class Erasure(NamedTuple):
    """The last erasing of a user: when it was asked for, and which replica's commit it was (number -1: not known).

    It tells what belongs to the life that it ended: of the same replica what has a lower number, of others what was
    asked for until then (see `sessions/reapply`).
    """

    at_ms: int = 0
    replica: str = ""
    number: int = -1


class UserRecord(msgspec.Struct, frozen=True, gc=False):
    """All of a user that is held in memory. A new one is made for each change; none is ever altered.

    The last messages are `window`: those in `early` from `start` on, then those in `late`. What came last stands
    apart, so that records share what they have in common: a tuple of a hundred copied for each message, and the
    count of references in each of the hundred touched, would cost more than all else of an append.
    """

    version: Version
    seq: int = 0
    state: StoredState | None = None
    profile: StoredProfile | None = None
    early: tuple[StoredMessage, ...] = ()
    sessions: dict[str, StoredSession] = msgspec.field(default_factory=dict)
    # False where the user has more open sessions than a record holds; then only the store can list them.
    sessions_complete: bool = True
    window_bytes: int = 0
    # The last commit applied of each replica that numbers its commits.
    applied: dict[str, int] = msgspec.field(default_factory=dict)
    # True where the store could not be asked: what is not here may still be there.
    partial: bool = False
    # The erasing that ended the life before this one. Only a record that was just loaded tells it.
    erased: Erasure = Erasure()
    start: int = 0
    late: tuple[StoredMessage, ...] = ()
    # The last seq that was trimmed: the history begins behind it.
    trimmed: int = 0

    @property
    def window(self) -> tuple[StoredMessage, ...]:
        """The last messages, in order."""
        return self.early[self.start :] + self.late


# --- changes: facts, decided by user_log, that a store writes as they are ------------------------------


class MessagesAdded(msgspec.Struct, frozen=True, tag="messages", gc=False):
    """These messages follow the last one; their `seq` are consecutive. The profile's `updated_ms` moves along.

    `unproven` are ids that may stand further back than the window reaches: a store that finds one in
    the user's history refuses the commit (MessageExists).
    """

    messages: tuple[StoredMessage, ...]
    unproven: tuple[str, ...] = ()


class StateSet(msgspec.Struct, frozen=True, tag="state", gc=False):
    """The state is this one now."""

    state: StoredState


class ProfileSet(msgspec.Struct, frozen=True, tag="profile", gc=False):
    """The profile is this one now."""

    profile: StoredProfile


class SessionSet(msgspec.Struct, frozen=True, tag="session", gc=False):
    """The session is this one now. A store refuses it (SessionTaken) if the id is another user's."""

    session: StoredSession


class SessionTouched(msgspec.Struct, frozen=True, tag="session_touched", gc=False):
    """Something was said in this session."""

    session_id: str
    active_ms: int


class SessionRemoved(msgspec.Struct, frozen=True, tag="session_removed", gc=False):
    """The session and its recorded interruptions are gone."""

    session_id: str


class InterruptionAdded(msgspec.Struct, frozen=True, tag="interruption", gc=False):
    """An interruption was recorded. Where the session is not the user's (any more), there is nothing to record."""

    interruption: StoredInterruption


class InterruptionsRemoved(msgspec.Struct, frozen=True, tag="interruptions_removed", gc=False):
    """The recorded interruptions of a session are gone."""

    session_id: str


class Trimmed(msgspec.Struct, frozen=True, tag="trimmed", gc=False):
    """The history begins at `before_seq`: the messages in front of it are gone, and so are their ids.

    No `seq` is used again. Where there is no message yet, the first one will have this `seq`.
    """

    before_seq: int


class InterruptionsTrimmed(msgspec.Struct, frozen=True, tag="interruptions_trimmed", gc=False):
    """The user's recorded interruptions from before this moment are gone, whatever session they are of."""

    before_ms: int


class Erased(msgspec.Struct, frozen=True, tag="erased", gc=False):
    """Everything of the user is gone; what follows belongs to the next epoch."""

    at_ms: int


class ReceiptKept(msgspec.Struct, frozen=True, tag="receipt", gc=False):
    """The answer to this commit's request, kept in the same atomic write so that a retry can never act twice."""

    receipt: StoredReceipt


Change = (
    MessagesAdded
    | StateSet
    | ProfileSet
    | SessionSet
    | SessionTouched
    | SessionRemoved
    | InterruptionAdded
    | InterruptionsRemoved
    | Trimmed
    | InterruptionsTrimmed
    | Erased
    | ReceiptKept
)


class Origin(NamedTuple):
    """Who numbered a commit: a replica, and its count for this user. The same one again is skipped."""

    replica: str
    number: int


ANY_VERSION = Version(-1, -1)
"""Expected by a commit that keeps receipts and was made against no record."""


class Commit(msgspec.Struct, frozen=True, gc=False):
    """All that one atomic write does for one user.

    `steps` is by how much the user's revision grows if anything but receipts changes (or after an `Erased`):
    the number of operations that the commit stands for. `operation` is what was asked for and `record` what it
    comes to, where a journal may have to apply it again to a newer record; a store does not look at them.
    """

    user: UserKey
    expected: Version
    changes: tuple[Change, ...]
    origin: Origin | None = None
    operation: Any = None
    record: UserRecord | None = None
    steps: int = 1


def only_receipts(commit: Commit) -> bool:
    """Whether a commit keeps receipts and nothing else, made against no record: no version speaks against it."""
    return commit.expected == ANY_VERSION and all(
        isinstance(change, ReceiptKept) for change in commit.changes
    )


class Removed(NamedTuple):
    """How much a commit really removed."""

    state: bool = False
    profile: bool = False
    sessions: int = 0
    messages: int = 0
    interruptions: int = 0


NOTHING_REMOVED = Removed()


def removed_answer(removed: Removed, at_ms: int) -> bytes:
    """The JSON that a receipt keeps of an erasing: the fields of `types.Cleared`."""
    return msgspec.json.encode(cleared(removed, at_ms))


def is_removed_answer(answer: bytes) -> bool:
    """Whether an answer is one that `removed_answer` makes: counts, and nothing that anybody said."""
    try:
        return msgspec.json.encode(msgspec.json.decode(answer, type=Cleared)) == answer
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def cleared(removed: Removed, at_ms: int = 0, *, pending: bool = False) -> Cleared:
    """What a commit removed, and when, as callers see it."""
    return Cleared(
        pending=pending,
        at_ms=at_ms,
        user_state=removed.state,
        user_profile=removed.profile,
        sessions=removed.sessions,
        interruptions=removed.interruptions,
        messages=removed.messages,
    )


class Committed(msgspec.Struct, frozen=True, gc=False):
    """The user's version and last seq after a commit, and what it removed.

    `pending` is true of an erasing that is journaled while the store is down (what it removes is not known yet),
    and of one after which the store could not be cleared of everything: nothing of it is read any more.
    """

    version: Version
    seq: int
    removed: Removed = NOTHING_REMOVED
    pending: bool = False


class Stats(NamedTuple):
    """Counts over a tenant (see CONTRACT section 1, rule on statistics)."""

    active_users: int
    active_sessions: int
    total_profiles: int
    total_interruptions: int
    total_messages: int = 0
    total_users: int = 0
