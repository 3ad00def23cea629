"""The records that callers see. Field names are camelCase on the wire and snake_case here.

Records keep fields they do not know in `extra`, so that nothing a caller saved is dropped.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

Role = Literal["user", "assistant", "system", "tool"]
ROLES: frozenset[str] = frozenset({"user", "assistant", "system", "tool"})

Durability = Literal["stored", "journaled", "memory"]

InterruptionType = Literal[
    "CLARIFICATION", "CORRECTION", "URGENT", "BARGE_IN", "CUT_OFF", "BACKCHANNEL", "NOISE"
]
InterruptionStatus = Literal["pending", "resumed", "abandoned", "expired", "false_alarm"]
HeardSource = Literal["client", "clock", "delivered"]


class Position(NamedTuple):
    """A place in a user's timeline. `epoch` grows when the user is erased, `seq` with each message."""

    epoch: int
    seq: int


Scope = Literal["users", "sessions", "knowledge", "stats", "admin"]
SCOPES: frozenset[str] = frozenset({"users", "sessions", "knowledge", "stats", "admin"})
DEFAULT_TENANT = "default"


class Principal(NamedTuple):
    """Who is asking. `user`: a person, who reaches themself. None: a program, which reaches what its scopes say.

    `session` narrows a person's reach to one session. Scopes of a person count for nothing; `admin` holds all others.
    """

    tenant: str = DEFAULT_TENANT
    user: str | None = None
    scopes: frozenset[str] = frozenset()
    session: str | None = None

    def may(self, scope: str) -> bool:
        """Whether it is a program with this scope."""
        return self.user is None and (scope in self.scopes or "admin" in self.scopes)


def trusted(tenant: str = DEFAULT_TENANT) -> Principal:
    """The principal that may do everything in a tenant: for code that has asked already who is asking."""
    return Principal(tenant, None, SCOPES)


LOCAL = trusted()
"""The trusted local principal: the library, and a server without credentials, act as it."""


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call of a tool that an assistant message makes; `arguments` is any JSON value."""

    id: str
    name: str
    arguments: Any = None


class Message(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True
):
    """One message of a user's history; `timestamp` is RFC 3339 UTC, set by the server.

    Where its content was not kept, `content` is empty, `content_kept` false, and `content_length` (bytes of UTF-8) and
    `content_chars` (code points) say how long it was.
    """

    seq: int
    id: str
    role: str
    content: str
    timestamp: str
    session_id: str | None = None
    name: str | None = None
    metadata: dict[str, Any] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    content_length: int | None = None
    content_chars: int | None = None
    content_kept: bool = True
    extra: dict[str, Any] = {}


class Appended(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What became of one appended message. `duplicate` is true where its id was there already.

    `content_kept` is false where no content is kept of this user: the message stands there without what it says.
    """

    message_id: str
    seq: int
    durability: Durability
    duplicate: bool = False
    content_kept: bool = True


class StateSaved(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What became of a saved state: its new version and entity tag, and how durable it is.

    `content_kept` is false where no content is kept of this user: then only `language` and `activeSessionId` are.
    """

    etag: str
    version: int
    durability: Durability
    content_kept: bool = True


class Privacy(NamedTuple):
    """Whether the content of what a user says is kept (`keep`, `none`), and who decided so."""

    content: Literal["keep", "none"]
    decided_by: Literal["user", "tenant", "default"]


class UserState(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the application keeps about a user. `version` counts its changes from 1; `etag` is for If-Match."""

    user_id: str
    state: dict[str, Any]
    updated_at: str
    is_active: bool
    version: int
    etag: str


class Profile(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A user's window of messages (at most the last 100) and preferences; the times are None if unknown."""

    user_id: str
    conversation_history: list[Message]
    preferences: dict[str, Any]
    history_length: int
    created_at: str | None
    last_updated: str | None
    position: Position


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Messages of a user in the order of `seq`, and whether more follow in the direction asked for.

    `first_seq` is where the history begins: 1, unless retention removed what was in front of it.
    """

    user_id: str
    messages: list[Message]
    has_more: bool
    first_seq: int = 1


class Session(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One session of a user, on one device."""

    id: str
    user_id: str
    language: str
    is_active: bool
    created_at: str
    last_activity: str
    ended_at: str | None = None
    metadata: dict[str, Any] | None = None
    extra: dict[str, Any] = {}


class Interruption(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One moment at which the assistant was cut off (fields: facts of live conversation).

    Times of speech are milliseconds of audio; `at` is RFC 3339 UTC; `progress` is 0.0 to 1.0, the heard share.
    """

    id: str
    session_id: str
    user_id: str
    at: str
    type: InterruptionType
    full_text: str
    heard_text: str
    unheard_text: str
    progress: float
    can_resume: bool
    status: InterruptionStatus = "pending"
    turn_id: str | None = None
    language: str | None = None
    topic: str | None = None
    user_utterance: str | None = None
    played_ms: int | None = None
    generated_ms: int | None = None
    heard_source: HeardSource = "delivered"


class Cleared(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What clearing a user really removed.

    `pending` is true where the store is down: from now on nothing of the user is read, and what it holds is
    removed when it is back; the counts are not known then. `at_ms` is when it was cleared, in milliseconds since 1970
    (0: not known, of an answer that an older version has kept).
    """

    user_state: bool
    user_profile: bool
    sessions: int
    interruptions: int
    messages: int
    pending: bool = False
    at_ms: int = 0


class PrivacySaved(NamedTuple):
    """What holds for a user from now on, and what was removed for that."""

    privacy: Privacy
    cleared: Cleared


class ClearedSession(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What deleting a session really removed."""

    session: bool
    interruptions: int


class SessionStats(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Counts over a tenant: users and sessions touched lately, profiles, recorded interruptions."""

    active_users: int
    active_sessions: int
    total_profiles: int
    total_interruptions: int
