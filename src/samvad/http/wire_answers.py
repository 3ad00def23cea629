"""What is answered over the wire, for the OpenAPI document: every body of a success, and the problem."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from samvad import limits
from samvad.http.wire import (
    SCHEMAS,
    ContentSeen,
    Count,
    Degraded,
    Durable,
    No,
    NonEmpty,
    Progress,
    Seq,
    Timestamp,
    ToolCallGiven,
    Wire,
    Yes,
)
from samvad.types import Durability, HeardSource, InterruptionStatus, InterruptionType, Role

RESULT_SCHEMA = {"anyOf": [{"$ref": SCHEMAS + name} for name in ("OperationDone", "OperationFailed")]}


NotKept = Annotated[
    bool,
    Meta(description="False where no content is kept of this user.", extra_json_schema={"const": False}),
]
Usd = Annotated[float, Meta(ge=0)]


class Answer(Wire):
    """What every success says."""

    success: Yes


class Saved(Answer):
    """What became of a write."""

    message: str
    durability: Durable


class StateSavedAnswer(Saved):
    """The state was saved; its entity tag is in the header `ETag`."""

    user_id: str
    version: Annotated[int, Meta(ge=1)]
    content_kept: NotKept | UnsetType = UNSET


class StateSeen(Wire):
    """What was saved, and what the server says of it."""

    updated_at: Timestamp
    is_active: bool
    version: Annotated[int, Meta(ge=1, description="Counts the changes of the state, from 1.")]


class StateAnswer(Answer):
    """A user's state."""

    user_id: str
    state: StateSeen
    degraded: Degraded | UnsetType = UNSET


class ToolCallSeen(ToolCallGiven):
    """A call of a tool, as it was given."""


class MessageSeen(Wire):
    """A message as it is kept, with every other field that it was given."""

    seq: Seq
    id: str
    role: Role
    content: ContentSeen
    timestamp: Timestamp
    session_id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    tool_calls: list[ToolCallSeen] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET
    content_kept: NotKept | UnsetType = UNSET
    content_length: Annotated[Count, Meta(description="Bytes of UTF-8 that the content had.")] | UnsetType = (
        UNSET
    )
    content_chars: Annotated[Count, Meta(description="Characters that it had.")] | UnsetType = UNSET


class ProfileSeen(Wire):
    """The last messages, oldest first, and the preferences. The times are null for an unknown user."""

    user_id: str
    conversation_history: Annotated[list[MessageSeen], Meta(max_length=limits.WINDOW_MESSAGES_MAX)]
    preferences: dict[str, Any]
    history_length: Annotated[Count, Meta(description="How many messages stand in `conversationHistory`.")]
    total_messages: Annotated[Count, Meta(description="How many messages the user's history has in all.")]
    created_at: Timestamp | None
    last_updated: Timestamp | None


class ProfileAnswer(Answer):
    """A user's profile."""

    user_id: str
    profile: ProfileSeen
    degraded: Degraded | UnsetType = UNSET


class ProfileSavedAnswer(Saved):
    """The preferences were merged; these are all of them now."""

    user_id: str
    preferences: dict[str, Any]


class AppendedSeen(Wire):
    """What became of one message. `duplicate` is true where its id was there already."""

    message_id: str
    seq: Seq
    durability: Durable
    duplicate: Yes | UnsetType = UNSET
    content_kept: NotKept | UnsetType = UNSET


class MessageAppended(Saved):
    """One message was appended."""

    user_id: str
    message_id: str
    seq: Seq
    duplicate: Yes | UnsetType = UNSET
    content_kept: NotKept | UnsetType = UNSET


class MessagesAppended(Saved):
    """Several messages were appended; `seq` is the last one's."""

    user_id: str
    count: Annotated[int, Meta(ge=1, le=limits.MESSAGES_PER_APPEND_MAX)]
    messages: list[AppendedSeen]
    seq: Seq


class HistoryAnswer(Answer):
    """A page of messages, oldest first, and whether more follow in the direction asked for."""

    user_id: str
    messages: Annotated[list[MessageSeen], Meta(max_length=limits.PAGE_MESSAGES_MAX)]
    has_more: bool
    first_seq: Seq
    degraded: Degraded | UnsetType = UNSET


class UserClearedSeen(Wire):
    """What was really removed."""

    user_state: bool
    user_profile: bool
    sessions: Count
    interruptions: Count
    messages: Count


class UserClearedAnswer(Saved):
    """The user's data is erased; `pending` where the store is down and will be purged when it is back."""

    user_id: str
    cleared: UserClearedSeen
    pending: Yes | UnsetType = UNSET
    receipt: dict[str, Any] | UnsetType = UNSET


class PrivacySeen(Wire):
    """Whether the content of what a user says is kept, and who decided so: the user, or what is set of the tenant."""

    content: Literal["keep", "none"]
    decided_by: Literal["user", "tenant", "default"]


class PrivacyAnswer(Answer):
    """Whether a user's content is kept."""

    user_id: str
    privacy: PrivacySeen


class PrivacySavedAnswer(Saved):
    """What holds from now on, and what was erased for that."""

    user_id: str
    privacy: PrivacySeen
    cleared: UserClearedSeen
    pending: Yes | UnsetType = UNSET


class SessionSavedAnswer(Saved):
    """The session was created, or merged into."""

    session_id: str
    user_id: str


class SessionSeen(Wire):
    """A session, with every other field that it was given."""

    id: str
    user_id: str
    language: str
    is_active: Annotated[bool, Meta(description="Open, and not idle for longer than the idle timeout.")]
    created_at: Timestamp
    last_activity: Timestamp
    ended_at: Timestamp | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class SessionAnswer(Answer):
    """A session."""

    session: SessionSeen
    degraded: Degraded | UnsetType = UNSET


class SessionEndedAnswer(Saved):
    """The session has ended."""

    session_id: str


class ActiveSessionsAnswer(Answer):
    """A user's open sessions, newest activity first."""

    user_id: str
    count: Count
    sessions: list[SessionSeen]
    degraded: Degraded | UnsetType = UNSET


class SessionClearedSeen(Wire):
    """What was really removed."""

    session: Yes
    interruptions: Count


class SessionClearedAnswer(Saved):
    """The session is deleted."""

    session_id: str
    cleared: SessionClearedSeen


class StatsSeen(Wire):
    """Active is who has a saved state or an open session touched within the last 30 minutes."""

    active_users: Count
    active_sessions: Count
    total_profiles: Count
    total_interruptions: Count


class StatsAnswer(Answer):
    """Counts over all users."""

    stats: StatsSeen


class BilledSeen(Wire):
    """Operations as the store bills them, since a moment; `usd` without regard to what is free each day."""

    since: Timestamp
    reads: Count
    writes: Count
    deletes: Count
    messages: Count
    usd: Usd


class OnePerMessageSeen(Wire):
    """What the same would have cost with one write for each message, and none for anything else."""

    writes: Count
    usd: Usd
    saved_usd: Annotated[float, Meta(description="Negative where it would have been cheaper.")]


class PricesSeen(Wire):
    """US dollars for 100,000 operations, as they are set."""

    reads: Usd
    writes: Usd
    deletes: Usd


class CostSeen(Wire):
    """What the store bills: of this process, and in total over its restarts on this data directory."""

    engine: str
    billed: bool
    process: BilledSeen
    total: BilledSeen
    one_per_message: OnePerMessageSeen
    prices_per_100000_usd: PricesSeen = msgspec.field(name="pricesPer100000Usd")


class CostAnswer(Answer):
    """What was done in the store, and at what price."""

    cost: CostSeen


class OperationDone(Saved):
    """An operation that succeeded: the answer that its own route would give."""

    user_id: str | UnsetType = UNSET
    session_id: str | UnsetType = UNSET
    etag: str | UnsetType = UNSET


class Problem(Wire):
    """An error (RFC 9457), with the members `success`, `error` and `code` that older readers look for."""

    success: No
    error: str
    code: Annotated[str, Meta(description="What to switch on; the texts may change.", pattern="^[a-z_]+$")]
    status: Annotated[int, Meta(ge=400, le=599)]
    type: Annotated[str, Meta(extra_json_schema={"format": "uri"})]
    title: str
    detail: str
    request_id: str


class OperationFailed(Wire):
    """An operation that failed: the members of a problem."""

    success: No
    error: str
    code: str
    status: Annotated[int, Meta(ge=400, le=599)]
    type: str
    title: str
    detail: str


class BatchAnswer(Wire):
    """A result for each operation, in the order given; `success` is true where all of them succeeded."""

    success: bool
    count: Annotated[int, Meta(ge=1, le=limits.OPERATIONS_PER_BATCH_MAX)]
    failed: Count
    results: Annotated[
        list[Any],
        Meta(extra_json_schema={"items": RESULT_SCHEMA}),
    ]


class InterruptionSeen(Wire):
    """One moment at which the assistant was cut off."""

    id: str
    session_id: str
    user_id: str
    at: Timestamp
    type: InterruptionType
    full_text: str
    heard_text: str
    unheard_text: str
    progress: Progress
    can_resume: bool
    status: InterruptionStatus
    turn_id: str | None
    language: str | None
    topic: str | None
    user_utterance: str | None
    played_ms: Count | None
    generated_ms: Count | None
    heard_source: HeardSource


class InterruptionsAnswer(Answer):
    """A session's interruptions, newest first."""

    session_id: str
    interruptions: Annotated[list[InterruptionSeen], Meta(max_length=limits.INTERRUPTIONS_PER_SESSION_MAX)]


class InterruptionAnswer(Answer):
    """The interruption as it is kept; `durability` is `memory` unless interruptions are recorded."""

    interruption: InterruptionSeen
    durability: Durable


class InterruptionResumedAnswer(InterruptionAnswer):
    """What to go on with, and the words to begin with."""

    session_id: str
    unheard_text: NonEmpty
    resume_phrase: NonEmpty


class InterruptionsClearedAnswer(Answer):
    """The session's interruptions are forgotten."""

    session_id: str
    cleared: Count
    durability: Durable


class TokenAnswer(Wire):
    """A token, to be sent as `Authorization: Bearer …`. It ends with the key that minted it, at the latest."""

    success: Yes
    token: NonEmpty
    user_id: str
    expires_at: Timestamp
    expires_in_seconds: Count
    session_id: str | UnsetType = UNSET


class HealthAnswer(Wire):
    """The process lives."""

    status: Literal["alive"]
    version: str


class ReadyAnswer(Wire):
    """Whether a write would be acknowledged as durably as promised."""

    status: Literal["ready", "degraded", "unavailable"]
    store: Literal["up", "down"]
    engine: str
    durability: Durability
    operations_waiting: Count
    users_parked: (
        Annotated[int, Meta(ge=1, description="Users of whom the store refuses an operation for ever.")]
        | UnsetType
    ) = UNSET
    fault: str | UnsetType = UNSET
