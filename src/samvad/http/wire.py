"""The bodies as they go over the wire, for the OpenAPI document: field by field what is asked and answered.

Handlers read and write JSON themselves, because messages and states are kept as encoded bytes. The tests
hold every answer against these types, so that the two cannot drift apart. A request type is as strict as
JSON Schema can say: bounds in bytes of UTF-8 are given in characters here, and told in the description.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from samvad import limits
from samvad.types import Durability, HeardSource, InterruptionType, Role

SCHEMAS = "#/components/schemas/"

# White space as Python's str.strip() and str.isspace() see it; control characters stand beside it in ids.
_SPACE = "\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_CONTROL = r"\u0000-\u001f\u007f-\u009f"
_SPACE_CONTROL = r"\u0009-\u000d\u001c-\u001f\u0085"
ID_PATTERN = f"^[^/{_CONTROL}{_SPACE}]([^/{_CONTROL}]*[^/{_CONTROL}{_SPACE}])?$"
NOT_IDS = (*sorted(limits.RESERVED_IDS), ".", "..")

ID_SCHEMA: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": limits.ID_BYTES_MAX,
    "pattern": ID_PATTERN,
    "not": {"enum": list(NOT_IDS)},
}
Id = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.ID_BYTES_MAX,
        pattern=ID_PATTERN,
        description=f"1 to {limits.ID_BYTES_MAX} bytes of UTF-8 without control characters, '/' or white space "
        "at its ends; not '.', '..' or a reserved word.",
        extra_json_schema={"not": {"enum": list(NOT_IDS)}},
    ),
]
Yes = Annotated[bool, Meta(extra_json_schema={"const": True})]
No = Annotated[bool, Meta(extra_json_schema={"const": False})]
Count = Annotated[int, Meta(ge=0)]
Seq = Annotated[int, Meta(ge=1, description="The place in the user's history: from 1, without a gap.")]
Timestamp = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$",
        description="RFC 3339, UTC, with milliseconds; set by the server.",
        examples=["2025-01-10T17:00:00.000Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
Durable = Annotated[Durability, Meta(description="How far the write has got when this answer is sent.")]
Degraded = Annotated[
    bool, Meta(description="True while the store is down: the answer is what this process knows.")
]
Content = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.CONTENT_BYTES_MAX,
        description=f"At most {limits.CONTENT_BYTES_MAX} bytes of UTF-8.",
    ),
]
ContentSeen = Annotated[
    str, Meta(max_length=limits.CONTENT_BYTES_MAX, description="What was said; empty where it is not kept.")
]
NonEmpty = Annotated[str, Meta(min_length=1)]
Text = Annotated[
    str,
    Meta(
        max_length=limits.INTERRUPTION_TEXT_BYTES_MAX,
        description=f"At most {limits.INTERRUPTION_TEXT_BYTES_MAX} bytes of UTF-8.",
    ),
]
SpokenText = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.INTERRUPTION_TEXT_BYTES_MAX,
        pattern=f"[^{_SPACE_CONTROL}{_SPACE}]",
        description="More than white space.",
    ),
]
SpeechMs = Annotated[float, Meta(ge=0, le=86_400_000, description="Milliseconds of audio.")]
Progress = Annotated[float, Meta(ge=0, le=1, description="The heard share, 0 to 1.")]


class Wire(Struct, rename="camel"):
    """A body, or a part of one."""


# --- what is asked -----------------------------------------------------------------------------------------


class ToolCallGiven(Wire):
    """A call of a tool that an assistant message makes."""

    id: NonEmpty
    name: NonEmpty
    arguments: Any | UnsetType = UNSET


class MessageGiven(Wire, tag_field="role", kw_only=True):
    """Fields that are not named here are kept; `seq` and `timestamp` are the server's."""

    content: Content
    id: Id | UnsetType | None = UNSET
    session_id: Id | UnsetType | None = UNSET
    name: str | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType | None = UNSET


class UserMessageGiven(MessageGiven, tag="user", kw_only=True):
    """What the user said."""

    tool_calls: UnsetType | None = UNSET
    tool_call_id: UnsetType | None = UNSET


class SystemMessageGiven(UserMessageGiven, tag="system", kw_only=True):
    """An instruction to the model."""


class AssistantMessageGiven(MessageGiven, tag="assistant", kw_only=True):
    """What the assistant said, and the tools that it calls."""

    tool_calls: list[ToolCallGiven] | UnsetType | None = UNSET
    tool_call_id: UnsetType | None = UNSET


class ToolMessageGiven(MessageGiven, tag="tool", kw_only=True):
    """What a tool answered, and to which call."""

    tool_calls: UnsetType | None = UNSET
    tool_call_id: NonEmpty | UnsetType | None = UNSET


AnyMessageGiven = UserMessageGiven | SystemMessageGiven | AssistantMessageGiven | ToolMessageGiven


class MessagesGiven(Wire):
    """Up to 100 messages, appended all or none."""

    messages: Annotated[list[AnyMessageGiven], Meta(min_length=1, max_length=limits.MESSAGES_PER_APPEND_MAX)]


class PreferencesGiven(Wire, forbid_unknown_fields=True):
    """Preferences to merge (RFC 7396): null removes a member."""

    preferences: dict[str, Any]


class PrivacyGiven(Wire, forbid_unknown_fields=True):
    """`none`: keep lengths and times only. A person may ask for that; `keep` takes a program."""

    content: Literal["keep", "none"]


class SessionGiven(Wire):
    """A session to create or to merge into. Fields that are not named here are kept."""

    session_id: Id
    user_id: Id
    language: str | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType | None = UNSET


class RefreshGiven(Wire):
    """Whose data is to be erased, and whether a signed receipt is wanted."""

    user_id: Id
    receipt: bool | UnsetType = UNSET


class TokenGiven(Wire, forbid_unknown_fields=True):
    """For whom a token is to be minted, and for how long."""

    user_id: Id
    session_id: (
        Annotated[Id, Meta(description="The token reaches this session alone.")] | UnsetType | None
    ) = UNSET
    ttl_seconds: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=limits.USER_TOKEN_TTL_S_MAX,
                description=f"How long it is good; {limits.USER_TOKEN_TTL_S} where it is left out.",
            ),
        ]
        | UnsetType
        | None
    ) = UNSET


class InterruptionGiven(Wire):
    """Where the assistant was cut off."""

    type: InterruptionType
    full_text: SpokenText
    heard_text: Text
    turn_id: Annotated[str, Meta(min_length=1, max_length=limits.ID_BYTES_MAX)] | UnsetType | None = UNSET
    progress: Progress | UnsetType | None = UNSET
    played_ms: SpeechMs | UnsetType | None = UNSET
    generated_ms: SpeechMs | UnsetType | None = UNSET
    user_utterance: Text | UnsetType | None = UNSET
    language: Annotated[str, Meta(max_length=64)] | UnsetType | None = UNSET
    topic: Text | UnsetType | None = UNSET
    heard_source: HeardSource | UnsetType | None = UNSET


class AppendOperation(Wire, tag_field="op", tag="append"):
    """Append one message (its fields stand beside `userId`), or up to 100 in `messages`."""

    user_id: Id
    role: Role | UnsetType = UNSET
    content: Content | UnsetType = UNSET
    messages: Annotated[list[AnyMessageGiven], Meta(min_length=1, max_length=100)] | UnsetType = UNSET


class StateOperation(Wire, tag_field="op", tag="state"):
    """Merge into a user's state (RFC 7396)."""

    user_id: Id
    state: dict[str, Any]


class ReplaceStateOperation(StateOperation, tag="replaceState"):
    """Replace a user's state."""


class PreferencesOperation(Wire, tag_field="op", tag="preferences"):
    """Merge a user's preferences."""

    user_id: Id
    preferences: dict[str, Any]


class SessionOperation(SessionGiven, tag_field="op", tag="session"):
    """Create a session or merge into it."""


class EndSessionOperation(Wire, tag_field="op", tag="endSession"):
    """End a session."""

    session_id: Id


AnyOperation = (
    AppendOperation
    | StateOperation
    | ReplaceStateOperation
    | PreferencesOperation
    | SessionOperation
    | EndSessionOperation
)


class BatchGiven(Wire):
    """Operations over any users. One that is malformed fails by itself; the others are run."""

    operations: Annotated[
        list[AnyOperation],
        Meta(min_length=1, max_length=limits.OPERATIONS_PER_BATCH_MAX),
    ]
